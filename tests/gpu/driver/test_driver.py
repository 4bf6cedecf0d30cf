"""The stand-in for the CUDA driver keeps the rules that it is there to enforce; spoken to without any binding."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.driver import double

pytestmark = pytest.mark.skipif(double.compiler() is None, reason="the stand-in is written in C: no cc or gcc here")

INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALISED, INVALID_CONTEXT, INVALID_HANDLE, ILLEGAL_STATE = 1, 2, 3, 201, 400, 401
NOT_READY, ILLEGAL_ADDRESS, NOT_PERMITTED = 600, 700, 800
UNSUPPORTED, INVALIDATED, UNJOINED, ISOLATION, IMPLICIT, CAPTURED_EVENT, WRONG_THREAD = (
    900,
    901,
    904,
    905,
    906,
    907,
    908,
)

NON_BLOCKING, DEVICEMAP, DISABLE_TIMING, EXTERNAL = 1, 2, 2, 1
GLOBAL, THREAD_LOCAL, RELAXED = range(3)

HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Driver:
    """The driver's functions by name; addresses and handles are integers, and a status other than 0 is raised."""

    def __init__(self, loaded: double.Double) -> None:
        self.double = loaded

    def call(self, name: str, *arguments: Any) -> int:
        given = [ctypes.c_uint64(value) if isinstance(value, int) else value for value in arguments]
        return int(getattr(self.double.library, name)(*given))

    def __getattr__(self, name: str) -> Callable[..., None]:
        def checked(*arguments: Any) -> None:
            status = self.call(name, *arguments)
            assert status == 0, f"{name}: {status}"

        return checked

    def new(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_uint64()
        status = self.call(name, ctypes.byref(value), *arguments)
        assert status == 0, f"{name}: {status}"
        return value.value

    def memory(self, size: int = 16) -> int:
        return self.new("cuMemAlloc_v2", size)

    def stream(self, flags: int = NON_BLOCKING) -> int:
        return self.new("cuStreamCreate", flags)

    def event(self, flags: int = 0) -> int:
        return self.new("cuEventCreate", flags)

    def recorded(self, stream: int) -> int:
        value = ctypes.c_uint64()
        status = self.call("cuStreamEndCapture", stream, ctypes.byref(value))
        assert status == 0, f"cuStreamEndCapture: {status}"
        return value.value

    def launchable(self, graph: int) -> int:
        return self.new("cuGraphInstantiateWithFlags", graph, 0)

    def end_capture(self, stream: int) -> int:
        return self.call("cuStreamEndCapture", stream, ctypes.byref(ctypes.c_uint64()))

    def elapsed(self, start: int, stop: int) -> float:
        milliseconds = ctypes.c_float()
        self.cuEventElapsedTime_v2(ctypes.byref(milliseconds), start, stop)
        return milliseconds.value


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return double.build(tmp_path_factory.mktemp("libcuda"), "libcuda-stand-in.so")


@pytest.fixture
def driver(library: Path, tmp_path: Path) -> Driver:
    """A driver that nobody used before, with its primary context current in this thread."""
    driver = Driver(double.load(shutil.copy(library, tmp_path)))
    driver.cuInit(0)
    driver.cuCtxPushCurrent_v2(driver.new("cuDevicePrimaryCtxRetain", 0))
    return driver


def bytes_of(text: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(text, len(text))


def in_another_thread(work: Callable[[], int]) -> int:
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(work()))
    thread.start()
    thread.join()
    return answers[0]


def test_queued_work_runs_when_somebody_waits_and_reads_the_host_only_then(driver: Driver) -> None:
    stream, memory = driver.stream(), driver.memory(4)
    host, back = bytes_of(b"soon"), bytes_of(b"none")

    driver.cuMemcpyHtoDAsync_v2(memory, host, 4, stream)
    driver.cuMemcpyDtoHAsync_v2(back, memory, 4, stream)
    host.raw = b"late"
    assert back.raw == b"none"
    driver.cuStreamSynchronize(stream)

    assert back.raw == b"late"


def test_an_asynchronous_copy_of_ordinary_host_memory_is_counted(driver: Driver) -> None:
    stream, memory = driver.stream(), driver.memory(4)
    locked = driver.new("cuMemHostAlloc", 4, 0)

    driver.cuMemcpyHtoDAsync_v2(memory, locked, 4, stream)
    assert driver.double.counters().pageable_copies == 0
    driver.cuMemcpyHtoDAsync_v2(memory, bytes_of(b"page"), 4, stream)

    assert driver.double.counters().pageable_copies == 1


def test_device_memory_starts_as_anything_but_zeros(driver: Driver) -> None:
    back = bytes_of(b"\0\0\0\0")

    driver.cuMemcpyDtoH_v2(back, driver.memory(4), 4)

    assert back.raw == b"\xcd" * 4


@pytest.mark.parametrize("which", ["beyond the end", "freed", "of the host"])
def test_an_address_that_is_not_device_memory_is_refused_and_told(driver: Driver, which: str) -> None:
    memory, host = driver.memory(16), bytes_of(bytes(16))
    target = {"beyond the end": memory + 1, "freed": memory, "of the host": ctypes.addressof(host)}[which]
    if which == "freed":
        driver.cuMemFree_v2(memory)

    assert driver.call("cuMemcpyHtoDAsync_v2", target, host, 16, driver.stream()) == INVALID_VALUE

    assert "outside device memory" in driver.double.complaint


def test_an_address_is_never_given_out_twice(driver: Driver) -> None:
    given = set()
    for _ in range(50):
        memory = driver.memory(4096)
        driver.cuMemFree_v2(memory)
        given.add(memory)

    assert len(given) == 50
    assert driver.call("cuMemFree_v2", memory) == INVALID_VALUE


def test_mapped_host_memory_is_one_memory_with_two_addresses(driver: Driver) -> None:
    host = driver.new("cuMemHostAlloc", 4, DEVICEMAP)
    device = driver.new("cuMemHostGetDevicePointer_v2", host, 0)
    plain = driver.new("cuMemHostAlloc", 4, 0)

    driver.cuMemsetD8Async(device, 7, 4, 0)
    driver.cuCtxSynchronize()

    assert device != host
    assert ctypes.string_at(host, 4) == b"\7" * 4
    answer = ctypes.byref(ctypes.c_uint64())
    assert driver.call("cuMemHostGetDevicePointer_v2", answer, plain, 0) == INVALID_VALUE


@pytest.mark.parametrize(("flags", "seen"), [(0, b"\1"), (NON_BLOCKING, b"\2")], ids=["blocking", "non-blocking"])
def test_only_blocking_streams_wait_for_the_default_stream(driver: Driver, flags: int, seen: bytes) -> None:
    memory, stream = driver.memory(1), driver.stream(flags)

    driver.cuMemsetD8_v2(memory, 2, 1)
    driver.cuMemsetD8Async(memory, 1, 1, stream)
    driver.cuStreamSynchronize(stream)
    driver.cuCtxSynchronize()

    assert ctypes.string_at(memory, 1) == seen


def test_a_stream_waits_for_what_an_event_marked_on_another(driver: Driver) -> None:
    memory, first, second, event = driver.memory(1), driver.stream(), driver.stream(), driver.event()

    driver.cuMemsetD8Async(memory, 1, 1, first)
    driver.cuEventRecord(event, first)
    driver.cuStreamWaitEvent(second, event, 0)
    driver.cuMemsetD8Async(memory, 2, 1, second)
    driver.cuStreamSynchronize(second)

    assert ctypes.string_at(memory, 1) == b"\2"
    assert driver.call("cuStreamQuery", first) == 0


def test_events_tell_how_much_ran_between_them(driver: Driver) -> None:
    memory, stream, start, stop = driver.memory(1), driver.stream(), driver.event(), driver.event()
    untimed, result = driver.event(DISABLE_TIMING), ctypes.byref(ctypes.c_float())

    assert driver.call("cuEventElapsedTime_v2", result, start, stop) == INVALID_HANDLE
    driver.cuEventRecord(start, stream)
    for _ in range(3):
        driver.cuMemsetD8Async(memory, 1, 1, stream)
    driver.cuEventRecord(stop, stream)
    driver.cuEventRecord(untimed, stream)
    assert driver.call("cuEventElapsedTime_v2", result, start, stop) == NOT_READY
    driver.cuEventSynchronize(stop)

    assert driver.elapsed(start, stop) == pytest.approx(0.003)
    assert driver.call("cuEventElapsedTime_v2", result, start, untimed) == INVALID_HANDLE


def test_asking_again_and_again_comes_to_an_end(driver: Driver) -> None:
    memory, stream, event = driver.memory(1), driver.stream(), driver.event()
    for _ in range(3):
        driver.cuMemsetD8Async(memory, 1, 1, stream)
    driver.cuEventRecord(event, stream)

    answers = [driver.call("cuEventQuery", event) for _ in range(5)]

    assert answers == [NOT_READY] * 4 + [0]


def test_a_graph_runs_what_was_recorded_on_what_is_there_by_then(driver: Driver) -> None:
    stream, memory, host = driver.stream(), driver.memory(1), bytes_of(b"a")
    start, stop = driver.event(), driver.event()
    seen: list[bytes] = []
    look = HostFunction(lambda _: seen.append(ctypes.string_at(memory, 1)))

    driver.cuStreamBeginCapture_v2(stream, THREAD_LOCAL)
    driver.cuEventRecordWithFlags(start, stream, EXTERNAL)
    driver.cuMemcpyHtoDAsync_v2(memory, host, 1, stream)
    driver.cuLaunchHostFunc(stream, look, None)
    driver.cuEventRecordWithFlags(stop, stream, EXTERNAL)
    graph = driver.launchable(driver.recorded(stream))
    driver.cuStreamSynchronize(stream)
    assert seen == []
    for host.raw in (b"b", b"c"):
        driver.cuGraphLaunch(graph, stream)
        driver.cuStreamSynchronize(stream)

    assert seen == [b"b", b"c"]
    assert driver.elapsed(start, stop) == pytest.approx(0.011)


def test_an_ordinary_record_in_a_capture_is_no_instant_and_an_external_one_is_nothing_outside(driver: Driver) -> None:
    stream, event = driver.stream(), driver.event()

    assert driver.call("cuEventRecordWithFlags", event, stream, EXTERNAL) == INVALID_VALUE
    assert driver.call("cuStreamWaitEvent", stream, event, EXTERNAL) == INVALID_VALUE
    driver.cuEventRecord(event, stream)
    driver.cuEventSynchronize(event)
    driver.cuStreamBeginCapture_v2(stream, RELAXED)
    driver.cuEventRecord(event, stream)

    assert driver.call("cuEventSynchronize", event) == CAPTURED_EVENT
    assert driver.call("cuEventElapsedTime_v2", ctypes.byref(ctypes.c_float()), event, event) == CAPTURED_EVENT


FORBIDDEN: dict[str, Callable[[Driver, int, int], int]] = {
    "wait for its stream": lambda driver, stream, _: driver.call("cuStreamSynchronize", stream),
    "ask its stream": lambda driver, stream, _: driver.call("cuStreamQuery", stream),
    "wait for everything": lambda driver, *_: driver.call("cuCtxSynchronize"),
    "allocate": lambda driver, *_: driver.call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 4),
    "free": lambda driver, _, memory: driver.call("cuMemFree_v2", memory),
    "copy and wait": lambda driver, _, memory: driver.call("cuMemcpyHtoD_v2", memory, bytes_of(b"1234"), 4),
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_would_wait_spoils_a_capture(driver: Driver, what: str) -> None:
    stream, memory = driver.stream(), driver.memory(4)

    driver.cuStreamBeginCapture_v2(stream, GLOBAL)
    assert FORBIDDEN[what](driver, stream, memory) == UNSUPPORTED

    assert driver.call("cuMemsetD8Async", memory, 0, 4, stream) == INVALIDATED
    assert driver.end_capture(stream) == INVALIDATED
    assert driver.end_capture(stream) == ILLEGAL_STATE
    assert driver.double.counters().graphs == 0
    driver.cuMemsetD8Async(memory, 0, 4, stream)


def test_the_default_stream_may_not_depend_on_a_capture(driver: Driver) -> None:
    blocking, memory = driver.stream(flags=0), driver.memory(4)

    assert driver.call("cuStreamBeginCapture_v2", 0, GLOBAL) == UNSUPPORTED
    driver.cuStreamBeginCapture_v2(blocking, RELAXED)
    assert driver.call("cuMemsetD8_v2", memory, 0, 4) == IMPLICIT

    assert driver.end_capture(blocking) == INVALIDATED


@pytest.mark.parametrize(("mode", "ended"), [(GLOBAL, INVALIDATED), (THREAD_LOCAL, 0), (RELAXED, 0)])
def test_another_thread_may_allocate_unless_the_capture_is_global(driver: Driver, mode: int, ended: int) -> None:
    stream, context = driver.stream(), driver.new("cuCtxGetCurrent")

    def allocate() -> int:
        driver.cuCtxPushCurrent_v2(context)
        return driver.call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 4)

    driver.cuStreamBeginCapture_v2(stream, mode)

    assert in_another_thread(allocate) == (UNSUPPORTED if ended else 0)
    assert driver.end_capture(stream) == ended


