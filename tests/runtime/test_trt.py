from __future__ import annotations

import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.errors import BackendError, ClosedError, ContextLostError, ThreadError
from edge_cnnlstm.gpu.cuda import Session
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.trt import TensorRtBackend
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.runtime.wiring import Wiring
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames
from tests.gpu import conftest as gpu_conftest
from tests.gpu.doubles.handle import ILLEGAL_ADDRESS, Double
from tests.gpu.doubles.sweep import sweep
from tests.gpu.test_cuda import assert_ends_well
from tests.runtime.backend_contract import BackendContract, assert_same, copied
from tests.runtime.batch_contract import STREAMS, BatchContract
from tests.runtime.doubles import PATIENCE, Thread

double = gpu_conftest.double

WIRINGS = [Wiring(transfer, graphs) for transfer in ("copied", "mapped") for graphs in (True, False)]
each_wiring = pytest.mark.parametrize(
    "wiring", WIRINGS, ids=lambda wiring: f"{wiring.transfer}, {'a graph' if wiring.graphs else 'by hand'}"
)
Make = Callable[..., TensorRtBackend]


@each_wiring
class TestTensorRt(BackendContract):
    @pytest.fixture(autouse=True)
    def _gpu(self, double: Double, wiring: Wiring) -> None:
        self.double, self.wiring = double, wiring

    @pytest.fixture
    def engine(self, _tiny: None, _gpu: None) -> Iterator[Backend]:
        engine = self.backend()
        yield engine
        engine.close()

    def backend(self) -> Backend:
        return TensorRtBackend(self.double.engine(self.onnx, self.spec), self.spec, self.wiring)


@each_wiring
class TestTensorRtForSeveral(BatchContract):
    @pytest.fixture(autouse=True)
    def _gpu(self, double: Double, wiring: Wiring) -> None:
        self.double, self.wiring = double, wiring

    @pytest.fixture
    def engine(self, _tiny: None, _gpu: None) -> Iterator[Backend]:
        engine = self.backend(STREAMS)
        yield engine
        engine.close()

    def backend(self, streams: int) -> Backend:
        spec = self.spec.batched(streams)
        return TensorRtBackend(self.double.engine(self.onnx, spec), spec, self.wiring)


@pytest.fixture
def make(double: Double, tiny_onnx: bytes, tiny_spec: ModelSpec) -> Iterator[Make]:
    """Make a backend of the tiny network; it is closed after the test."""
    made: list[TensorRtBackend] = []

    def make(wiring: Wiring | None = None, streams: int = 1) -> TensorRtBackend:
        spec = tiny_spec.batched(streams)
        made.append(TensorRtBackend(double.engine(tiny_onnx, spec), spec, wiring or Wiring()))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture
def frames() -> NDArray[np.uint8]:
    return tiny_frames(20, seed=5)


@contextlib.contextmanager
def occupied(backend: TensorRtBackend) -> Iterator[None]:
    """While the block runs, a thread called `first` is inside, about to hold no slot."""
    inside, go = threading.Event(), threading.Event()

    def slots() -> Iterator[int]:
        inside.set()
        assert go.wait(PATIENCE)
        yield from ()

    thread = Thread(lambda: backend.state.hold(slots()), "first")
    assert inside.wait(PATIENCE)
    try:
        yield
    finally:
        go.set()
        thread.result()


def test_ten_thousand_steps_with_resets_are_those_of_onnx_runtime_bit_for_bit(
    make: Make, tiny_onnx: bytes, tiny_spec: ModelSpec
) -> None:
    wirings = [Wiring("copied"), Wiring("mapped"), Wiring("copied", graphs=False)]
    engines = [OnnxRuntimeBackend(tiny_onnx, tiny_spec), *map(make, wirings)]
    frames, generator = tiny_frames(64, seed=9), np.random.default_rng(9)
    for _ in range(10_000):
        pixels = frames[generator.integers(len(frames))]
        expected, *found = [advance(engine, pixels)["digit_logits"].tobytes() for engine in engines]
        assert found == 3 * [expected]
        if generator.random() < 0.03:
            for engine in engines:
                engine.state.reset()
    expected, *found = [engine.state.snapshot() for engine in engines]
    for memory in found:
        assert_same(memory, expected)


