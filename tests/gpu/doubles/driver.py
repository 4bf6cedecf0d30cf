"""The CUDA driver in Python, as far as this project uses it, for the doubles of PyCUDA and of cuda-bindings.

It proves order and ownership, not CUDA: it was written from documents and has never been compared with a GPU.

Memory is ordinary memory. The GPU finds it at another address than the processor does, never gives an address out
twice, and refuses every access that is not within one living allocation. Streams are lazy: work runs when somebody
waits for it, and a copy reads its source only then, so that a wait that is missing shows as stale data. A microsecond
passes with each copy, ten with each run of an engine. A failure of work as it runs kills the context: from then on
every call fails, until the primary context is reset. A failure that a test ordered leaves its call without effect.
"""

# ruff: noqa: N802 - the names are CUDA's and PyCUDA's

from __future__ import annotations

import bisect
import fnmatch
import functools
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

FAR = 1 << 46
"""From where the processor sees a byte to where the GPU does."""
PAGE = 4096
COPY_NS, RUN_NS = 1_000, 10_000
FRESH, GONE = 0xCD, 0xFF
"""What memory holds before anyone wrote it, and after it was given back: NaN, as float32."""
DISABLE_TIMING = 2
DEVICEMAP = 2
INTEGRATED = 18
DEFAULTS = {16: 8}
"""Attributes that are neither 0 nor 1: of multiprocessors there are eight."""
EXTERNAL = 1
PRIMARY = 0xC0DE
"""The handle of the primary context, which is the same one for ever."""


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_READY = 600
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709
    CUDA_ERROR_LAUNCH_FAILED = 719
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901
    CUDA_ERROR_CAPTURED_EVENT = 907
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908
    CUDA_ERROR_UNKNOWN = 999

    @property
    def words(self) -> str:
        """What cuGetErrorString says."""
        return WORDS[self]


WORDS = {
    CUresult.CUDA_SUCCESS: "no error",
    CUresult.CUDA_ERROR_INVALID_VALUE: "invalid argument",
    CUresult.CUDA_ERROR_OUT_OF_MEMORY: "out of memory",
    CUresult.CUDA_ERROR_NOT_INITIALIZED: "initialization error",
    CUresult.CUDA_ERROR_NO_DEVICE: "no CUDA-capable device is detected",
    CUresult.CUDA_ERROR_INVALID_CONTEXT: "invalid device context",
    CUresult.CUDA_ERROR_INVALID_HANDLE: "invalid resource handle",
    CUresult.CUDA_ERROR_NOT_READY: "device not ready",
    CUresult.CUDA_ERROR_ILLEGAL_ADDRESS: "an illegal memory access was encountered",
    CUresult.CUDA_ERROR_CONTEXT_IS_DESTROYED: "context is destroyed",
    CUresult.CUDA_ERROR_LAUNCH_FAILED: "unspecified launch failure",
    CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED: "operation not permitted when stream is capturing",
    CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: "operation failed due to a previous error during capture",
    CUresult.CUDA_ERROR_CAPTURED_EVENT: "operation not permitted on an event last recorded in a capturing stream",
    CUresult.CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD: "attempt to terminate a thread-local capture from another thread",
    CUresult.CUDA_ERROR_UNKNOWN: "unknown error",
}


class Refused(Exception):  # noqa: N818 - it is an answer
    """What a function of the driver answers instead of success."""

    def __init__(self, result: CUresult) -> None:
        super().__init__(result.words)
        self.result = result


@dataclass(eq=False)
class Memory:
    """One allocation; `bytes` is what the processor sees of it."""

    kind: str
    bytes: Bytes
    mapped: bool
    alive: bool = True

    @property
    def host(self) -> int:
        return int(self.bytes.ctypes.data)


@dataclass(frozen=True)
class Work:
    """Something that a stream does in its turn."""

    name: str
    run: Callable[[], None]
    takes_ns: int = 0
    queued: Callable[[], None] = lambda: None
    """Called when it takes its place in the stream, each time."""


@dataclass(eq=False)
class Stream:
    queue: deque[Work] = field(default_factory=deque)
    recording: list[Work] | None = None
    spoilt: bool = False
    recorder: int = 0
    alive: bool = True