def test_a_capture_is_ended_by_the_thread_that_began_it(driver: Driver) -> None:
    stream, context = driver.stream(), driver.new("cuCtxGetCurrent")

    def end() -> int:
        driver.cuCtxPushCurrent_v2(context)
        return driver.end_capture(stream)

    driver.cuStreamBeginCapture_v2(stream, THREAD_LOCAL)

    assert in_another_thread(end) == WRONG_THREAD
    assert driver.end_capture(stream) == 0


@pytest.mark.parametrize("joined", [True, False])
def test_a_stream_taken_into_a_capture_has_to_come_back(driver: Driver, joined: bool) -> None:
    origin, side, memory, fork, join = (
        driver.stream(),
        driver.stream(),
        driver.memory(1),
        driver.event(),
        driver.event(),
    )

    driver.cuStreamBeginCapture_v2(origin, THREAD_LOCAL)
    driver.cuEventRecord(fork, origin)
    driver.cuStreamWaitEvent(side, fork, 0)
    driver.cuMemsetD8Async(memory, 1, 1, side)
    driver.cuEventRecord(join, side)
    if joined:
        driver.cuStreamWaitEvent(origin, join, 0)

    assert driver.end_capture(origin) == (0 if joined else UNJOINED)


def test_a_capture_does_not_wait_for_what_was_not_captured(driver: Driver) -> None:
    stream, other, event = driver.stream(), driver.stream(), driver.event()
    driver.cuEventRecord(event, other)
    driver.cuStreamBeginCapture_v2(stream, THREAD_LOCAL)

    assert driver.call("cuStreamWaitEvent", stream, event, 0) == ISOLATION
    assert driver.end_capture(stream) == INVALIDATED