@each_wiring
def test_a_network_that_is_told_the_time_proves_itself(
    double: Double, tiny_dt_onnx: bytes, tiny_dt_spec: ModelSpec, tiny_dt_golden: Golden, wiring: Wiring
) -> None:
    backend = TensorRtBackend(double.engine(tiny_dt_onnx, tiny_dt_spec), tiny_dt_spec, wiring)
    assert prove(backend, tiny_dt_golden, tiny_dt_golden.expected["tiny"], 1e-5).largest <= 1e-5
    backend.close()


def test_it_says_whether_a_step_is_one_launch_and_what_it_copies(make: Make) -> None:
    assert make(Wiring("copied")).uses_graphs
    assert not make(Wiring("copied", graphs=False)).uses_graphs
    assert make(Wiring("copied")).bytes_copied > 0
    assert make(Wiring("mapped")).bytes_copied == 0


@each_wiring
def test_every_step_that_counts_is_timed_by_stage_and_no_rehearsal(
    make: Make, frames: NDArray[np.uint8], wiring: Wiring
) -> None:
    backend = make(wiring)
    assert backend.device_times is not None
    backend.rehearse()
    for pixels in frames:
        advance(backend, pixels)
        backend.rehearse()
        backend.rehearse()
    stages = backend.device_times.stages
    assert list(stages) == ["upload", "infer", "download"]
    assert {histogram.count for histogram in stages.values()} == {len(frames)}
    assert stages["infer"].maximum > stages["upload"].maximum


def test_without_cuda_bindings_nothing_is_timed_and_all_else_works(
    double: Double, make: Make, frames: NDArray[np.uint8]
) -> None:
    with_bindings = make()
    expected = [copied(advance(with_bindings, pixels)) for pixels in frames]
    double.remove("cuda-bindings")
    backend = make()
    assert backend.device_times is None
    for pixels, answer in zip(frames, expected, strict=True):
        assert_same(advance(backend, pixels), answer)


def test_several_threads_may_use_it_one_after_the_other(make: Make, frames: NDArray[np.uint8]) -> None:
    alone, shared = make(), make()
    for pixels in frames:
        expected = copied(advance(alone, pixels))
        assert_same(Thread(lambda pixels=pixels: copied(advance(shared, pixels))).result(), expected)
    assert_same(Thread(shared.state.snapshot).result(), alone.state.snapshot())
    Thread(shared.close).result()
    shared.close()


def test_a_second_thread_is_refused_and_spoils_nothing(make: Make, frames: NDArray[np.uint8]) -> None:
    backend = make()
    advance(backend, frames[0])
    memory = backend.state.snapshot()
    expected = copied(advance(backend, frames[1]))
    backend.state.restore(memory)
    calls = [backend.infer, backend.rehearse, backend.close, backend.state.reset, backend.state.snapshot]
    with occupied(backend):
        for call in [*calls, lambda: backend.state.restore(memory), lambda: backend.state.hold([0])]:
            with pytest.raises(ThreadError, match="'first' is inside"):
                call()
    assert_same(backend.state.snapshot(), memory)
    assert_same(advance(backend, frames[1]), expected)


def test_two_engines_may_be_used_by_two_threads_at_once(make: Make, frames: NDArray[np.uint8]) -> None:
    one, other = make(), make()
    with occupied(one):
        advance(other, frames[0])
    advance(one, frames[0])
    assert_same(one.state.snapshot(), other.state.snapshot())


def test_opened_and_closed_two_hundred_times_it_leaves_nothing_behind(
    double: Double, make: Make, frames: NDArray[np.uint8]
) -> None:
    def live() -> dict[str, int]:
        backend = make()
        advance(backend, frames[0])
        backend.close()
        return double.alive()

    Thread(live).result()
    first = live()
    assert first.keys() == {"pinned"}  # `make` still holds the frames of every backend
    each = first["pinned"] // 2
    for at in range(3, 201):
        assert (live() if at % 2 else Thread(live).result()) == {"pinned": at * each}
    assert double.retained() == 1


