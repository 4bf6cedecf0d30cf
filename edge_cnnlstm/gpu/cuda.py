"""All of PyCUDA: the GPU's context, and what one owner holds there. Nothing else in this package knows PyCUDA.

PyCUDA ends the process when a thread ends with a context still current, and leaks what another thread frees. So the
context is current only inside `with session:`, and everything else refuses to run outside of it.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError, DependencyError, DeviceMemoryError, ThreadError

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, which PyCUDA does not name: never wait for what others do on the default stream."""
AT_ONCE, AT_EXIT, FOR_EVER = 0.0, 1.0, -1.0
"""Seconds, as a lock takes them."""
_LOOKING = threading.Lock()
"""Two threads that look for the GPU at once must find the same one."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, and the driver that it was found with.

    `integrated` says that it shares its memory with the processor, as every Jetson's does; `maps_host_memory`, that it
    can read and write page-locked host memory in place. `driver` is the CUDA version that the driver speaks.
    """

    name: str
    compute_capability: str
    driver: str
    memory_bytes: int
    integrated: bool
    maps_host_memory: bool


def describe() -> Device:
    """Describe the GPU that CUDA shows first. Raises DependencyError where there is none, or no PyCUDA."""
    with _LOOKING:
        return gpu().device


class Gpu:
    """The primary context of the GPU that CUDA shows first (CUDA_VISIBLE_DEVICES chooses another).

    The primary one is what TensorRT, ONNX Runtime and torch use; with a context of its own PyCUDA would hand them
    addresses that mean nothing to them (github.com/inducer/pycuda/issues/285). It is retained until the process ends.
    """

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.generation = 0
        """Grows with every reset: what was made before one is gone."""
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

    def bury(self, remains: Any, generation: int) -> None:
        """Keep what lies in a dead context until that is detached: PyCUDA would try to free it, and complain."""
        if generation == self.generation:
            self._remains.append(remains)

    def reset(self, generation: int) -> None:
        """Destroy a context that died, for everyone in this process, and begin a new one; once for each death.

        `generation` is the one that died. Waits until no session is inside. Page-locked arrays of that generation are
        gone with it: whoever still holds one must not touch it. Raises BackendError where a new one cannot be had,
        DependencyError without `cuda-bindings`: PyCUDA has no such call.
        """
        from edge_cnnlstm.gpu.capture import load_bindings, reset_primary_context

        with self._lock:
            if generation != self.generation:
                return
            load_bindings()  # before anything is given up
            with self._nobody_inside():
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

    @contextlib.contextmanager
    def _nobody_inside(self) -> Iterator[None]:
        """Hold every session's door shut: what is inside uses addresses that the next context will give away anew."""
        with contextlib.ExitStack() as doors:
            self.patience = FOR_EVER
            try:
                for session in list(self._sessions):
                    doors.enter_context(session.door)
                yield
            finally:
                self.patience = AT_ONCE

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
    """Return the one GPU of this process.

    Raises DependencyError where there is none, or no PyCUDA; DeviceMemoryError where others left it no memory.
    """
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


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """A piece of the GPU's memory; it is freed with its session."""

    address: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class HostMemory:
    """A page-locked array, which lives as long as anyone holds it, and where the GPU sees it: 0 unless it is mapped."""

    array: NDArray[Any]
    address: int


