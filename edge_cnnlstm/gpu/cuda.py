"""What one owner holds on the GPU through PyCUDA, and does there, in whichever thread.

PyCUDA ends the process when a thread ends with a context still current, and leaks what another thread frees. So the
context is current only inside `with session:`, and everything else refuses to run outside of it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError, DeviceMemoryError, ThreadError
from edge_cnnlstm.gpu.context import Device, find, refused

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING, which PyCUDA does not name: never wait for what others do on the default stream."""


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
    meanwhile, unless CUDA's schedule is to sleep), else the thread sleeps until the GPU interrupts. Raises
    DeviceMemoryError for memory that the GPU does not have, BackendError for everything else that CUDA refuses.
    """

    def __init__(self, *, spin: bool = True) -> None:
        self._gpu = find()
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
        if not self.door.acquire(timeout=self._gpu.patience):
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
        for _ in range(2):  # once, it may have been that one call
            try:
                with self:
                    # Not the context: that would spoil what another thread records in it, and fail for it.
                    self._stream.synchronize()
            except (self._driver.Error, BackendError):
                continue
            return False
        return True

    def abandon(self) -> None:
        """Give up what was held in a context that died; the session is closed."""
        self._gpu.bury((self._undo.pop_all(), self._stream, self._done))
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
        if os.getpid() != self._gpu.process:
            raise ThreadError(
                "a session on the GPU in a process that was forked from its own",
                expected="the process that opened it",
                fix='open the bundle in the child, and start that by multiprocessing.set_start_method("spawn")',
            )
        if self._gpu.context is None:
            raise BackendError(
                "a GPU whose context died and did not come back", expected="a living one", fix="restart the process"
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
            return refused(doing, error)
        free = "an unknown number of"
        with contextlib.suppress(self._driver.Error):
            free = "{:,} of {:,}".format(*self._driver.mem_get_info())
        return DeviceMemoryError(
            f"the GPU could not {doing}: {error}; {free} bytes are free",
            expected="enough memory for the engine and its buffers",
            fix="close other programs that use the GPU, or open fewer streams",
        )
