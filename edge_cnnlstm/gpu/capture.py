"""CUDA graphs, and instants inside of them: the part of the driver that PyCUDA does not have, from `cuda-bindings`.

A graph replays, in one launch, work that was recorded from a stream once: the shapes and the addresses are those of the
recording, and whoever recorded it keeps the memory behind them alive (docs.nvidia.com/cuda/cuda-c-programming-guide,
"CUDA Graphs"). Everything here happens where the context is current, inside `with session:`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from typing import Any

from edge_cnnlstm.errors import BackendError, DependencyError
from edge_cnnlstm.gpu.context import refused

FITTING = "NVIDIA's bindings of the CUDA driver, in the version of this machine's CUDA"
FIX = "pip install 'cuda-bindings>=12.6,<13' with CUDA 12, 'cuda-bindings>=13' with CUDA 13"


@cache
def load_bindings() -> Any:
    """Return the CUDA driver's functions; raises DependencyError without `cuda-bindings`, or where it is too new."""
    try:
        from cuda.bindings import __version__ as version
        from cuda.bindings import driver
    except ImportError as error:
        raise DependencyError(f"cannot import cuda.bindings: {error}", expected=FITTING, fix=FIX) from error
    status, speaks = driver.cuDriverGetVersion()
    if not int(status) and int(version.split(".")[0]) > (speaks := speaks // 1000):
        # What such a driver lacks would be missed in the middle of a step.
        raise DependencyError(f"cuda-bindings {version}, and a driver of CUDA {speaks}", expected=FITTING, fix=FIX)
    return driver


class Graph:
    """What `enqueue` puts on a stream, recorded and not run; `launch` runs it there.

    `stream` is the driver's handle. What `enqueue` raises is raised, and the stream is as it was; BackendError when
    CUDA will not record or replay what it does.
    """

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        self._driver = driver = load_bindings()
        self._stream = driver.CUstream(stream)
        recorded = self._record(enqueue)
        try:
            self._graph = _checked("instantiate a graph", driver.cuGraphInstantiate(recorded, 0))
        finally:
            driver.cuGraphDestroy(recorded)

    def launch(self) -> None:
        """Queue the work on the stream; its arguments are what lies at the recorded addresses by then."""
        _checked("launch a graph", self._driver.cuGraphLaunch(self._graph, self._stream))

    def close(self) -> None:
        """Destroy the graph, which must not be running; may be called twice."""
        if self._graph is not None:
            graph, self._graph = self._graph, None
            _checked("destroy a graph", self._driver.cuGraphExecDestroy(graph))

    def _record(self, enqueue: Callable[[], None]) -> Any:
        driver = self._driver
        # Only this thread's calls are forbidden what would spoil a recording: other threads may allocate meanwhile.
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _checked("record a stream", driver.cuStreamBeginCapture(self._stream, mode))
        try:
            enqueue()
        except BaseException:
            error, graph = driver.cuStreamEndCapture(self._stream)
            if error == driver.CUresult.CUDA_SUCCESS:
                driver.cuGraphDestroy(graph)
            raise
        return _checked("record a stream", driver.cuStreamEndCapture(self._stream))


class Marks:
    """Instants on a stream, also within a graph, and the times between them.

    `record(at)` puts instant number `at` on the stream; `times` returns the nanoseconds between each two that follow
    each other, once the work is done.
    """

    def __init__(self, stream: int, count: int) -> None:
        self._driver = driver = load_bindings()
        self._stream = driver.CUstream(stream)
        self._events: list[Any] = []
        try:
            for _ in range(count):
                self._events.append(_checked("make an event", driver.cuEventCreate(0)))
        except BackendError:
            self.close()
            raise

    def record(self, at: int, *, recording: bool) -> None:
        """Put an instant on the stream; `recording` says that a graph is being recorded from it."""
        # An ordinary event in a recording is an order between operations, and no instant.
        external = self._driver.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL
        ordinary = self._driver.CUevent_record_flags.CU_EVENT_RECORD_DEFAULT
        flags = int(external if recording else ordinary)
        _checked("record an event", self._driver.cuEventRecordWithFlags(self._events[at], self._stream, flags))

    def times(self) -> list[int]:
        """Return the nanoseconds from each instant to the next; the GPU's clock counts in steps of about 500."""
        elapsed = self._driver.cuEventElapsedTime
        pairs = itertools.pairwise(self._events)
        return [round(_checked("read an event", elapsed(begin, end)) * 1e6) for begin, end in pairs]

    def close(self) -> None:
        """Destroy the events; may be called twice."""
        events, self._events = self._events, []
        for answer in [self._driver.cuEventDestroy(event) for event in events]:
            _checked("destroy an event", answer)


def reset_primary_context(*, is_current: bool) -> None:
    """Destroy the primary context of the first GPU, with everything in it, for everyone in this process.

    To be called once PyCUDA has detached it; `is_current` says that it did so just now, in this thread.
    """
    driver = load_bindings()
    # PyCUDA leaves current what it detaches; at the second try if need be, it may have been that one call.
    if is_current and int(driver.cuCtxPopCurrent()[0]):
        driver.cuCtxPopCurrent()
    device = _checked("find the GPU", driver.cuDeviceGet(0))
    _checked("reset the GPU's context", driver.cuDevicePrimaryCtxReset(device))


def _checked(doing: str, answer: tuple[Any, ...]) -> Any:
    """Return what a function of the driver returned beside its status; raises BackendError unless that is success."""
    status, *values = answer
    if int(status):
        driver = load_bindings()
        _, words = driver.cuGetErrorString(status)
        raise refused(doing, words.decode() if words else status)
    return values[0] if values else None
