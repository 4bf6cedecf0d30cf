"""A double of `pycuda.driver` 2026.1 over the double of the driver: it proves order and ownership, not CUDA.

Its rules about contexts, threads and who frees what are transcribed from PyCUDA's src/cpp/cuda.hpp. Where PyCUDA ends
the process, leaks, or prints a warning, the driver's list of complaints has a line that begins with `abort`, `leak` or
`clean-up`.
"""

# ruff: noqa: N801 - the names are CUDA's and PyCUDA's

from __future__ import annotations

import contextlib
import functools
import gc
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tests.gpu.doubles.driver import DEVICEMAP, INTEGRATED, CUresult, Driver, Refused


class Error(Exception): ...


class MemoryError(Error): ...


class LogicError(Error): ...


class LaunchError(Error): ...


class RuntimeError(Error): ...


KINDS = {
    CUresult.CUDA_ERROR_LAUNCH_FAILED: LaunchError,
    CUresult.CUDA_ERROR_OUT_OF_MEMORY: MemoryError,
    CUresult.CUDA_ERROR_NO_DEVICE: RuntimeError,
    CUresult.CUDA_ERROR_NOT_READY: RuntimeError,
    CUresult.CUDA_ERROR_UNKNOWN: Error,
}


class Dead(Exception): ...  # noqa: N818 - as PyCUDA's cannot_activate_dead_context


class OutOfThread(Exception): ...  # noqa: N818 - as PyCUDA's cannot_activate_out_of_thread_context


class Stack:
    """The contexts that one thread pushed; it dies with the thread."""

    def __init__(self, driver: Driver) -> None:
        self.contexts: list[Any] = []
        self._driver = driver

    def __del__(self) -> None:
        if self.contexts:
            self._driver.complaints.append("abort: a thread ended with a context on its stack")