@each_wiring
def test_what_nobody_holds_of_a_closed_backend_is_freed(
    double: Double, tiny_onnx: bytes, tiny_spec: ModelSpec, frames: NDArray[np.uint8], wiring: Wiring
) -> None:
    gc.disable()  # as it is while a pipeline runs
    try:
        for at in range(6):
            backend = TensorRtBackend(double.engine(tiny_onnx, tiny_spec), tiny_spec, wiring)
            advance(backend, frames[0])
            Thread(backend.close).result() if at % 2 else backend.close()
            del backend
            Session().close()
            assert double.alive() == {}
    finally:
        gc.enable()


def test_arrays_that_the_caller_holds_stay_readable_after_closing(make: Make, frames: NDArray[np.uint8]) -> None:
    backend = make()
    answers = advance(backend, frames[0])
    kept = copied(answers)
    backend.close()
    make().close()
    assert_same(answers, kept)
    np.testing.assert_array_equal(backend.frames[0], frames[0])
    backend.frames[...] = 0


@each_wiring
def test_a_step_that_fails_leaves_the_memory_as_it_was_whichever_call_it_was(
    double: Double, make: Make, frames: NDArray[np.uint8], wiring: Wiring
) -> None:
    backend = make(wiring)
    for pixels in frames[:3]:
        advance(backend, pixels)
    memory = backend.state.snapshot()
    expected = copied(advance(backend, frames[3]))
    failed = list[str | None]()
    while True:
        backend.state.restore(memory)
        backend.frames[0] = frames[3]
        double.fail("cu*", nth=len(failed) + 1)
        with contextlib.suppress(BackendError):
            backend.infer()
            assert double.failed() in (None, "cuCtxPushCurrent", "cuCtxPopCurrent")
        if double.failed() is None:
            break
        failed.append(double.failed())
        if failed[-1] not in ("cuCtxPushCurrent", "cuCtxPopCurrent"):
            assert_same(backend.state.snapshot(), memory)
            assert_same(advance(backend, frames[3]), expected)
        assert backend.state.is_finite()
    double.fail("nothing")
    assert {"cuCtxPushCurrent", "cuEventRecord", "cuEventSynchronize"} < {*failed}
    assert ("cuGraphLaunch" in failed) == wiring.graphs


def test_an_engine_that_refuses_a_step_is_quoted_and_the_memory_stays(
    double: Double, make: Make, frames: NDArray[np.uint8]
) -> None:
    backend = make(Wiring(graphs=False))
    advance(backend, frames[0])
    memory = backend.state.snapshot()
    double.fail("execute_async_v3")
    with pytest.raises(
        BackendError, match=r"TensorRT's engine could not run: IExecutionContext::enqueueV3: unknown"
    ) as raised:
        advance(backend, frames[1])
    assert raised.value.__cause__ is None  # an error that is its own cause would keep all that its frames hold
    assert_same(backend.state.snapshot(), memory)


