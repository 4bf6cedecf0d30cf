"""The real PyCUDA and the real cuda-bindings, over the stand-in for libcuda: the double that runs what we ship on.

It proves order and ownership, not CUDA. The stand-in is the library that the environment variable EDGE_CNNLSTM_LIBCUDA
names (tests/gpu/driver/README.md); what it and PyCUDA say on standard error are complaints.
"""

# ruff: noqa: N802 - the names are CUDA's

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from edge_cnnlstm.gpu import capture
from edge_cnnlstm.spec import ModelSpec
from tests.gpu.doubles import tensorrt_engine
from tests.gpu.doubles.driver import ANYWHERE, Bytes, CUresult, Refused
from tests.gpu.doubles.handle import LIBRARY, UNKNOWN, prelude
from tests.gpu.driver import double

INTEGRATED = 18
NO_DEVICE = 100
KINDS = {"up": double.COPY_IN, "run": double.CALL, "down": double.COPY_OUT}
STAND_IN, CLEAN_UP, LEAK = "libcuda stand-in: ", "PyCUDA WARNING: ", "could not be cleaned up"


@cache
def loaded() -> double.Double:
    return double.load(Path(os.environ[LIBRARY]))


class Ground:
    """What the double of an engine stands on; a run is a host function, in Python."""

    def __init__(self) -> None:
        self.execution_contexts = 0
        self._double = loaded()
        self._runs: dict[int, Callable[[], None]] = {}
        self._entry = ctypes.CFUNCTYPE(None, ctypes.c_uint64)(self._call)

    @property
    def lives(self) -> int:
        return int(self._double.standing().endings)

    @property
    def was_reset(self) -> bool:
        return bool(self._double.standing().resets)

    @contextmanager
    def foreign(self, name: str) -> Iterator[None]:
        self._check(self._double.foreign(name, needs_context=name not in ANYWHERE))
        yield

    def launch(self, handle: int, run: Callable[[], None]) -> None:
        self._runs[id(run)] = run
        arguments = ctypes.c_uint64(handle), self._entry, ctypes.c_uint64(id(run))
        self._check(self._double.library.cuLaunchHostFunc(*arguments))

    def is_recording(self, handle: int) -> bool:
        return bool(self._double.library.double_is_capturing(handle))

    def cuStreamSynchronize(self, handle: int) -> None:
        self._check(self._double.library.cuStreamSynchronize(ctypes.c_uint64(handle)))

    def on_device(self, address: int, nbytes: int) -> Bytes:
        if not self._double.library.double_is_on_device(address, nbytes):
            raise Refused(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
        return np.frombuffer(memoryview((ctypes.c_uint8 * nbytes).from_address(address)), np.uint8)

    def complain(self, words: str) -> None:
        say(f"{STAND_IN}{words}")

    def _call(self, key: int) -> None:
        try:
            self._runs[key]()
        except Refused as refusal:
            self._double.library.double_break(int(refusal.result))

    def _check(self, result: int) -> None:
        if result:
            raise Refused(CUresult(result))


class RealDouble:
    prelude = prelude(__name__, "RealDouble")

    def __init__(self, heard: Callable[[], bytes] = bytes) -> None:
        """Take for complaints what was heard."""
        self._double = loaded()  # before PyCUDA looks for a libcuda
        self._heard = heard
        self._from = 0
        self._put: Callable[[str, Any], None] = sys.modules.__setitem__

    def install(self, put: Callable[[str, Any], None]) -> None:
        """Let the stand-in be as nobody had used it."""
        import pycuda.driver

        self._put = put
        self._pycuda = pycuda.driver
        self._double.forget()
        if self.pushed():  # by a test that failed
            with suppress(self._pycuda.Error):
                self._pycuda.Context.pop()
        self._double.restart()
        self._ground = Ground()

    def engine(
        self, onnx: bytes, spec: ModelSpec, *, strays: float = 0.0, synchronizes: bool = False
    ) -> Callable[[], Any]:
        return lambda: tensorrt_engine.Engine(self._ground, onnx, spec, strays=strays, synchronizes=synchronizes)

    def calls(self) -> list[str]:
        names = [entry.name for entry in self._double.journal()]
        return [name for name in names if not name.startswith("run ") and name != "cuLaunchHostFunc"]

    def forget(self) -> None:
        self._double.forget()
        self._from = len(self._heard())

    def moved(self) -> dict[str, int]:
        counted = self._double.counters()
        moved = {"up": counted.bytes_in, "down": counted.bytes_out, "across": counted.bytes_across}
        return {way: nbytes for way, nbytes in moved.items() if nbytes}

    def alive(self) -> dict[str, int]:
        counted = self._double.counters().alive
        kinds = ("allocations", "pinned", "streams", "events", "graphs", "execs")
        alive = {kind.removesuffix("s"): counted[kind] for kind in kinds if kind in counted}
        contexts = self._ground.execution_contexts
        return alive | ({"execution context": contexts} if contexts else {})

    def retained(self) -> int:
        return int(self._double.standing().retained)

    def pushed(self) -> int:
        return int(self._pycuda.Context.get_current() is not None)

    def current(self) -> int:
        return int(self._double.standing().stacked)

    def complaints(self) -> list[str]:
        lines = self._heard()[self._from :].decode().splitlines()
        found = [f"misuse: {line.removeprefix(STAND_IN)}" for line in lines if line.startswith(STAND_IN)]
        follows = [line for warning, line in itertools.pairwise(lines) if warning.startswith(CLEAN_UP)]
        found += [f"clean-up: {line}" for line in follows]
        found += [f"leak: {line}" for line in lines if line.endswith(LEAK)]
        if pageable := self._double.counters().pageable_copies:
            found.append(f"misuse: {pageable} copies of memory that is not page-locked")
        return found

    def fail(self, pattern: str = "*", result: int = UNKNOWN, nth: int = 1, *, for_ever: bool = False) -> None:
        self._double.fail(pattern, result, nth, for_ever=for_ever)

    def failed(self) -> str | None:
        return self._double.failed()

    def limit_memory(self, nbytes: int) -> None:
        self._double.set_memory(nbytes)

    def integrated(self) -> None:
        self._double.set_attribute(INTEGRATED, 1)

    def spoil_graph(self, nth: int, without: str) -> None:
        self._double.leave_out(nth, KINDS[without])

    def remove(self, what: str) -> None:
        if what == "gpu":
            self._double.fail("cuInit", NO_DEVICE, for_ever=True)
        elif what == "libcuda":
            self._put("pycuda.driver", None)
        elif what == "pycuda":
            self._put("pycuda", None)
            self._put("pycuda.driver", None)
        else:
            self._put("cuda.bindings", None)
            capture.load_bindings.cache_clear()


class Ear:
    """Hears what goes to standard error, and says it aloud afterwards."""

    def __init__(self) -> None:
        self._file = os.memfd_create("heard")
        self._aloud = os.dup(2)
        os.dup2(self._file, 2)
        self._heard: bytes | None = None

    def heard(self) -> bytes:
        if self._heard is not None:
            return self._heard
        return os.pread(self._file, os.fstat(self._file).st_size, 0)

    def close(self) -> None:
        self._heard = self.heard()
        os.dup2(self._aloud, 2)
        os.close(self._aloud)
        os.close(self._file)
        os.write(2, self._heard)


@contextmanager
def listening() -> Iterator[RealDouble]:
    """Yield a double that hears what PyCUDA and the stand-in say, until the block ends."""
    with warnings.catch_warnings(), closing(Ear()) as ear:
        # PyCUDA warns in destructors, where a warning that is an error is lost, or raised by whatever comes next.
        warnings.filterwarnings("always", f".*{LEAK}", UserWarning)
        warnings.showwarning = lambda message, *_: say(str(message))
        yield RealDouble(ear.heard)


def say(line: str) -> None:
    os.write(2, f"{line}\n".encode())