def test_every_thread_has_its_own_stack_of_contexts(driver: Driver) -> None:
    memory = driver.memory()

    assert in_another_thread(lambda: driver.call("cuMemFree_v2", memory)) == INVALID_CONTEXT
    driver.cuMemFree_v2(memory)


def test_the_end_of_a_context_takes_everything_with_it_and_says_so(driver: Driver) -> None:
    driver.memory(), driver.stream(), driver.event(), driver.new("cuMemHostAlloc", 4, 0)
    assert set(driver.double.counters().alive) == {
        *("contexts", "allocations", "allocated_bytes", "pinned", "pinned_bytes", "streams", "events"),
    }

    driver.cuDevicePrimaryCtxRelease_v2(0)

    assert driver.double.counters().alive == {}
    assert "1 blocks of memory, 1 streams, 1 events and 0 graphs" in driver.double.complaint


def test_freeing_what_work_still_waits_to_use_is_told(driver: Driver) -> None:
    stream, memory, idle = driver.stream(), driver.memory(), driver.memory()
    driver.cuMemsetD8Async(memory, 0, 16, stream)

    driver.cuMemFree_v2(idle)
    assert driver.double.complaint == ""
    driver.cuMemsetD8Async(memory, 0, 16, stream)
    driver.cuMemFree_v2(memory)

    assert "while work that uses it was waiting" in driver.double.complaint