@dataclass(eq=False)
class Event:
    flags: int
    stream: Stream | None = None
    pending: int = 0
    at_ns: int | None = None
    captured: bool = False
    alive: bool = True


@dataclass(eq=False)
class Graph:
    kind: str
    work: list[Work]
    alive: bool = True


@dataclass
class Fault:
    """A failure that was ordered."""

    pattern: str
    result: CUresult
    nth: int
    for_ever: bool

    def is_due(self, name: str) -> bool:
        if not fnmatch.fnmatch(name, self.pattern):
            return False
        self.nth -= 1
        return self.nth == 0 or (self.for_ever and self.nth < 0)


ANYWHERE = {"cuInit", "cuDriverGetVersion", "cuDeviceGet", "cuDeviceGetName", "cuDeviceComputeCapability"}
ANYWHERE |= {"cuDeviceTotalMem", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease"}
ANYWHERE |= {"cuDevicePrimaryCtxReset", "cuCtxPushCurrent", "cuCtxPopCurrent", "create_execution_context"}
ANYWHERE |= {"set_tensor_address"}
"""Calls that need no context, and that a dead one does not spoil."""
UNSAFE = {"cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemFreeHost", "cuCtxSynchronize", "cuStreamSynchronize"}
UNSAFE |= {"cuEventSynchronize", "cuGraphLaunch"}
"""Calls that spoil a recording which the same thread is making."""

FREEING = {"cuMemFree", "cuMemFreeHost", "cuStreamDestroy", "cuEventDestroy", "cuGraphDestroy", "cuGraphExecDestroy"}
"""Calls after whose failure the thing that was to be freed is still there."""

Function = Callable[..., Any]


def call(function: Function) -> Function:
    """Make a method a function of the driver: one thread at a time, noted, and refused where it has to be."""

    @functools.wraps(function)
    def called(self: Driver, *arguments: Any) -> Any:
        with self.lock:
            self.begin(function.__name__)
            return function(self, *arguments)

    return called


class Driver:
    """The functions of the driver by their names, raising `Refused`, and what a test wants to know of them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.calls: list[str] = []
        self.moved: Counter[str] = Counter()
        self.complaints: list[str] = []
        self.fault: Fault | None = None
        self.failed: str | None = None
        self.spoil: tuple[int, str] | None = None
        self.present = True
        self.integrated = False
        self.memory_bytes = 8 << 30
        self.retained = 0
        self.dead: CUresult | None = None
        self._here = threading.local()
        self._now_ns = 0
        self._handles: dict[int, Any] = {}
        self._next_handle = 0x1000
        self._memory: list[Memory] = []
        self._hosts: list[int] = []
        self.execution_contexts = 0
        self._stuck = 0
        self.lives = 0
        self.was_reset = False

    @property
    def stack(self) -> list[int]:
        """The contexts of this thread, the current one last."""
        stack: list[int] = self._here.__dict__.setdefault("stack", [])
        return stack

    def alive(self) -> dict[str, int]:
        """What somebody has not given back."""
        kinds = Counter(
            type(thing).__name__.lower() for thing in self._handles.values() if not isinstance(thing, Graph)
        )
        kinds.update(thing.kind for thing in self._handles.values() if isinstance(thing, Graph))
        kinds.update(memory.kind for memory in self._memory if memory.alive)
        kinds["execution context"] = self.execution_contexts
        return {kind: count for kind, count in kinds.items() if count}

    def begin(self, name: str) -> None:
        self.calls.append(name)
        self.fail_if_ordered(name)
        if not self.present:
            raise Refused(CUresult.CUDA_ERROR_NO_DEVICE)
        if name in ANYWHERE:
            return
        if not self.stack or not self.retained:
            raise Refused(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        if self.dead is not None:
            raise Refused(self.dead)
        if name in UNSAFE:
            self._spoil_recordings()

    def fail_if_ordered(self, name: str) -> None:
        if self.fault is not None and self.fault.is_due(name):
            self.failed = name
            self._stuck += name in FREEING
            if name == "execute":
                self.dead = self.fault.result
            raise Refused(self.fault.result)

    # Contexts

    @call
    def cuInit(self) -> None: ...

    @call
    def cuDriverGetVersion(self) -> int:
        return 13000

    @call
    def cuDeviceGet(self, ordinal: int) -> int:
        if ordinal:
            raise Refused(CUresult.CUDA_ERROR_INVALID_VALUE)
        return 0

    @call
    def cuDeviceGetName(self) -> str:
        return "Stand-in"

    @call
    def cuDeviceComputeCapability(self) -> tuple[int, int]:
        return 8, 7

    @call
    def cuDeviceTotalMem(self) -> int:
        return self.memory_bytes

    @call
    def cuDeviceGetAttribute(self, attribute: int) -> int:
        return int(self.integrated) if attribute == INTEGRATED else DEFAULTS.get(attribute, 1)

    @call
    def cuDevicePrimaryCtxRetain(self) -> int:
        self.retained += 1
        return PRIMARY

    @call
    def cuDevicePrimaryCtxRelease(self) -> None:
        if not self.retained:
            raise Refused(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        self.retained -= 1
        if not self.retained:
            # Page-locked memory stays for as long as anyone holds its array, be it to the end.
            left = {kind: count for kind, count in self.alive().items() if kind != "pinned"}
            if self.dead is None and sum(left.values()) > self._stuck:
                self.complaints.append(f"misuse: the context went while there were {left}")
            self._destroy()

    @call
    def cuDevicePrimaryCtxReset(self) -> None:
        self.was_reset = True
        self._destroy()

    @call
    def cuCtxPushCurrent(self, handle: int) -> None:
        if not self.retained:
            raise Refused(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        self.stack.append(handle)

    @call
    def cuCtxPopCurrent(self) -> int:
        if not self.stack:
            raise Refused(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        return self.stack.pop()

    @call
    def cuCtxSynchronize(self) -> None:
        self._drain_all()

    def _destroy(self) -> None:
        """Take everything away that lies in the context."""
        for memory in self._memory:
            self._give_back(memory)
        for thing in self._handles.values():
            thing.alive = False
        self._handles.clear()
        self.dead = None
        self.lives += 1

    # Memory

    @call
    def cuMemGetInfo(self) -> tuple[int, int]:
        return self.memory_bytes - self._used(), self.memory_bytes

    @call
    def cuMemAlloc(self, nbytes: int) -> int:
        return self._allocate("allocation", nbytes, mapped=True).host + FAR

    @call
    def cuMemFree(self, address: int) -> None:
        self._free(self._at(address - FAR, "allocation"))

    @call
    def cuMemHostAlloc(self, nbytes: int, flags: int) -> Bytes:
        return self._allocate("pinned", nbytes, mapped=bool(flags & DEVICEMAP)).bytes

    @call
    def cuMemFreeHost(self, address: int) -> None:
        self._free(self._at(address, "pinned"))

    @call
    def cuMemHostGetDevicePointer(self, address: int) -> int:
        if not self._at(address, "pinned").mapped:
            raise Refused(CUresult.CUDA_ERROR_INVALID_VALUE)
        return address + FAR

    def _used(self) -> int:
        counted = ("allocation", "pinned") if self.integrated else ("allocation",)
        return sum(len(memory.bytes) for memory in self._memory if memory.alive and memory.kind in counted)

    def _allocate(self, kind: str, nbytes: int, *, mapped: bool) -> Memory:
        if nbytes <= 0:
            raise Refused(CUresult.CUDA_ERROR_INVALID_VALUE)
        if self._used() + nbytes > self.memory_bytes and (kind == "allocation" or self.integrated):
            raise Refused(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        room = np.empty(nbytes + PAGE, np.uint8)
        begin = -room.ctypes.data % PAGE
        memory = Memory(kind, room[begin : begin + nbytes], mapped)
        memory.bytes[...] = FRESH
        at = bisect.bisect(self._hosts, memory.host)
        self._hosts.insert(at, memory.host)
        self._memory.insert(at, memory)
        return memory

    def _at(self, host: int, kind: str) -> Memory:
        """Return the living allocation that begins at this address."""
        memory, offset = self._around(host)
        if offset or memory.kind != kind or not memory.alive:
            self.complaints.append(f"misuse: {kind} memory that is not there was given back")
            raise Refused(CUresult.CUDA_ERROR_INVALID_VALUE)
        return memory

    def _around(self, host: int) -> tuple[Memory, int]:
        at = bisect.bisect(self._hosts, host) - 1
        if at < 0:
            raise Refused(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
        return self._memory[at], host - self._hosts[at]

    def _free(self, memory: Memory) -> None:
        self._drain_all()
        self._give_back(memory)

    def _give_back(self, memory: Memory) -> None:
        # It is never given out again, so that whoever still uses it is found out.
        memory.alive = False
        memory.bytes[...] = GONE

    def on_device(self, address: int, nbytes: int) -> Bytes:
        """Return what the GPU sees there, unless that is not within one living allocation of its own or mapped."""
        memory, offset = self._around(address - FAR)
        if not memory.alive or not memory.mapped or offset + nbytes > len(memory.bytes):
            self.complaints.append(f"misuse: {nbytes} bytes at {address:#x} are not the GPU's")
            raise Refused(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
        return memory.bytes[offset : offset + nbytes]

    def _on_host(self, address: int, nbytes: int) -> Bytes:
        memory, offset = self._around(address)
        if not memory.alive or memory.kind != "pinned" or offset + nbytes > len(memory.bytes):
            self.complaints.append(f"misuse: {nbytes} bytes at {address:#x} are not page-locked")
            raise Refused(CUresult.CUDA_ERROR_INVALID_VALUE)
        return memory.bytes[offset : offset + nbytes]

    # Work

    @call
    def cuMemcpyHtoDAsync(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._copy("up", stream, nbytes, lambda: self.on_device(target, nbytes), lambda: self._on_host(source, nbytes))

    @call
    def cuMemcpyDtoHAsync(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._copy(
            "down", stream, nbytes, lambda: self._on_host(target, nbytes), lambda: self.on_device(source, nbytes)
        )

    @call
    def cuMemcpyDtoDAsync(self, target: int, source: int, nbytes: int, stream: int) -> None:
        self._copy(
            "across", stream, nbytes, lambda: self.on_device(target, nbytes), lambda: self.on_device(source, nbytes)
        )

    @call
    def cuMemsetD8Async(self, target: int, value: int, nbytes: int, stream: int) -> None:
        self.on_device(target, nbytes)
        self.enqueue(stream, Work("memset", lambda: self.on_device(target, nbytes).fill(value), COPY_NS))

    def _copy(
        self, way: str, stream: int, nbytes: int, target: Callable[[], Bytes], source: Callable[[], Bytes]
    ) -> None:
        def run() -> None:
            target()[...] = source()
            self.moved[way] += nbytes

        target(), source()
        self.enqueue(stream, Work(way, run, COPY_NS))

    def enqueue(self, handle: int, work: Work) -> None:
        """Put work on a stream, or into the recording that is made from it."""
        stream = self._get(handle, Stream)
        if stream.spoilt:
            raise Refused(CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        if stream.recording is None:
            work.queued()
            stream.queue.append(work)
        else:
            stream.recording.append(work)

    def is_recording(self, handle: int) -> bool:
        return self._get(handle, Stream).recording is not None

    def _drain_all(self) -> None:
        for stream in [thing for thing in self._handles.values() if isinstance(thing, Stream)]:
            self._drain(stream)

    def _drain(self, stream: Stream) -> None:
        while stream.queue:
            work = stream.queue.popleft()
            try:
                if work.takes_ns:
                    self.fail_if_ordered("execute")
                work.run()
            except Refused as refusal:
                stream.queue.clear()
                self.dead = refusal.result
                raise
            self._now_ns += work.takes_ns

    # Streams and events

    @call
    def cuStreamCreate(self, flags: int) -> int:
        return self._new(Stream())

    @call
    def cuStreamDestroy(self, handle: int) -> None:
        self._drain(self._get(handle, Stream))
        self._drop(handle, Stream)

    @call
    def cuStreamSynchronize(self, handle: int) -> None:
        self._drain(self._get(handle, Stream))

    @call
    def cuEventCreate(self, flags: int) -> int:
        return self._new(Event(flags))

    @call
    def cuEventDestroy(self, handle: int) -> None:
        self._drop(handle, Event)

    @call
    def cuEventRecord(self, handle: int, stream: int) -> None:
        self._record(handle, stream, 0)

    @call
    def cuEventRecordWithFlags(self, handle: int, stream: int, flags: int) -> None:
        if flags == EXTERNAL and not self.is_recording(stream):
            raise Refused(CUresult.CUDA_ERROR_INVALID_VALUE)
        self._record(handle, stream, flags)

    @call
    def cuEventSynchronize(self, handle: int) -> None:
        event = self._get(handle, Event)
        if event.captured:
            raise Refused(CUresult.CUDA_ERROR_CAPTURED_EVENT)
        if event.stream is not None and event.pending:
            self._drain(event.stream)

    @call
    def cuEventElapsedTime(self, begin: int, end: int) -> float:
        events = self._get(begin, Event), self._get(end, Event)
        if any(event.flags & DISABLE_TIMING for event in events):
            raise Refused(CUresult.CUDA_ERROR_INVALID_HANDLE)
        if any(event.captured for event in events):
            raise Refused(CUresult.CUDA_ERROR_CAPTURED_EVENT)
        if any(event.pending for event in events):
            raise Refused(CUresult.CUDA_ERROR_NOT_READY)
        first, last = (event.at_ns for event in events)
        if first is None or last is None:
            raise Refused(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return (last - first) / 1e6

    def _record(self, handle: int, stream: int, flags: int) -> None:
        event, on = self._get(handle, Event), self._get(stream, Stream)

        def queued() -> None:
            event.stream, event.captured = on, False
            event.pending += 1

        def run() -> None:
            event.pending -= 1
            event.at_ns = self._now_ns

        if on.recording is not None and flags != EXTERNAL:
            event.captured = True
        else:
            self.enqueue(stream, Work("event", run, 0, queued))

    # Graphs

    @call
    def cuStreamBeginCapture(self, handle: int, mode: int) -> None:
        stream = self._get(handle, Stream)
        if stream.recording is not None:
            raise Refused(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)
        stream.recording, stream.recorder = [], threading.get_ident()

    def cuStreamEndCapture(self, handle: int) -> int:
        # A recording ends even where its end is refused.
        with self.lock:
            stream = self._get(handle, Stream)
            if stream.recording is None:
                raise Refused(CUresult.CUDA_ERROR_INVALID_VALUE)
            if stream.recorder != threading.get_ident():
                raise Refused(CUresult.CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD)
            (work, spoilt), stream.recording, stream.spoilt = (stream.recording, stream.spoilt), None, False
            self.begin("cuStreamEndCapture")
            if spoilt:
                raise Refused(CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
            return self._new(Graph("graph", work))

    @call
    def cuGraphInstantiate(self, handle: int) -> int:
        work = list(self._get(handle, Graph).work)
        if self.spoil is not None:
            nth, without = self.spoil
            self.spoil = (nth - 1, without)
            work = [piece for piece in work if nth != 1 or piece.name != without]
        return self._new(Graph("exec", work))

    @call
    def cuGraphDestroy(self, handle: int) -> None:
        self._drop(handle, Graph)

    @call
    def cuGraphExecDestroy(self, handle: int) -> None:
        self._drop(handle, Graph)

    @call
    def cuGraphLaunch(self, handle: int, stream: int) -> None:
        for work in self._get(handle, Graph).work:
            self.enqueue(stream, work)

    def _spoil_recordings(self) -> None:
        own = [
            thing
            for thing in self._handles.values()
            if isinstance(thing, Stream) and thing.recording is not None and thing.recorder == threading.get_ident()
        ]
        for stream in own:
            stream.spoilt = True
        if own:
            raise Refused(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)

    # Handles

    def _new(self, thing: Any) -> int:
        self._next_handle += 0x10
        self._handles[self._next_handle] = thing
        return self._next_handle

    def _get(self, handle: int, kind: type[Any]) -> Any:
        thing = self._handles.get(handle)
        if not isinstance(thing, kind):
            self.complaints.append(f"misuse: no {kind.__name__.lower()} has the handle {handle:#x}")
            raise Refused(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return thing

    def _drop(self, handle: int, kind: type[Any]) -> None:
        self._get(handle, kind).alive = False
        del self._handles[handle]

    # What an engine stands on

    def launch(self, handle: int, run: Callable[[], None]) -> None:
        self.enqueue(handle, Work("run", run, RUN_NS))

    def complain(self, words: str) -> None:
        self.complaints.append(f"misuse: {words}")

    @contextmanager
    def foreign(self, name: str) -> Iterator[None]:
        """Let a library that stands on the driver make a call of its own."""
        with self.lock:
            self.begin(name)
            yield
