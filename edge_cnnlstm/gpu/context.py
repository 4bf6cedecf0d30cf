"""The GPU of this process: found, described, its primary context held until the end, and brought back once it died."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading
import weakref
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, DependencyError, DeviceMemoryError, ThreadError

if TYPE_CHECKING:
    from edge_cnnlstm.gpu.cuda import Session

log = logging.getLogger(__name__)

AT_ONCE, AT_EXIT = 0.0, 1.0
_LOOKING = threading.Lock()
"""Two threads that look for the GPU at once must find the same one."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, and the driver that it was found with.

    `integrated` says that it shares its memory with the processor, as every Jetson's does; `maps_host_memory`, that it
    can read and write page-locked host memory in place. `driver` is the CUDA version that the driver speaks.
    `multiprocessors` tell boards of one name apart, and power modes.
    """

    name: str
    compute_capability: str
    driver: str
    memory_bytes: int
    integrated: bool
    maps_host_memory: bool
    multiprocessors: int


def describe() -> Device:
    """Describe the GPU that CUDA shows first; errors as `find` raises them."""
    return find().device


def find() -> Gpu:
    """Return the one GPU of this process.

    Raises DependencyError where there is none, or no PyCUDA; DeviceMemoryError where others left it no memory.
    """
    with _LOOKING:
        return gpu()


class Gpu:
    """The primary context of the GPU that CUDA shows first (CUDA_VISIBLE_DEVICES chooses another).

    The primary one is what TensorRT, ONNX Runtime and torch use; with a context of its own PyCUDA would hand them
    addresses that mean nothing to them (github.com/inducer/pycuda/issues/285). It is retained until the process ends.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.process = os.getpid()
        self.generation = 0
        """Grows with every reset, by which it is told which death was answered."""
        self.patience = AT_ONCE
        """Seconds for which a thread waits to enter a session in which another is."""
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._lent: list[tuple[weakref.ref[NDArray[Any]], Any]] = []
        self._lending = threading.RLock()
        self._remains: list[Any] = []
        self._handle = driver.Device(0)
        self.device = _describe(driver, self._handle)
        # Last: a context that is not detached is not released, whatever becomes of its object.
        self.context: Any = self._handle.retain_primary_context()
        atexit.register(self._at_exit)

    def enlist(self, session: Session) -> int:
        """Close this session when the interpreter exits, before the context goes; return the generation it is of."""
        with self._lock:
            self._sessions.add(session)
            return self.generation

    def lend(self, array: NDArray[Any]) -> None:
        """Keep a page-locked array's memory until `collect` finds that nobody holds the array any more.

        PyCUDA would free it with the array, wherever that dies, and leaks it in a thread that has no context.
        """
        with self._lending:
            self._lent.append((weakref.ref(array), array.base))

    def collect(self) -> None:
        """Free the page-locked memory whose arrays nobody holds; the context is current."""
        with self._lending:
            self._lent = [(array, memory) for array, memory in self._lent if array() is not None]

    def bury(self, remains: Any) -> None:
        """Keep what lies in a dead context until that is detached: PyCUDA would try to free it, and complain."""
        self._remains.append(remains)

    def reset(self, generation: int) -> None:
        """Destroy a context that died, for everyone in this process, and begin a new one; once for each death.

        `generation` is the one that died. Page-locked arrays of that generation are gone with it: whoever still holds
        one must not touch it, and so it is not done while other sessions are open, which would. Raises BackendError
        then, and where a new one cannot be had, DependencyError without `cuda-bindings`: PyCUDA has no such call.
        """
        from edge_cnnlstm.gpu.capture import load_bindings, reset_primary_context

        with self._lock:
            if generation != self.generation:
                return
            load_bindings()  # before anything is given up
            self._check_alone()
            is_current = self.context is not None
            try:
                self._release()
                reset_primary_context(is_current=is_current)
                self.context = self._handle.retain_primary_context()
            except self.driver.Error as error:
                raise BackendError(
                    f"the GPU could not begin a new context: {error}",
                    expected="a GPU that comes back",
                    fix="restart the process",
                ) from error
            self.generation += 1

    def _check_alone(self) -> None:
        if others := sum(not session.closed for session in self._sessions):
            raise BackendError(
                f"a context that died, which {others} more {'engine uses' if others == 1 else 'engines use'}",
                expected="one engine, in a process that is to go on after this",
                fix="restart the process",
            )

    def _release(self) -> None:
        """Give the context up; PyCUDA then leaves alone what was made in it."""
        if self.context is None:
            return
        context, self.context = self.context, None
        # PyCUDA releases only what is current, or what this very thread retained.
        with contextlib.suppress(self.driver.Error):
            context.push()
        context.detach()
        self._remains.clear()
        with self._lending:
            self._lent.clear()

    def _at_exit(self) -> None:
        if os.getpid() != self.process:
            return  # a child of a fork holds nothing on the GPU
        # A daemon thread that is inside PyCUDA when the interpreter ends takes the process with it.
        self.patience = AT_EXIT
        try:
            for session in list(self._sessions):
                session.close()
            # The context takes page-locked arrays with it, into which a daemon thread may be writing.
            if not any(thread.daemon for thread in threading.enumerate()):
                self._release()
        except ThreadError:
            pass  # it is stuck inside: the system cleans up after both
        except (BackendError, self.driver.Error) as error:
            log.warning("the GPU was not left in order: %s", error)


@cache
def gpu() -> Gpu:
    """Make what `find` returns, for one thread at a time."""
    try:
        import pycuda.driver as driver
    except ImportError as error:
        raise DependencyError(
            f"cannot import PyCUDA: {error}",
            expected="PyCUDA, compiled against the CUDA of this machine, and NVIDIA's driver (libcuda.so.1)",
            fix="on a machine with an NVIDIA GPU: PATH=/usr/local/cuda/bin:$PATH pip install "
            "'edge-cnnlstm[tensorrt-jetson]'; elsewhere: use the onnxruntime backend",
        ) from error
    try:
        driver.init()
        return Gpu(driver)
    except driver.MemoryError as error:
        raise DeviceMemoryError(
            f"the GPU has too little memory for a context: {error}",
            expected="some hundred MB free",
            fix="close other programs that use the GPU",
        ) from error
    except driver.Error as error:
        raise DependencyError(
            f"CUDA finds no GPU: {error}",
            expected="an NVIDIA GPU that this user may use",
            fix="look at `nvidia-smi`, or on a Jetson at the groups of this user (video, render)",
        ) from error


def refused(doing: str, why: object) -> BackendError:
    """Return the error for what CUDA refuses to do, in its own words."""
    return BackendError(
        f"the GPU could not {doing}: {why}",
        expected="CUDA to do it",
        fix="look at `dmesg`; if this comes again, restart the process",
    )


def _describe(driver: Any, handle: Any) -> Device:
    attribute = driver.device_attribute
    version = driver.get_driver_version()
    major, minor = handle.compute_capability()
    return Device(
        name=handle.name(),
        compute_capability=f"{major}.{minor}",
        driver=f"{version // 1000}.{version % 1000 // 10}",
        memory_bytes=int(handle.total_memory()),
        integrated=bool(handle.get_attribute(attribute.INTEGRATED)),
        maps_host_memory=bool(handle.get_attribute(attribute.CAN_MAP_HOST_MEMORY)),
        multiprocessors=int(handle.get_attribute(attribute.MULTIPROCESSOR_COUNT)),
    )