def test_a_graph_that_outlives_its_memory_breaks_the_context(driver: Driver) -> None:
    stream, memory = driver.stream(), driver.memory()
    driver.cuStreamBeginCapture_v2(stream, THREAD_LOCAL)
    driver.cuMemsetD8Async(memory, 0, 16, stream)
    graph = driver.launchable(driver.recorded(stream))
    driver.cuMemFree_v2(memory)

    driver.cuGraphLaunch(graph, stream)

    assert driver.call("cuStreamSynchronize", stream) == ILLEGAL_ADDRESS


def test_a_call_fails_when_it_is_told_to_and_then_no_more(driver: Driver) -> None:
    answer = ctypes.byref(ctypes.c_uint64())
    driver.double.fail("cuMem*Alloc*", OUT_OF_MEMORY, nth=2)

    answers = [driver.call(name, answer, 4, 0) for name in ("cuMemAlloc_v2", "cuMemHostAlloc", "cuMemAlloc_v2")]
    driver.double.fail("cuMemAlloc", OUT_OF_MEMORY, for_ever=True)
    answers += [driver.call("cuMemAlloc_v2", answer, 4) for _ in range(2)]

    assert answers == [0, OUT_OF_MEMORY, 0, OUT_OF_MEMORY, OUT_OF_MEMORY]