def native(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a failure of the function hold on to none of its arguments: C++ leaves no frames behind that would."""

    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except Error as error:
            failure = error.with_traceback(None)
        del arguments, options
        try:
            raise failure
        finally:
            del failure

    return called


def make(driver: Driver) -> ModuleType:  # noqa: C901 - a module is made here, with its classes
    """Return a module to be imported as `pycuda.driver`."""
    local = threading.local()

    def stack() -> list[Context]:
        if not hasattr(local, "stack"):
            local.stack = Stack(driver)
        contexts: list[Context] = local.stack.contexts
        return contexts

    def logic(routine: str, message: str) -> LogicError:
        return LogicError(f"{routine} failed: invalid device context - {message}")

    def guarded(name: str, *arguments: Any) -> Any:
        try:
            return getattr(driver, name)(*arguments)
        except Refused as refusal:
            result = refusal.result
        raise KINDS.get(result, LogicError)(f"{name} failed: {result.words}")

    def guarded_cleanup(name: str, *arguments: Any) -> None:
        try:
            getattr(driver, name)(*arguments)
        except Refused as refusal:
            driver.complaints.append(f"clean-up: {name} failed: {refusal.result.words}")

    def current_context(besides: Context | None = None) -> Context | None:
        contexts = stack()
        while contexts:
            if contexts[-1] is not besides and contexts[-1].valid:
                return contexts[-1]
            contexts.pop()
        return None

    class Context:
        def __init__(self, handle: int) -> None:
            self._handle = handle
            self.valid = True
            stack()
            self._thread = local.stack

        def push(self) -> None:
            if stack():
                guarded("cuCtxPopCurrent")
            guarded("cuCtxPushCurrent", self._handle)
            stack().append(self)

        @staticmethod
        def pop() -> None:
            if stack():
                guarded("cuCtxPopCurrent")
            else:
                raise logic("context::pop", "cannot pop non-current context")
            current_context()
            if not stack():
                raise logic("m_stack::pop", "cannot pop context from empty stack")
            stack().pop()
            if (below := current_context()) is not None:
                guarded("cuCtxPushCurrent", below._handle)

        @staticmethod
        def synchronize() -> None:
            guarded("cuCtxSynchronize")

        @staticmethod
        def get_current() -> Context | None:
            return current_context()

        def detach(self) -> None:
            if not self.valid:
                raise logic("context::detach", "cannot detach from invalid context")
            active = current_context() is self
            if active:
                guarded_cleanup("cuDevicePrimaryCtxRelease")
            elif self.is_of_this_thread():
                guarded_cleanup("cuCtxPushCurrent", self._handle)
                guarded_cleanup("cuDevicePrimaryCtxRelease")
            self.valid = False
            if active and (below := current_context(self)) is not None:
                guarded("cuCtxPushCurrent", below._handle)

        def is_of_this_thread(self) -> bool:
            stack()
            return self._thread is local.stack

        def __del__(self) -> None:
            if self.valid:
                driver.complaints.append("leak: a primary context that was never detached")

    @contextlib.contextmanager
    def activation(context: Context) -> Iterator[None]:
        if not context.valid:
            raise Dead
        switches = current_context() is not context
        if switches:
            if not context.is_of_this_thread():
                raise OutOfThread
            context.push()
        yield
        if switches:
            Context.pop()

    class Dependent:
        """What lies in the context that was current when it was made, and is freed there only."""

        valid = False

        def __init__(self, make: Callable[[], Any]) -> None:
            made = make()
            context = current_context()
            if context is None:
                raise logic("explicit_context_dependent", "no currently active context?")
            self._context = context
            self.made = made
            self.valid = True

        def destroy(self) -> None: ...

        def clean_up(self) -> None:
            self.valid = False
            try:
                with activation(self._context):
                    self.destroy()
            except OutOfThread:
                driver.complaints.append(f"leak: {type(self).__name__} in out-of-thread context not cleaned up")
            except Dead:
                pass

        def free(self) -> None:
            if not self.valid:
                raise LogicError(f"{type(self).__name__}::free failed: invalid resource handle")
            self.clean_up()

        def __del__(self) -> None:
            if self.valid:
                self.clean_up()

    class Stream(Dependent):
        def __init__(self, flags: int = 0) -> None:
            super().__init__(lambda: guarded("cuStreamCreate", flags))

        @property
        def handle(self) -> int:
            handle: int = self.made
            return handle

        @native
        def synchronize(self) -> None:
            guarded("cuStreamSynchronize", self.made)

        def destroy(self) -> None:
            guarded_cleanup("cuStreamDestroy", self.made)

    class Event(Dependent):
        def __init__(self, flags: int = 0) -> None:
            super().__init__(lambda: guarded("cuEventCreate", flags))

        @native
        def record(self, stream: Stream) -> Event:
            guarded("cuEventRecord", self.made, stream.made)
            return self

        @native
        def synchronize(self) -> Event:
            guarded("cuEventSynchronize", self.made)
            return self

        def destroy(self) -> None:
            guarded_cleanup("cuEventDestroy", self.made)

    def mem_alloc_gc(nbytes: int) -> int:
        try:
            address: int = guarded("cuMemAlloc", nbytes)
        except MemoryError:
            gc.collect()
            address = guarded("cuMemAlloc", nbytes)
        return address

    class DeviceAllocation(Dependent):
        def __init__(self, nbytes: int) -> None:
            super().__init__(lambda: mem_alloc_gc(nbytes))

        def __int__(self) -> int:
            address: int = self.made
            return address

        __index__ = __int__

        def destroy(self) -> None:
            guarded_cleanup("cuMemFree", self.made)

    class PagelockedHostAllocation(Dependent):
        def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, flags: int) -> None:
            nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
            super().__init__(lambda: guarded("cuMemHostAlloc", nbytes, flags))
            self._address = int(self.made.ctypes.data)
            self.__array_interface__ = {
                "shape": shape, "typestr": np.dtype(dtype).str, "data": (self._address, False), "version": 3,
            }  # fmt: skip

        def get_device_pointer(self) -> int:
            address: int = guarded("cuMemHostGetDevicePointer", self._address)
            return address

        def destroy(self) -> None:
            guarded_cleanup("cuMemFreeHost", self._address)

    class Device:
        def __init__(self, ordinal: int) -> None:
            guarded("cuDeviceGet", ordinal)

        def retain_primary_context(self) -> Context:
            return Context(guarded("cuDevicePrimaryCtxRetain"))

        def name(self) -> str:
            name: str = guarded("cuDeviceGetName")
            return name

        def compute_capability(self) -> tuple[int, int]:
            capability: tuple[int, int] = guarded("cuDeviceComputeCapability")
            return capability

        def total_memory(self) -> int:
            nbytes: int = guarded("cuDeviceTotalMem")
            return nbytes

        def get_attribute(self, attribute: int) -> int:
            value: int = guarded("cuDeviceGetAttribute", attribute)
            return value

    class device_attribute:
        INTEGRATED = INTEGRATED
        CAN_MAP_HOST_MEMORY = 19
        MULTIPROCESSOR_COUNT = 16

    class event_flags:
        DEFAULT = 0
        BLOCKING_SYNC = 1
        DISABLE_TIMING = 2

    class host_alloc_flags:
        PORTABLE = 1
        DEVICEMAP = 2
        WRITECOMBINED = 4

    def pagelocked_empty(
        shape: tuple[int, ...], dtype: DTypeLike, order: str = "C", mem_flags: int = 0
    ) -> NDArray[Any]:
        return np.asarray(PagelockedHostAllocation(shape, dtype, mem_flags))

    def contiguous(array: NDArray[Any]) -> tuple[int, int]:
        if not array.flags.forc:
            raise BufferError("ndarray is not contiguous")
        return int(array.ctypes.data), array.nbytes

    @native
    def memcpy_htod_async(dest: int, src: NDArray[Any], stream: Stream) -> None:
        guarded("cuMemcpyHtoDAsync", int(dest), *contiguous(src), stream.made)

    @native
    def memcpy_dtoh_async(dest: NDArray[Any], src: int, stream: Stream) -> None:
        address, nbytes = contiguous(dest)
        guarded("cuMemcpyDtoHAsync", address, int(src), nbytes, stream.made)

    @native
    def memcpy_dtod_async(dest: int, src: int, size: int, stream: Stream) -> None:
        guarded("cuMemcpyDtoDAsync", int(dest), int(src), size, stream.made)

    @native
    def memset_d8_async(dest: int, data: int, size: int, stream: Stream) -> None:
        guarded("cuMemsetD8Async", int(dest), data, size, stream.made)

    assert host_alloc_flags.DEVICEMAP == DEVICEMAP
    module: Any = ModuleType("pycuda.driver")
    for thing in (
        *(Error, MemoryError, LogicError, LaunchError, RuntimeError),
        *(Context, Device, Stream, Event, DeviceAllocation, PagelockedHostAllocation),
        *(device_attribute, event_flags, host_alloc_flags, pagelocked_empty),
        *(memcpy_htod_async, memcpy_dtoh_async, memcpy_dtod_async, memset_d8_async),
    ):
        setattr(module, thing.__name__, thing)
    module.mem_alloc = DeviceAllocation
    module.mem_get_info = lambda: guarded("cuMemGetInfo")
    module.init = lambda flags=0: guarded("cuInit")
    module.get_driver_version = lambda: guarded("cuDriverGetVersion")
    module.pushed = lambda: len(stack())
    made: ModuleType = module
    return made
