"""What only a GPU can prove of the runtime on one. README.md beside this file says how to run it.

With the stand-in everything is real but the engine; at the end the same with TensorRT itself, where it runs.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.device.stand_in import compiled
from benchmarks.processes import resident_bytes
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.errors import BackendError, DependencyError, DeviceMemoryError, EdgeError, ThreadError
from edge_cnnlstm.gpu import context, cuda
from edge_cnnlstm.gpu.capture import load_bindings
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.trt import TensorRtBackend, open_tensorrt
from edge_cnnlstm.runtime.device_step import Wiring
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import PERIOD, ROOT, Weights
from tests.gpu.stand_in import filled, free_bytes, network, opened, tiny_network
from tests.runtime.backend_contract import BackendContract, Values, assert_close, assert_same, copied
from tests.runtime.batch_contract import BatchContract

pytestmark = pytest.mark.gpu
pytest.importorskip("pycuda.driver", reason="no PyCUDA here, or no driver of NVIDIA's", exc_type=ImportError)

MIB = 1 << 20
STEPS = 10_000
WIRINGS = [
    pytest.param(Wiring(transfer, graphs=graphs), id=f"{transfer}-{'graph' if graphs else 'enqueued'}")
    for transfer, graphs in product(("copied", "mapped"), (True, False))
]
TRANSFERS = [pytest.param(Wiring(transfer), id=transfer) for transfer in ("copied", "mapped")]


@pytest.fixture(autouse=True, scope="module")
def _gpu() -> None:
    try:
        context.describe()
        load_bindings()
        with cuda.Session():
            compiled()
    except DependencyError as error:
        pytest.skip(error.found)


class OnTheStandIn:
    """Opens the tiny network in each wiring; what was asked for is what runs."""

    wiring: Wiring
    weights: Weights
    spec: ModelSpec

    @pytest.fixture(autouse=True, params=WIRINGS)
    def _wiring(self, request: pytest.FixtureRequest, tiny_weights: Weights) -> None:
        self.wiring, self.weights = request.param, tiny_weights

    def of(self, streams: int) -> TensorRtBackend:
        backend = opened(tiny_network(self.spec.batched(streams), self.weights), self.wiring)
        assert backend.uses_graphs == self.wiring.graphs
        assert (backend.bytes_copied == 0) == (self.wiring.transfer == "mapped")
        return backend


class TestOnAGpu(OnTheStandIn, BackendContract):
    def backend(self) -> Backend:
        return self.of(1)


class TestOnAGpuForSeveral(OnTheStandIn, BatchContract):
    def backend(self, streams: int) -> Backend:
        return self.of(streams)


def follows(backend: Backend, reference: Backend, tolerance: float, *, steps: int = STEPS) -> None:
    """Step both with the same noise, reset both now and then, and hold every answer and the last memory together."""
    draw = np.random.default_rng(5)
    for _ in range(steps):
        if draw.random() < 0.003:
            backend.state.reset()
            reference.state.reset()
        pixels = draw.integers(0, 256, backend.frames.shape, dtype=np.uint8)
        dt = float(draw.choice([0, PERIOD, 3 * PERIOD, 1.0]))
        assert_close(advance(backend, pixels, dt), advance(reference, pixels, dt), tolerance)
    assert_close(backend.state.snapshot(), reference.state.snapshot(), tolerance)
    backend.close()
    reference.close()


@pytest.mark.parametrize("wiring", WIRINGS)
@pytest.mark.parametrize("told", [False, True], ids=["", "dt"])
def test_ten_thousand_steps_follow_onnx_runtime_through_resets(
    wiring: Wiring, told: bool, tiny_weights: Weights, request: pytest.FixtureRequest
) -> None:
    spec, onnx = (request.getfixturevalue(f"tiny_{'dt_' if told else ''}{what}") for what in ("spec", "onnx"))
    follows(opened(tiny_network(spec, tiny_weights), wiring), OnnxRuntimeBackend(onnx, spec), 1e-5)


@pytest.mark.parametrize("streams", [1, 5])
def test_copied_or_mapped_replayed_or_enqueued_the_answers_are_the_same_bit_for_bit(streams: int) -> None:
    noise = network(streams=streams)
    backends = [opened(noise, parameters.values[0]) for parameters in WIRINGS]
    draw = np.random.default_rng(1)
    for _ in range(1_000):
        pixels = draw.integers(0, 256, noise.spec.frame.shape, dtype=np.uint8)
        first, *others = [copied(advance(backend, pixels)) for backend in backends]
        for answers in others:
            assert_same(answers, first)
    first, *others = [backend.state.snapshot() for backend in backends]
    for memory in others:
        assert_same(memory, first)
    for backend in backends:
        backend.close()


@pytest.mark.parametrize("wiring", WIRINGS)
def test_two_hundred_thousand_frames_leave_nothing_behind(wiring: Wiring) -> None:
    backend = opened(network(), wiring)
    frames = np.random.default_rng(2).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)

    def run(count: int) -> tuple[int, int]:
        for at in range(count):
            advance(backend, frames[at % len(frames)])
        gc.collect()
        return free_bytes(backend), resident_bytes()

    free, resident = run(5_000)
    free_after, resident_after = run(200_000)
    assert free_after == free
    assert resident_after - resident < 4 * MIB
    backend.close()


def courses(networks: int, steps: int) -> list[list[Values]]:
    """What each of so many streams answers when nobody else is there."""
    return [course(opened(network()), seed, steps) for seed in range(networks)]


def course(backend: TensorRtBackend, seed: int, steps: int) -> list[Values]:
    draw = np.random.default_rng(seed)
    answers = [copied(advance(backend, draw.integers(0, 256, (1, 16, 16, 3), np.uint8))) for _ in range(steps)]
    backend.close()
    return answers


def test_threads_with_an_engine_each_do_not_hear_of_each_other() -> None:
    steps, found = 2_000, dict[int, list[Values]]()
    alone = courses(4, steps)

    def work(seed: int) -> None:
        found[seed] = course(opened(network()), seed, steps)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(len(alone))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, expected in enumerate(alone):
        for step, answers in zip(found[seed], expected, strict=True):
            assert_same(step, answers)


def test_an_engine_goes_from_thread_to_thread_and_serves_one_at_a_time() -> None:
    (expected,) = courses(1, 20)
    backend, draw, found = opened(network()), np.random.default_rng(0), list[Values]()
    refused: list[BaseException] = []

    def step() -> None:
        found.append(copied(advance(backend, draw.integers(0, 256, (1, 16, 16, 3), np.uint8))))

    def intrude() -> None:
        try:
            backend.infer()
        except ThreadError as error:
            refused.append(error)

    for work in [step] * 19:
        run_in_a_thread(work)
    with backend._step._session:
        run_in_a_thread(intrude)
    step()
    assert len(refused) == 1
    for answers, alone in zip(found, expected, strict=True):
        assert_same(answers, alone)
    run_in_a_thread(backend.close)


def run_in_a_thread(work: Any) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_whatever_does_not_fit_is_refused_and_leaves_nothing_behind() -> None:
    """The less was free, the earlier an allocation failed: one more piece is given back after each attempt."""
    large = network(size=1024, hidden=256, classes=20_000, streams=4)
    attempts: list[type[EdgeError]] = []
    opened(large).close()
    keeper, pieces = opened(network()), 0
    at_first = free_bytes(keeper)
    with filled(4 * MIB) as ballast:
        while not fits(large, attempts):
            left = free_bytes(keeper)
            fits(large, attempts)
            gc.collect()
            assert free_bytes(keeper) == left
            ballast.pop().free()
            pieces += 1
    gc.collect()
    assert at_first - free_bytes(keeper) <= 4 * MIB
    assert pieces > 10
    assert DeviceMemoryError in attempts
    keeper.close()


def fits(large: Any, attempts: list[type[EdgeError]]) -> bool:
    try:
        backend = opened(large)
    except BackendError as error:
        if "memory" not in error.found:
            raise
        attempts.append(type(error))
        return False
    fits = backend.uses_graphs
    backend.close()
    return fits


def test_two_hundred_times_opened_and_closed_nothing_is_left_behind() -> None:
    keeper = opened(network())

    def again(times: int) -> tuple[int, int]:
        for _ in range(times):
            backend = opened(network(size=64))
            advance(backend, np.zeros((64, 64, 3), np.uint8))
            backend.close()
        gc.collect()
        return free_bytes(keeper), resident_bytes()

    free, resident = again(20)
    free_after, resident_after = again(200)
    assert free_after == free
    assert resident_after - resident < 16 * MIB
    keeper.close()


PREPARED = """
import contextlib, sys, threading
import numpy as np
from edge_cnnlstm.errors import ClosedError
from edge_cnnlstm.runtime.backends.base import advance
from edge_cnnlstm.runtime.device_step import Wiring
from tests.gpu.stand_in import network, opened
backend = opened(network(), Wiring(graphs={graphs}))
frames = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
def course():
    return [advance(backend, pixels)["logits"].tobytes() for pixels in frames]