def test_work_that_fails_breaks_every_later_call_until_the_context_goes(driver: Driver) -> None:
    stream, memory = driver.stream(), driver.memory()
    driver.double.fail("execute", ILLEGAL_ADDRESS)

    driver.cuMemsetD8Async(memory, 0, 16, stream)
    assert driver.call("cuStreamSynchronize", stream) == ILLEGAL_ADDRESS
    assert driver.call("cuMemFree_v2", memory) == ILLEGAL_ADDRESS
    driver.cuDevicePrimaryCtxReset_v2(0)
    driver.cuCtxPopCurrent_v2(None)
    driver.cuCtxPushCurrent_v2(driver.new("cuDevicePrimaryCtxRetain", 0))

    driver.memory()


def test_the_end_of_a_capture_ends_it_even_where_that_is_made_to_fail(driver: Driver) -> None:
    stream, memory = driver.stream(), driver.memory()
    driver.cuStreamBeginCapture_v2(stream, THREAD_LOCAL)
    driver.double.fail("cuStreamEndCapture", OUT_OF_MEMORY)

    assert driver.end_capture(stream) == OUT_OF_MEMORY

    assert driver.double.failed() == "cuStreamEndCapture"
    assert driver.double.counters().graphs == 0
    driver.cuMemsetD8Async(memory, 0, 16, stream)
    driver.cuStreamSynchronize(stream)


def test_graphs_go_with_the_context_that_they_were_made_in(driver: Driver) -> None:
    stream = driver.stream()
    driver.cuStreamBeginCapture_v2(stream, THREAD_LOCAL)
    recorded = driver.recorded(stream)
    graph = driver.launchable(recorded)

    driver.cuDevicePrimaryCtxReset_v2(0)
    driver.cuCtxPushCurrent_v2(driver.new("cuDevicePrimaryCtxRetain", 0))

    assert driver.double.counters().alive == {"contexts": 1}
    assert driver.call("cuGraphLaunch", graph, driver.stream()) == INVALID_VALUE
    assert driver.call("cuGraphDestroy", recorded) == INVALID_VALUE


def test_a_graph_lacks_what_it_was_told_to_leave_out(driver: Driver) -> None:
    stream, memory = driver.stream(), driver.memory(1)
    host, back = bytes_of(b"a"), bytes_of(b"?")
    driver.cuStreamBeginCapture_v2(stream, THREAD_LOCAL)
    driver.cuMemcpyHtoDAsync_v2(memory, host, 1, stream)
    driver.cuMemcpyDtoHAsync_v2(back, memory, 1, stream)
    recorded = driver.recorded(stream)

    driver.double.leave_out(2, double.COPY_IN)
    graphs = [driver.launchable(recorded) for _ in range(3)]
    seen = []
    for graph, host.raw in zip(graphs, (b"1", b"2", b"3"), strict=True):
        driver.cuGraphLaunch(graph, stream)
        driver.cuStreamSynchronize(stream)
        seen.append(back.raw)

    assert seen == [b"1", b"1", b"3"]