class Session:
    """What one owner holds on the GPU: a stream, memory, and what `at_close` was told; freed last first by `close`.

    Everything here happens inside `with session:`, which makes the context current in the calling thread, whichever
    that is, for one thread at a time: a second one is refused with ThreadError, and so is a call from outside. Copies
    and clearing are queued on the session's stream, in order. `spin` waits by looking (the fastest, it takes a core
    meanwhile), else the thread sleeps until the GPU interrupts. Raises DeviceMemoryError for memory that the GPU does
    not have, BackendError for everything else that CUDA refuses.
    """

    def __init__(self, *, spin: bool = True) -> None:
        with _LOOKING:
            self._gpu = gpu()
        self._driver = driver = self._gpu.driver
        self.door = threading.Lock()
        """Held by the thread that is inside."""
        self._holder = 0
        self._depth = 0
        self.closed = False
        self._undo = contextlib.ExitStack()
        self._stream: Any = None
        self._done: Any = None
        self._generation = self._gpu.enlist(self)
        waiting = driver.event_flags.DISABLE_TIMING
        if not spin:
            waiting |= driver.event_flags.BLOCKING_SYNC
        with self:
            self._gpu.collect()
            try:
                self._stream = driver.Stream(NON_BLOCKING)
                self._done = driver.Event(waiting)
            except driver.Error as error:
                self._forget()
                raise self._failed("make a stream", error) from error
        self.handle: int = self._stream.handle
        """The stream, as TensorRT and the CUDA driver know it."""

    @property
    def device(self) -> Device:
        """The GPU that this session is on."""
        return self._gpu.device

    def __enter__(self) -> Self:
        if self._holder == threading.get_ident():
            self._depth += 1
            return self
        # A reset holds every door for a moment, and says so before; any other thread behind one is there to stay.
        if not self.door.acquire(blocking=False) and not self.door.acquire(timeout=self._gpu.patience):
            raise self._occupied()
        try:
            self._check_living()
            self._switch(self._gpu.context.push)
        except self._driver.Error as error:
            self.door.release()
            raise self._failed("make its context current", error) from error
        except BaseException:
            self.door.release()
            raise
        self._holder = threading.get_ident()
        return self

    def __exit__(self, *_: object) -> None:
        if self._depth:
            self._depth -= 1
            return
        self._holder = 0
        try:
            self._switch(self._driver.Context.pop)
        except self._driver.Error as error:
            raise self._failed("give its context back", error) from error
        finally:
            self.door.release()

    def memory(self, nbytes: int, what: str) -> DeviceMemory:
        """Allocate and clear device memory; `what` it is for goes into the error when there is too little."""
        self._check_inside()
        try:
            allocation = self._driver.mem_alloc(nbytes)
        except self._driver.Error as error:
            raise self._failed(f"allocate {nbytes:,} bytes for {what}", error) from error
        self._undo.callback(allocation.free)
        memory = DeviceMemory(int(allocation), nbytes)
        self.clear(memory.address, nbytes)
        return memory

    def host(self, shape: tuple[int, ...], dtype: str, what: str, *, mapped: bool = False) -> HostMemory:
        """Allocate a cleared page-locked array; `mapped` lets the GPU use it in place."""
        self._check_inside()
        flags = self._driver.host_alloc_flags.DEVICEMAP if mapped else 0
        try:
            array = self._driver.pagelocked_empty(shape, np.dtype(dtype), mem_flags=flags)
            self._gpu.lend(array)
            address = int(array.base.get_device_pointer()) if mapped else 0
        except self._driver.Error as error:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            raise self._failed(f"allocate {size:,} page-locked bytes for {what}", error) from error
        array[...] = 0
        return HostMemory(array, address)

    def upload(self, target: int, array: NDArray[Any]) -> None:
        """Queue a copy from a page-locked array, which must stay as it is until the copy is done."""
        self._check_inside()
        try:
            self._driver.memcpy_htod_async(target, array, self._stream)
        except self._driver.Error as error:
            raise self._failed("copy to the GPU", error) from error

    def download(self, array: NDArray[Any], source: int) -> None:
        """Queue a copy into a page-locked array."""
        self._check_inside()
        try:
            self._driver.memcpy_dtoh_async(array, source, self._stream)
        except self._driver.Error as error:
            raise self._failed("copy from the GPU", error) from error

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Queue a copy within the GPU's memory."""
        self._check_inside()
        try:
            self._driver.memcpy_dtod_async(target, source, nbytes, self._stream)
        except self._driver.Error as error:
            raise self._failed("copy on the GPU", error) from error

    def clear(self, target: int, nbytes: int) -> None:
        """Queue zeroing device memory."""
        self._check_inside()
        try:
            self._driver.memset_d8_async(target, 0, nbytes, self._stream)
        except self._driver.Error as error:
            raise self._failed("clear memory on the GPU", error) from error

    def wait(self) -> None:
        """Return once everything queued so far is done; other threads run meanwhile."""
        self._check_inside()
        try:
            self._done.record(self._stream)
            self._done.synchronize()
        except self._driver.Error as error:
            raise self._failed("wait for the GPU", error) from error

    def free_bytes(self) -> tuple[int, int]:
        """Return how many bytes of the GPU's memory are free, and how many there are."""
        self._check_inside()
        try:
            free, total = self._driver.mem_get_info()
        except self._driver.Error as error:
            raise self._failed("say how much memory is free", error) from error
        return int(free), int(total)

    def at_close(self, undo: Callable[[], None]) -> None:
        """Let `close` call this first, where the context is current; a dead context is not asked to undo anything."""
        self._undo.callback(undo)

    def is_lost(self) -> bool:
        """Return whether the context died: after some errors CUDA answers everything with the same error again.

        Not to be asked while a graph is being recorded.
        """
        for _ in "12":  # once, it may have been that one call
            try:
                with self:
                    self._gpu.context.synchronize()
            except (self._driver.Error, BackendError):
                continue
            return False
        return True

    def abandon(self) -> None:
        """Give up what was held in a context that died; the session is closed."""
        self._gpu.bury((self._undo.pop_all(), self._stream, self._done), self._generation)
        self._forget()

    def revive(self) -> None:
        """See, after `abandon`, that the GPU has a context again. Raises as `Gpu.reset` does."""
        self._gpu.reset(self._generation)

    def close(self) -> None:
        """Wait for the GPU and free everything; may be called twice, from any thread while none is inside.

        What cannot be freed is logged. Raises ThreadError while another thread is inside.
        """
        if self.closed:
            return
        if self.is_lost():
            self.abandon()
            return
        with self:
            try:
                self._undo.close()
            except (BackendError, self._driver.Error) as error:
                log.warning("the GPU was not left in order: %s", str(error))  # not the frames that it holds
            finally:
                self._forget()
                self._gpu.collect()

    def _forget(self) -> None:
        """Drop stream and event while the context is current: PyCUDA destroys them with their last reference."""
        self.closed = True
        self._stream = self._done = None

    def _switch(self, push_or_pop: Callable[[], None]) -> None:
        """Switch contexts, at the second try if need be: one that stays current ends the process with its thread."""
        try:
            push_or_pop()
        except self._driver.Error:
            push_or_pop()

    def _check_living(self) -> None:
        if self.closed:
            raise ClosedError("a closed session on the GPU", expected="an open one", fix="open the bundle again")
        if self._gpu.context is None:
            raise BackendError(
                "a GPU whose context died and did not come back", expected="a living one", fix="restart the process"
            )
        if self._generation != self._gpu.generation:
            raise BackendError(
                "a session on the GPU whose context died", expected="a living one", fix="open the bundle again"
            )

    def _check_inside(self) -> None:
        if self._holder != threading.get_ident():
            raise ThreadError(
                f"the GPU used by thread {threading.current_thread().name!r}, in which its context is not current",
                expected="a call inside `with session:`",
                fix="wrap it",
            )

    def _occupied(self) -> ThreadError:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return ThreadError(
            f"a GPU session entered by thread {threading.current_thread().name!r} while "
            f"{names.get(self._holder, 'another thread')!r} is inside",
            expected="one thread at a time",
            fix="give each thread an engine of its own",
        )

    def _failed(self, doing: str, error: Exception) -> BackendError:
        if not isinstance(error, self._driver.MemoryError):
            return BackendError(
                f"the GPU could not {doing}: {error}",
                expected="CUDA to do it",
                fix="look at `dmesg`; if this comes again, restart the process",
            )
        free = "an unknown number of"
        with contextlib.suppress(self._driver.Error):
            free = "{:,} of {:,}".format(*self._driver.mem_get_info())
        return DeviceMemoryError(
            f"the GPU could not {doing}: {error}; {free} bytes are free",
            expected="enough memory for the engine and its buffers",
            fix="close other programs that use the GPU, or open fewer streams",
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
    )