expected = course()
"""
WAYS_OUT = {
    "nothing closed": "",
    "closed": "backend.close()",
    "several, and a thread is stepping": """
        others = [opened(network()) for _ in range(3)]
        def step():
            with contextlib.suppress(ClosedError):
                while True:
                    advance(backend, frames[0])
        threading.Thread(target=step, daemon=True).start()
    """,
    "stepped in another thread": "thread = threading.Thread(target=course); thread.start(); thread.join()",
    "through sys.exit": "sys.exit(0)",
}


def ended(program: str, *, graphs: bool) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, which may take CUDA's context with it."""
    return subprocess.run(
        [sys.executable, "-c", PREPARED.format(graphs=graphs) + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize("graphs", [True, False], ids=["graph", "enqueued"])
@pytest.mark.parametrize("how", WAYS_OUT)
def test_the_interpreter_exits_in_peace(how: str, graphs: bool) -> None:
    done = ended(WAYS_OUT[how], graphs=graphs)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "terminate" not in done.stderr


STICKY = """
from pycuda import compiler
from edge_cnnlstm.errors import BackendError, ContextLostError

def break_the_context():
    step = backend._step
    with step._session:
        source = "__global__ void wild(int *where) { *where = 1; }"
        wild = compiler.SourceModule(source).get_function("wild")
        wild.prepare("P").prepared_async_call((1, 1), (1, 1, 1), step._session._stream, 16)

break_the_context()
try:
    advance(backend, frames[0])
except ContextLostError as error:
    assert "illegal" in error.found, error
else:
    raise SystemExit("the first death went unnoticed")
assert backend.state.is_finite()
assert course() == expected, "rebuilt, and wrong"
break_the_context()
try:
    advance(backend, frames[0])
except ContextLostError:
    raise SystemExit("rebuilt twice")
except BackendError as error:
    assert "again" in error.found, error
else:
    raise SystemExit("the second death went unnoticed")
backend.close()
"""


@pytest.mark.parametrize("graphs", [True, False], ids=["graph", "enqueued"])
def test_after_an_illegal_address_everything_is_built_anew_once(graphs: bool) -> None:
    done = ended(STICKY, graphs=graphs)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class InTensorRt:
    """A bundle whose first graph TensorRT runs here; `graphs` are those that it is to build."""

    bundle: Bundle
    graphs: list[Graph]


@pytest.fixture(scope="module")
def in_tensorrt(tiny_dt_bundle: Path) -> InTensorRt:
    """The tiny network, or what EDGE_CNNLSTM_BUNDLE names; skips with TensorRT's own words where it does not run."""
    bundle = bundle_format.read(os.environ.get("EDGE_CNNLSTM_BUNDLE") or tiny_dt_bundle)
    graphs = [graph for graph in bundle.manifest.graphs if graph.dialect in ("tensorrt", "portable")]
    try:
        open_tensorrt(bundle, graphs[0], 1).close()
    except EdgeError as error:
        pytest.skip(f"TensorRT does not run here: {error.found}")
    return InTensorRt(bundle, graphs)


@pytest.fixture
def engines(in_tensorrt: InTensorRt) -> Iterator[dict[str, TensorRtBackend]]:
    """Every graph that TensorRT is given, built here."""
    found = {graph.name: open_tensorrt(in_tensorrt.bundle, graph, 1) for graph in in_tensorrt.graphs}
    yield found
    for backend in found.values():
        backend.close()


def test_every_graph_is_built_and_reproduces_the_golden_rollout(
    in_tensorrt: InTensorRt, engines: Mapping[str, TensorRtBackend]
) -> None:
    golden = in_tensorrt.bundle.golden
    for graph in in_tensorrt.graphs:
        assert engines[graph.name].uses_graphs
        prove(engines[graph.name], golden, golden.expected[graph.name], graph.tolerance)


def test_every_engine_computes_in_the_precision_that_its_plan_says(in_tensorrt: InTensorRt) -> None:
    from edge_cnnlstm.gpu import audit, engine, tensorrt

    trt = tensorrt.load()
    for graph in in_tensorrt.graphs:
        rtx = trt.__name__ == "tensorrt_rtx"
        plan = engine.build_plan(in_tensorrt.bundle.graph(graph.name), graph.name, ahead_of_time=rtx)
        with cuda.Session():
            layers = audit.layers(engine.deserialize(plan.data, graph.name, trt))
            assert layers
            assert not audit.strays(layers, plan.precisions), graph.name


def test_ten_thousand_steps_in_tensorrt_follow_onnx_runtime(
    in_tensorrt: InTensorRt, engines: Mapping[str, TensorRtBackend]
) -> None:
    spec = in_tensorrt.bundle.manifest.model
    for graph in in_tensorrt.graphs:
        if graph.precision == "fp32":
            reference = OnnxRuntimeBackend(in_tensorrt.bundle.graph(graph.name), spec)
            follows(engines[graph.name], reference, 1e-3)


def test_tensorrt_without_memory_to_build_in_says_so_and_builds_once_there_is_some(in_tensorrt: InTensorRt) -> None:
    from edge_cnnlstm.gpu import engine, tensorrt

    graph, rtx = in_tensorrt.graphs[0], tensorrt.load().__name__ == "tensorrt_rtx"
    onnx = in_tensorrt.bundle.graph(graph.name)
    with filled(MIB), pytest.raises(BackendError, match=r"(?i)memory"):
        engine.build_plan(onnx, graph.name, ahead_of_time=rtx)
    assert engine.build_plan(onnx, graph.name, ahead_of_time=rtx).data