def test_begun_anew_it_is_as_nobody_had_used_it(driver: Driver) -> None:
    stream, memory = driver.stream(), driver.memory()
    driver.cuMemsetD8Async(memory, 0, 16, stream)
    driver.double.set_memory(4)
    driver.double.fail("*", OUT_OF_MEMORY)

    driver.double.restart()

    assert driver.double.counters().alive == {}
    assert (driver.double.complaint, driver.double.journal()) == ("", [])
    assert driver.call("cuDeviceGet", ctypes.byref(ctypes.c_int()), 0) == NOT_INITIALISED
    driver.cuInit(0)
    assert driver.call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 4) == INVALID_CONTEXT
    driver.cuCtxPushCurrent_v2(driver.new("cuDevicePrimaryCtxRetain", 0))
    assert (driver.double.standing().retained, driver.double.standing().stacked) == (1, 1)
    driver.memory()


def test_a_call_of_a_library_on_top_is_written_down_and_fails_as_one_of_the_drivers_own(driver: Driver) -> None:
    driver.double.reset()

    assert driver.double.foreign("execute_async_v3", needs_context=True) == 0
    driver.double.fail("execute_async_v3", OUT_OF_MEMORY)
    assert driver.double.foreign("execute_async_v3", needs_context=True) == OUT_OF_MEMORY
    assert in_another_thread(lambda: driver.double.foreign("execute_async_v3", needs_context=True)) == INVALID_CONTEXT

    assert [entry.name for entry in driver.double.journal()] == 3 * ["execute_async_v3"]


@pytest.mark.parametrize("integrated", [False, True])
def test_memory_runs_out_and_an_integrated_gpu_has_no_other(driver: Driver, integrated: bool) -> None:
    driver.double.set_memory(4096)
    driver.double.set_attribute(18, int(integrated))
    driver.new("cuMemHostAlloc", 4000, 0)

    assert driver.call("cuMemAlloc_v2", ctypes.byref(ctypes.c_uint64()), 4096) == (OUT_OF_MEMORY if integrated else 0)


def test_a_host_function_may_not_use_the_driver(driver: Driver) -> None:
    stream = driver.stream()
    answers: list[int] = []
    function = HostFunction(lambda _: answers.append(driver.call("cuStreamSynchronize", stream)))

    driver.cuLaunchHostFunc(stream, function, None)
    driver.cuStreamSynchronize(stream)

    assert answers == [NOT_PERMITTED]


def test_the_journal_tells_what_was_asked_for_and_what_ran_in_order(driver: Driver) -> None:
    stream, memory = driver.stream(), driver.memory()
    driver.double.reset()

    driver.cuMemsetD8Async(memory, 0, 16, stream)
    driver.cuMemcpyDtoDAsync_v2(memory, memory, 8, stream)
    driver.cuStreamSynchronize(stream)

    entries = driver.double.journal()
    names = ["cuMemsetD8Async", "cuMemcpyDtoDAsync", "cuStreamSynchronize", "run fill", "run copy across"]
    assert [entry.name for entry in entries] == names
    assert {entry.subject for entry in entries} == {stream}
    assert len({entry.thread for entry in entries}) == 1


def test_functions_are_found_by_their_names_without_a_version(driver: Driver) -> None:
    found, status = ctypes.c_void_p(), ctypes.c_int()

    for name in ("cuMemAlloc", "cuStreamBeginCapture", "cuEventRecord", "cuGraphInstantiate", "cuInit"):
        driver.cuGetProcAddress_v2(name.encode(), ctypes.byref(found), 13000, 0, ctypes.byref(status))
        assert found.value
        assert status.value == 0
    assert driver.call("cuGetProcAddress_v2", b"cuNothing", ctypes.byref(found), 13000, 0, None) == 500


def test_every_signature_is_that_of_the_toolkit() -> None:
    root = os.environ.get("CUDA_ROOT", "/usr/local/cuda")
    headers = [*Path("/usr/local").glob("cuda*/include/cuda.h"), Path(root) / "include" / "cuda.h"]
    header = next((path for path in headers if path.is_file()), None)
    if header is None:
        pytest.skip("no CUDA toolkit here: set CUDA_ROOT")
    flags = ["-std=gnu11", "-fsyntax-only", "-w", "-D_GNU_SOURCE", "-D__CUDA_API_VERSION_INTERNAL", "-include", header]

    checked = subprocess.run([double.compiler(), *flags, double.SOURCE], capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stderr
