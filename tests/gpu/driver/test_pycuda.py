"""What PyCUDA and cuda-bindings do, which our use of them stands on: the real ones, on the stand-in for the driver."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu.driver import double

ROOT = Path(__file__).parents[3]


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


if double.compiler() is None or not is_installed("pycuda") or not is_installed("cuda.bindings"):
    pytest.skip(
        "needs a C compiler, pycuda and cuda-bindings: tests/gpu/driver/build.sh installs them without a GPU",
        allow_module_level=True,
    )

BEGIN = """
import ctypes, gc, sys, threading, warnings
from pathlib import Path
from tests.gpu.driver import double
driver = double.load(Path(sys.argv[1]))
import numpy as np
import pycuda.driver as cuda
from cuda.bindings import driver as cu
warnings.simplefilter("always")

def in_another_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

cuda.init()
context = cuda.Device(0).retain_primary_context()
context.push()
"""
LEFT = "contexts 0, allocations 0, pinned 0, streams 0, events 0, graphs 0, execs 0, complaints 0"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return double.build(tmp_path_factory.mktemp("libcuda"))


def run(library: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run this with the primary context current, in a process of its own: some of it ends the process."""
    command = [sys.executable, "-c", BEGIN + code, str(library)]
    environment = {**os.environ, "LIBCUDA_REPORT": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False)


def test_what_is_freed_popped_and_detached_in_this_order_leaves_nothing(library: Path) -> None:
    ended = run(
        library,
        "memory = cuda.mem_alloc(16); stream = cuda.Stream(1); event = cuda.Event(cuda.event_flags.DISABLE_TIMING)\n"
        "array = cuda.pagelocked_empty(4, np.float32, mem_flags=cuda.host_alloc_flags.DEVICEMAP)\n"
        "memory.free(); array.base.free(); del stream, event\n"
        "context.pop(); context.detach()",
    )

    assert ended.returncode == 0
    assert ended.stderr.strip().endswith(LEFT)


def test_a_graph_recorded_by_the_bindings_from_pycudas_stream_replays(library: Path) -> None:
    ended = run(
        library,
        """
memory, stream = cuda.mem_alloc(4), cuda.Stream(1)
source, target = cuda.pagelocked_empty(4, np.uint8), cuda.pagelocked_empty(4, np.uint8)
events = [cu.cuEventCreate(0)[1] for _ in range(2)]

@ctypes.CFUNCTYPE(None, ctypes.c_void_p)
def double_it(address):
    data = (ctypes.c_uint8 * 4).from_address(address)
    data[:] = [2 * value for value in data]

def enqueue():
    cu.cuEventRecordWithFlags(events[0], stream.handle, cu.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL)
    cuda.memcpy_htod_async(memory, source, stream)
    function = cu.CUhostFn(ctypes.cast(double_it, ctypes.c_void_p).value)
    assert cu.cuLaunchHostFunc(stream.handle, function, int(memory))[0] == 0
    cuda.memcpy_dtoh_async(target, memory, stream)
    cu.cuEventRecordWithFlags(events[1], stream.handle, cu.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL)

mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
assert cu.cuStreamBeginCapture(stream.handle, mode)[0] == 0
enqueue()
error, recorded = cu.cuStreamEndCapture(stream.handle)
error, graph = cu.cuGraphInstantiate(recorded, 0)
cu.cuGraphDestroy(recorded)
for value in (3, 4):
    source[:] = value
    cu.cuGraphLaunch(graph, stream.handle)
    stream.synchronize()
    print(target.tolist())
error, milliseconds = cu.cuEventElapsedTime(*events)
print(round(milliseconds, 6), driver.counters().pageable_copies)
""",
    )

    assert ended.stdout.split("\n")[:3] == ["[6, 6, 6, 6]", "[8, 8, 8, 8]", "0.012 0"], ended.stderr


@pytest.mark.parametrize("where", ["in_another_thread(context.push); context.pop()", "pass"], ids=["thread", "process"])
def test_whoever_ends_with_a_context_pushed_takes_the_process_down(library: Path, where: str) -> None:
    ended = run(library, where)

    assert ended.returncode == -signal.SIGABRT
    assert "context stack was not empty" in ended.stderr