def test_whichever_call_fails_while_it_steps_or_closes_nothing_leaks(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    def prepare(double: Double) -> TensorRtBackend:
        return TensorRtBackend(double.engine(tiny_onnx, tiny_spec), tiny_spec, Wiring("copied"))

    def attempt(double: Double, backend: TensorRtBackend) -> None:
        try:
            for pixels in tiny_frames(2, seed=1):
                advance(backend, pixels)
            backend.state.restore(backend.state.snapshot())
            backend.state.hold([0])
            backend.state.reset()
        finally:
            backend.close()
            backend.close()
            with pytest.raises(ClosedError):
                backend.infer()

    failed = sweep(attempt, prepare)
    assert {"execute", "cuGraphLaunch", "cuEventElapsedTime", "cuStreamSynchronize", "cuMemFree"} < {*failed}
    assert {"cuGraphExecDestroy", "cuEventDestroy", "cuStreamDestroy", "cuMemcpyDtoDAsync"} < {*failed}


LEFT = {
    "open": "backend.infer()",
    "with another thread's work": "import threading; t = threading.Thread(target=backend.infer); t.start(); t.join()",
    "closed": "backend.close()",
    "dead": "double.fail('execute', 700); double.remove('cuda-bindings')\n"
    "import contextlib, logging; logging.disable()\n"
    "with contextlib.suppress(Exception): backend.infer()",
}


@pytest.mark.parametrize("state", LEFT)
def test_a_process_that_ends_with_a_backend_ends_in_order(
    double: Double, tiny_onnx: bytes, tiny_spec: ModelSpec, state: str
) -> None:
    program = (
        "from edge_cnnlstm.spec import *\n"
        "from edge_cnnlstm.runtime.backends.trt import TensorRtBackend\n"
        f"spec = {tiny_spec!r}\n"
        f"backend = TensorRtBackend(double.engine({tiny_onnx!r}, spec), spec)\n"
        f"{LEFT[state]}\n"
    )
    assert_ends_well(double, program)


def die(double: Double) -> None:
    """Let the context die of the next work that runs."""
    double.fail("execute", ILLEGAL_ADDRESS)


@each_wiring
@pytest.mark.parametrize("where", ["the same thread", "another thread"])
def test_a_context_that_dies_under_a_step_is_replaced_once_and_memory_begins_anew(
    double: Double, make: Make, frames: NDArray[np.uint8], wiring: Wiring, where: str
) -> None:
    backend = make(wiring)
    first = copied(advance(backend, frames[0]))
    advance(backend, frames[1])
    old_frames, old_memory = backend.frames, backend.state
    die(double)
    with pytest.raises(ContextLostError, match=r"(?s)illegal memory access.*memory is empty.*next frame"):
        backend.infer() if where == "the same thread" else Thread(backend.infer).result()
    assert double.calls().count("cuDevicePrimaryCtxReset") == 1
    assert backend.frames is not old_frames
    with pytest.raises(ClosedError):
        old_memory.reset()
    assert_same(backend.state.snapshot(), {pair.input: pair.zeros() for pair in backend.spec.states})
    assert backend.uses_graphs == wiring.graphs
    for _ in range(3):
        backend.state.reset()
        assert_same(advance(backend, frames[0]), first)


def test_a_context_that_dies_under_a_rehearsal_is_replaced_too(
    double: Double, make: Make, frames: NDArray[np.uint8]
) -> None:
    backend = make()
    first = copied(advance(backend, frames[0]))
    die(double)
    with pytest.raises(ContextLostError):
        backend.rehearse()
    assert_same(advance(backend, frames[0]), first)


def test_a_context_that_dies_again_is_an_error_for_good(double: Double, make: Make, frames: NDArray[np.uint8]) -> None:
    backend = make()
    die(double)
    with pytest.raises(ContextLostError):
        backend.infer()
    die(double)
    for _ in "12":
        with pytest.raises(BackendError, match=r"(?s)died again: .*restart the process") as raised:
            backend.infer()
        assert not isinstance(raised.value, ContextLostError)
    assert double.calls().count("cuDevicePrimaryCtxReset") == 1
    backend.close()
    with pytest.raises(ClosedError):
        backend.infer()


FAILING = ["cuDevicePrimaryCtxReset", "cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuMemAlloc", "execute_async_v3"]


@pytest.mark.parametrize("call", FAILING)
def test_a_backend_that_cannot_be_built_anew_is_closed_and_says_why(
    double: Double, make: Make, frames: NDArray[np.uint8], call: str
) -> None:
    backend = make()
    kill_then_fail(double, backend, call)
    with pytest.raises(
        BackendError, match=r"(?s)died under a step \(.*nothing new could be built: .*restart"
    ) as raised:
        backend.infer()
    assert not isinstance(raised.value, ContextLostError)
    double.fail("nothing")
    for use in (backend.infer, backend.rehearse, backend.state.snapshot, backend.state.reset):
        with pytest.raises(ClosedError):
            use()
    backend.close()


def kill_then_fail(double: Double, backend: TensorRtBackend, call: str) -> None:
    """Let the context be dead by the next step, and then this call fail."""
    die(double)
    with pytest.raises(BackendError):
        backend.state.snapshot()
    double.fail(call, for_ever=True)


def test_without_cuda_bindings_a_dead_context_is_the_end(double: Double, make: Make, frames: NDArray[np.uint8]) -> None:
    double.remove("cuda-bindings")
    backend = make()
    die(double)
    with pytest.raises(BackendError, match=r"nothing new could be built: cannot import cuda\.bindings"):
        backend.infer()
    with pytest.raises(ClosedError):
        backend.infer()
    backend.close()


def test_of_backends_that_die_together_none_is_built_anew_while_another_is_open(
    double: Double, make: Make, frames: NDArray[np.uint8]
) -> None:
    one, other = make(), make()
    first = copied(advance(other, frames[0]))
    die(double)
    with pytest.raises(BackendError, match=r"(?s)1 more engine uses.*restart the process") as raised:
        one.infer()
    assert not isinstance(raised.value, ContextLostError)
    with pytest.raises(ClosedError):
        one.infer()
    other.frames[...] = frames[1]  # they are still there
    with pytest.raises(ContextLostError):
        other.infer()
    assert_same(advance(other, frames[0]), first)
    assert double.calls().count("cuDevicePrimaryCtxReset") == 1


@pytest.mark.parametrize("sound", [True, False])
def test_an_engine_that_was_built_anew_is_proven_before_it_serves(
    double: Double, tiny_onnx: bytes, tiny_spec: ModelSpec, tiny_golden: Golden, sound: bool
) -> None:
    checked: list[Backend] = []

    def check(backend: Backend) -> None:
        checked.append(backend)
        prove(backend, tiny_golden, tiny_golden.expected["tiny"], 1e-5 if sound else -1)

    backend = TensorRtBackend(double.engine(tiny_onnx, tiny_spec), tiny_spec, check=check)
    assert not checked
    die(double)
    with pytest.raises(BackendError, match="memory is empty" if sound else "nothing new could be built: .*strays"):
        backend.infer()
    assert checked == [backend]
    if sound:
        backend.infer()
    else:
        with pytest.raises(ClosedError):
            backend.infer()
    backend.close()


def test_closing_a_backend_in_a_dead_context_works(double: Double, make: Make) -> None:
    backend = make()
    die(double)
    with pytest.raises(BackendError):
        backend.state.snapshot()
    Thread(backend.close).result()
    backend.close()
    assert "execution context" not in double.alive()


def test_a_death_is_logged_with_its_cause(double: Double, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    backend = make()
    die(double)
    with caplog.at_level(logging.ERROR), pytest.raises(ContextLostError):
        backend.infer()
    assert "the GPU's context died, building the engine anew: " in caplog.text
    assert "illegal memory access" in caplog.text


def test_whichever_call_fails_while_it_is_built_anew_nothing_leaks(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    def prepare(double: Double) -> TensorRtBackend:
        backend = TensorRtBackend(double.engine(tiny_onnx, tiny_spec), tiny_spec, Wiring("copied"))
        die(double)
        with pytest.raises(BackendError):
            backend.state.snapshot()
        return backend

    def attempt(double: Double, backend: TensorRtBackend) -> None:
        try:
            with contextlib.suppress(ContextLostError):
                backend.infer()
            advance(backend, tiny_frames(1, seed=1)[0])
        finally:
            backend.close()
            backend.close()

    failed = sweep(attempt, prepare)
    assert {"cuDevicePrimaryCtxReset", "cuDevicePrimaryCtxRetain", "cuMemAlloc", "cuGraphInstantiate"} < {*failed}


def test_poison_is_found_without_a_look_at_the_memory(double: Double, make: Make, frames: NDArray[np.uint8]) -> None:
    backend = make(streams=2)
    advance(backend, frames[0])
    double.forget()
    assert backend.state.is_finite()
    assert double.calls() == []
    memory = backend.state.snapshot()
    memory["c"][0, 1, 0] = np.nan
    backend.state.restore(memory)
    advance(backend, frames[1])
    assert [backend.state.is_finite(slot) for slot in (0, 1)] == [True, False]
    backend.state.reset(1)
    advance(backend, frames[1])
    assert backend.state.is_finite()
