"""The stand-in for libcuda.so.1, built, loaded and steered from Python.

What it is, and what it proves, is told at the top of libcuda.c. Loading it before pycuda or cuda-bindings makes them
run on it, in this process and until it ends: the loader knows a library by its name, and does not look for another.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("libcuda.c")
FLAGS = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-Wl,-Bsymbolic"]

COPY_IN, COPY_OUT, CALL = 0, 1, 4
"""Kinds of work."""
OUT_OF_MEMORY = 2
ILLEGAL_ADDRESS = 700
LAUNCH_FAILED = 719


def compiler() -> str | None:
    """The C compiler of this machine, or None."""
    return shutil.which("cc") or shutil.which("gcc")


def build(folder: Path, name: str = "libcuda.so.1") -> Path:
    """Compile the stand-in into `folder`, and return the library's path.

    Under another name it takes nobody's place: pycuda and cuda-bindings go on looking for the driver.
    """
    library = folder / name
    command = [compiler() or "cc", *FLAGS, f"-Wl,-soname,{name}", "-o", library, SOURCE, "-ldl", "-lpthread"]
    subprocess.run([*map(str, command)], check=True)
    return library


class Counters(ctypes.Structure):
    """What is alive now, and from `calls` on what happened since the last reset."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("contexts", "allocations", "allocated_bytes", "pinned", "pinned_bytes"),
            *("streams", "events", "graphs", "execs"),
            *("calls", "executed", "launches", "bytes_in", "bytes_out", "bytes_across"),
            *("pageable_copies", "complaints"),
        )
    ]

    @property
    def alive(self) -> dict[str, int]:
        """Everything that somebody has not given back, by name; empty after an orderly close."""
        names = [name for name, _ in self._fields_[:9]]
        return {name: getattr(self, name) for name in names if getattr(self, name)}


class Standing(ctypes.Structure):
    """How often the primary context is retained, how many contexts this thread has, and what ended or was reset."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("retained", "stacked", "endings", "resets")]


class Entry(ctypes.Structure):
    """One line of the journal: a call by its name in the library, or `run …` for work as it is executed."""

    _fields_ = [
        ("order", ctypes.c_uint64),
        ("thread", ctypes.c_uint64),
        ("subject", ctypes.c_uint64),
        ("text", ctypes.c_char_p),
    ]

    @property
    def name(self) -> str:
        return bytes(self.text).decode().removesuffix("_v2")


_NAMES: dict[str, bytes] = {}
"""The journal points to them."""


@dataclass(frozen=True)
class Double:
    """The loaded stand-in; `library` has the driver's own functions as well."""

    library: ctypes.CDLL

    def restart(self) -> None:
        """Be as in a process that has just begun: nothing is alive, and all is forgotten."""
        self.library.double_restart()

    def forget(self) -> None:
        """Forget faults, journal and counts of what happened."""
        self.library.double_forget()

    def reset(self) -> None:
        """Forget faults, settings, journal and counts; what is alive stays alive."""
        self.library.double_reset()

    def counters(self) -> Counters:
        counters = Counters()
        self.library.double_counters(ctypes.byref(counters))
        return counters

    def journal(self) -> list[Entry]:
        """The newest 131,072 entries, oldest first."""
        entries = (Entry * self.library.double_journal(None, 1 << 17))()
        count = self.library.double_journal(entries, len(entries))
        return list(entries[:count])

    def fail(self, pattern: str, result: int, nth: int = 1, *, for_ever: bool = False) -> None:
        """Let the n-th call that fits the pattern fail with the result (a CUresult), and all later ones if for ever.

        The pattern is a shell's and is held against names without a version (`cuMem*Alloc*`); `execute` is each copy,
        fill or host function as it runs, whose failure makes every later call fail. One fault at a time.
        """
        self.library.double_fail(pattern.encode(), nth, result, int(for_ever))

    def failed(self) -> str | None:
        """The call that was made to fail last, since that was ordered."""
        name = self.library.double_failed()
        return name and bytes(name).decode().removesuffix("_v2")

    def foreign(self, name: str, *, needs_context: bool) -> int:
        """Make a call of a library that stands on the driver; its result."""
        known = _NAMES.setdefault(name, name.encode())
        return int(self.library.double_foreign(known, int(needs_context)))

    def leave_out(self, nth: int, kind: int) -> None:
        """Leave all work of a kind out of the n-th graph that is instantiated from now on."""
        self.library.double_leave_out(nth, kind)

    def standing(self) -> Standing:
        standing = Standing()
        self.library.double_standing(ctypes.byref(standing))
        return standing

    def set_attribute(self, attribute: int, value: int) -> None:
        """Answer cuDeviceGetAttribute so: 18 is INTEGRATED, 19 CAN_MAP_HOST_MEMORY."""
        self.library.double_attribute(attribute, value)

    def set_memory(self, size: int) -> None:
        """Device memory in bytes; an integrated device has its page-locked memory there as well."""
        self.library.double_memory(size)

    @property
    def complaint(self) -> str:
        """What the stand-in said last on standard error about how it was used; empty if nothing."""
        return (self.library.double_complaint() or b"").decode()


def load(library: Path) -> Double:
    """Load the stand-in into this process, before anything else loads a libcuda.so.1."""
    loaded = ctypes.CDLL(str(library))
    loaded.double_complaint.restype = ctypes.c_char_p
    loaded.double_journal.restype = ctypes.c_size_t
    loaded.double_journal.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    loaded.double_failed.restype = ctypes.c_char_p
    loaded.double_leave_out.argtypes = [ctypes.c_long, ctypes.c_int]
    loaded.double_foreign.argtypes = [ctypes.c_char_p, ctypes.c_int]
    loaded.double_is_on_device.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
    loaded.double_is_capturing.argtypes = [ctypes.c_uint64]
    loaded.double_fail.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    loaded.double_memory.argtypes = [ctypes.c_size_t]
    return Double(loaded)
