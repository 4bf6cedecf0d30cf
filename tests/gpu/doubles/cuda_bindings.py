"""A double of `cuda.bindings.driver` 13.5 over the double of the driver: it proves order and ownership, not CUDA.

Every function returns its status first, and then what it found, None where it failed.
"""

# ruff: noqa: N801, N802 - the names are CUDA's and PyCUDA's

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import Any

from tests.gpu.doubles.driver import CUresult, Driver, Refused

Answer = tuple[Any, ...]


class CUstreamCaptureMode(IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class CUevent_record_flags(IntEnum):
    CU_EVENT_RECORD_DEFAULT = 0
    CU_EVENT_RECORD_EXTERNAL = 1


class Handle:
    """An address of something of the driver's, in a type of its own."""

    def __init__(self, value: int = 0) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


class CUstream(Handle): ...


class CUevent(Handle): ...


class CUgraph(Handle): ...


class CUgraphExec(Handle): ...


class CUcontext(Handle): ...


def make(driver: Driver) -> ModuleType:  # noqa: C901 - a module is made here, with its functions
    """Return a module to be imported as `cuda.bindings.driver`."""

    def answer(call: Callable[[], Any], kind: Callable[[Any], Any] | None = None) -> Answer:
        try:
            found = call()
        except Refused as refusal:
            return (refusal.result,) if kind is None else (refusal.result, None)
        return (CUresult.CUDA_SUCCESS,) if kind is None else (CUresult.CUDA_SUCCESS, kind(found))

    def cuGetErrorString(error: CUresult) -> Answer:
        return CUresult.CUDA_SUCCESS, CUresult(error).words.encode()

    def cuDriverGetVersion() -> Answer:
        return answer(driver.cuDriverGetVersion, int)

    def cuDeviceGet(ordinal: int) -> Answer:
        return answer(lambda: driver.cuDeviceGet(ordinal), int)

    def cuDevicePrimaryCtxReset(device: int) -> Answer:
        return answer(driver.cuDevicePrimaryCtxReset)

    def cuCtxPopCurrent() -> Answer:
        return answer(driver.cuCtxPopCurrent, CUcontext)

    def cuEventCreate(flags: int) -> Answer:
        return answer(lambda: driver.cuEventCreate(flags), CUevent)

    def cuEventDestroy(event: CUevent) -> Answer:
        return answer(lambda: driver.cuEventDestroy(int(event)))

    def cuEventRecordWithFlags(event: CUevent, stream: CUstream, flags: int) -> Answer:
        return answer(lambda: driver.cuEventRecordWithFlags(int(event), int(stream), flags))

    def cuEventElapsedTime(start: CUevent, end: CUevent) -> Answer:
        return answer(lambda: driver.cuEventElapsedTime(int(start), int(end)), float)

    def cuStreamBeginCapture(stream: CUstream, mode: CUstreamCaptureMode) -> Answer:
        return answer(lambda: driver.cuStreamBeginCapture(int(stream), int(mode)))

    def cuStreamEndCapture(stream: CUstream) -> Answer:
        return answer(lambda: driver.cuStreamEndCapture(int(stream)), CUgraph)

    def cuGraphInstantiate(graph: CUgraph, flags: int) -> Answer:
        return answer(lambda: driver.cuGraphInstantiate(int(graph)), CUgraphExec)

    def cuGraphDestroy(graph: CUgraph) -> Answer:
        return answer(lambda: driver.cuGraphDestroy(int(graph)))

    def cuGraphExecDestroy(graph: CUgraphExec) -> Answer:
        return answer(lambda: driver.cuGraphExecDestroy(int(graph)))

    def cuGraphLaunch(graph: CUgraphExec, stream: CUstream) -> Answer:
        return answer(lambda: driver.cuGraphLaunch(int(graph), int(stream)))

    module = ModuleType("cuda.bindings.driver")
    for thing in (
        *(CUresult, CUstreamCaptureMode, CUevent_record_flags, CUstream, CUevent, CUgraph, CUgraphExec, CUcontext),
        *(cuGetErrorString, cuDriverGetVersion, cuDeviceGet, cuDevicePrimaryCtxReset, cuCtxPopCurrent),
        *(cuEventCreate, cuEventDestroy, cuEventRecordWithFlags, cuEventElapsedTime),
        *(cuStreamBeginCapture, cuStreamEndCapture),
        *(cuGraphInstantiate, cuGraphDestroy, cuGraphExecDestroy, cuGraphLaunch),
    ):
        setattr(module, thing.__name__, thing)
    return module