def test_the_last_reference_in_a_thread_without_the_context_frees_nothing(library: Path) -> None:
    ended = run(
        library,
        "held = [cuda.mem_alloc(4), cuda.pagelocked_empty(4, np.uint8), cuda.Stream(), cuda.Event()]\n"
        "in_another_thread(held.clear)\n"
        "print(sorted(driver.counters().alive)); context.pop(); context.detach()",
    )

    left = ["allocated_bytes", "allocations", "contexts", "events", "pinned", "pinned_bytes", "streams"]
    assert ended.stdout.strip() == str(left)
    assert ended.stderr.count("could not be cleaned up") == 4


def test_any_thread_may_free_while_it_has_the_context_pushed(library: Path) -> None:
    ended = run(
        library,
        "held = [cuda.mem_alloc(4), cuda.pagelocked_empty(4, np.uint8), cuda.Stream(), cuda.Event()]\n"
        "context.pop()\n"
        "def clear(): context.push(); held.clear(); context.pop()\n"
        "in_another_thread(clear)\n"
        "print(driver.counters().alive); context.detach()",
    )

    assert ended.stdout.strip() == "{'contexts': 1}", ended.stderr


def test_the_thread_that_retained_the_context_frees_with_it_popped(library: Path) -> None:
    ended = run(
        library,
        "memory = cuda.mem_alloc(4); context.pop()\n"
        "memory.free(); print(driver.counters().alive, cuda.Context.get_current()); context.detach()",
    )

    assert ended.stdout.strip() == "{'contexts': 1} None", ended.stderr


def test_detach_leaves_the_dead_context_current_for_whoever_comes_next(library: Path) -> None:
    ended = run(
        library,
        "context.pop(); context.detach()\n"
        "print(int(cu.cuCtxGetCurrent()[1]) != 0, int(cu.cuStreamCreate(0)[0]))\n"
        "cu.cuCtxPopCurrent(); print(int(cu.cuCtxGetCurrent()[1]))",
    )

    assert ended.stdout.split() == ["True", "709", "0"], ended.stderr


@pytest.mark.parametrize("how", ["del context; gc.collect()", "in_another_thread(context.detach)"])
def test_only_detach_in_the_thread_that_retained_a_context_releases_it(library: Path, how: str) -> None:
    ended = run(library, f"context.pop(); {how}\nprint(driver.counters().alive)")

    assert ended.stdout.strip() == "{'contexts': 1}", ended.stderr


def test_out_of_memory_is_asked_twice_with_a_garbage_collection_between(library: Path) -> None:
    ended = run(
        library,
        "driver.fail('cuMemAlloc', double.OUT_OF_MEMORY)\n"
        "cuda.mem_alloc(4); driver.fail('cuMemAlloc', double.OUT_OF_MEMORY, for_ever=True)\n"
        "try: cuda.mem_alloc(4)\n"
        "except cuda.MemoryError as error: print(error)\n"
        "context.pop(); context.detach()",
    )

    assert ended.stdout.strip() == "cuMemAlloc failed: out of memory", ended.stderr


def test_a_destructor_that_cannot_push_its_context_takes_the_process_down(library: Path) -> None:
    ended = run(
        library,
        "memory = cuda.mem_alloc(4); context.pop()\n"
        "driver.fail('cuCtxPushCurrent', double.ILLEGAL_ADDRESS, for_ever=True)\n"
        "del memory",
    )

    assert ended.returncode == -signal.SIGABRT
    assert "terminate called" in ended.stderr


def test_a_dead_context_frees_nothing_and_only_says_so(library: Path) -> None:
    ended = run(
        library,
        "memory, stream = cuda.mem_alloc(4), cuda.Stream(1)\n"
        "driver.fail('execute', double.ILLEGAL_ADDRESS); cuda.memset_d8_async(memory, 0, 4, stream)\n"
        "try: stream.synchronize()\n"
        "except cuda.LogicError as error: print(error)\n"
        "memory.free(); del stream; print(driver.counters().alive)\n"
        "context.pop(); context.detach(); print(driver.counters().alive)",
    )

    assert ended.stdout.splitlines() == [
        "cuStreamSynchronize failed: an illegal memory access was encountered",
        "{'contexts': 1, 'allocations': 1, 'allocated_bytes': 4, 'streams': 1}",
        "{}",
    ]
    assert ended.stderr.count("a clean-up operation failed") == 2
