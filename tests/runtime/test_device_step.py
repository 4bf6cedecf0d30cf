from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edge_cnnlstm.errors import BackendError, DeviceMemoryError
from edge_cnnlstm.gpu.context import Device
from edge_cnnlstm.runtime.device_step import DeviceStep
from edge_cnnlstm.runtime.wiring import Wiring
from edge_cnnlstm.spec import ModelSpec, StatePair, TensorSpec
from tests.conftest import tiny_frames
from tests.gpu import conftest as gpu_conftest
from tests.gpu.doubles.handle import OUT_OF_MEMORY, Double
from tests.gpu.doubles.sweep import sweep
from tests.runtime.backend_contract import assert_same

double = gpu_conftest.double

TRANSFERS = ("copied", "mapped")
WIRINGS = [Wiring(transfer, graphs) for transfer in TRANSFERS for graphs in (True, False)]
each_wiring = pytest.mark.parametrize(
    "wiring", WIRINGS, ids=lambda wiring: f"{wiring.transfer}, {'a graph' if wiring.graphs else 'by hand'}"
)
each_transfer = pytest.mark.parametrize("transfer", TRANSFERS)

Make = Callable[..., DeviceStep]


@pytest.fixture
def make(double: Double, tiny_onnx: bytes, tiny_spec: ModelSpec) -> Iterator[Make]:
    """Make a step of the tiny network; it is closed after the test."""
    made: list[DeviceStep] = []

    def make(wiring: Wiring | None = None, spec: ModelSpec = tiny_spec, **engine: Any) -> DeviceStep:
        made.append(DeviceStep(double.engine(tiny_onnx, spec, **engine), spec, wiring or Wiring()))
        return made[-1]

    yield make
    for step in made:
        step.close()


def advance(step: DeviceStep) -> None:
    step.run(step.state.side, lambda: None)
    step.state.advance()


def device(*, integrated: bool, maps: bool) -> Device:
    return Device("", "8.7", "12.6", 1, integrated=integrated, maps_host_memory=maps, multiprocessors=8)


@pytest.mark.parametrize("integrated", [True, False])
@pytest.mark.parametrize("maps", [True, False])
def test_frames_are_read_in_place_where_memory_is_shared_or_it_was_asked_for(integrated: bool, maps: bool) -> None:
    found = device(integrated=integrated, maps=maps)
    assert Wiring("mapped").maps(found)
    assert not Wiring("copied").maps(found)
    assert Wiring("auto").maps(found) == (integrated and maps)


def test_a_gpu_that_shares_its_memory_copies_nothing(double: Double, make: Make) -> None:
    double.integrated()
    assert make().bytes_copied == 0


@each_wiring
@pytest.mark.parametrize("streams", [1, 3])
def test_thousands_of_steps_do_nothing_but_step(
    double: Double, make: Make, tiny_spec: ModelSpec, wiring: Wiring, streams: int
) -> None:
    step = make(wiring, tiny_spec.batched(streams))
    assert step.uses_graphs == wiring.graphs
    assert (step.bytes_copied == 0) == (wiring.transfer == "mapped")
    by_hand = ["cuEventRecordWithFlags", "cuMemcpyHtoDAsync", "cuEventRecordWithFlags", "execute_async_v3"]
    by_hand += ["cuEventRecordWithFlags", "cuMemcpyDtoHAsync", "cuEventRecordWithFlags"]
    if wiring.transfer == "mapped":
        by_hand = [name for name in by_hand if not name.startswith("cuMemcpy")]
    one = ["cuGraphLaunch"] if wiring.graphs else by_hand
    alive = double.alive()
    double.forget()
    for _ in range(2000):
        advance(step)
    wait = ["cuEventRecord", "cuEventSynchronize"]
    assert double.calls() == 2000 * ["cuCtxPushCurrent", *one, *wait, "cuCtxPopCurrent"]
    assert sum(double.moved().values()) == 2000 * step.bytes_copied
    assert double.alive() == alive


@each_wiring
def test_addresses_are_told_once_and_never_again(double: Double, make: Make, wiring: Wiring) -> None:
    double.forget()
    step = make(wiring)
    tensors = 1 + 2 + 3 + 2 + 1  # the frame, the memory, the answers, the new memory and its size
    assert double.calls().count("set_tensor_address") == 2 * tensors
    double.forget()
    for _ in range(4):
        advance(step)
    step.state.reset()
    advance(step)
    assert "set_tensor_address" not in double.calls()


def test_what_is_copied_is_the_frame_and_the_answers_and_no_memory(
    double: Double, make: Make, tiny_spec: ModelSpec
) -> None:
    small = make(Wiring("copied"))
    aligned = 256
    frame, answers = aligned, 4 * aligned  # three outputs and the size of the memory
    assert small.bytes_copied == frame + answers
    double.forget()
    advance(small)
    assert double.moved() == {"up": frame, "down": answers}


@each_wiring
def test_it_begins_empty_whatever_was_rehearsed(make: Make, tiny_spec: ModelSpec, wiring: Wiring) -> None:
    step = make(wiring)
    assert not step.frames.any()
    for _ in "01":
        assert_same(step.state.snapshot(), {pair.input: pair.zeros() for pair in tiny_spec.states})
        assert step.state.is_finite()
        step.state.advance()


@each_transfer
@pytest.mark.parametrize("direction", [1, 2])
@pytest.mark.parametrize("without", ["up", "run", "down"])
def test_a_graph_that_leaves_something_out_is_refused(
    double: Double, make: Make, caplog: pytest.LogCaptureFixture, transfer: str, direction: int, without: str
) -> None:
    double.spoil_graph(direction, without)
    step = make(Wiring(transfer=transfer))
    if transfer == "mapped" and without != "run":
        assert step.uses_graphs  # there was nothing to leave out
    else:
        assert not step.uses_graphs
        assert "no CUDA graphs, each step is enqueued by hand: a replay strays by inf" in caplog.text or without == "up"
        assert "a replay strays by" in caplog.text


@each_transfer
@pytest.mark.parametrize(("strays", "refused"), [(1e-2, True), (np.nan, True), (1e-5, False), (0.0, False)])
def test_a_graph_that_strays_is_refused_with_by_how_much(
    make: Make, caplog: pytest.LogCaptureFixture, transfer: str, strays: float, refused: bool
) -> None:
    step = make(Wiring(transfer=transfer), strays=strays)
    assert step.uses_graphs is not refused
    assert ("no CUDA graphs, each step is enqueued by hand: a replay strays by" in caplog.text) is refused


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphLaunch"])
@pytest.mark.parametrize("nth", [1, 2])
def test_a_graph_that_cuda_refuses_falls_back_and_says_why(
    double: Double, make: Make, caplog: pytest.LogCaptureFixture, call: str, nth: int
) -> None:
    double.fail(call, nth=nth)
    step = make()
    assert double.failed() == call
    assert not step.uses_graphs
    assert step.keeps_times
    assert "no CUDA graphs, each step is enqueued by hand: the GPU could not" in caplog.text
    advance(step)
    step.close()
    assert not {"graph", "exec"} & double.alive().keys()


def test_an_engine_that_cannot_be_recorded_runs_by_hand(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    step = make(synchronizes=True)
    assert not step.uses_graphs
    assert "each step is enqueued by hand: TensorRT's engine could not run" in caplog.text
    advance(step)


def test_without_cuda_bindings_it_runs_by_hand_keeps_no_times_and_says_so(
    double: Double, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    double.remove("cuda-bindings")
    step = make(Wiring("copied"))
    assert not step.uses_graphs
    assert not step.keeps_times
    assert "no CUDA graphs, and no times by the GPU's clock: cannot import cuda.bindings" in caplog.text
    double.forget()
    advance(step)
    assert double.calls()[1:4] == ["cuMemcpyHtoDAsync", "execute_async_v3", "cuMemcpyDtoHAsync"]


@each_wiring
def test_the_times_of_a_step_are_told_by_stage(make: Make, wiring: Wiring) -> None:
    step, told = make(wiring), list[int]()
    assert step.keeps_times
    advance(step)
    step.run(1, lambda: told.extend(step.times(0)))
    upload, infer, download = told
    assert infer > upload >= 0
    assert infer > download >= 0


def test_what_is_done_meanwhile_is_done_before_the_gpu_is_waited_for(double: Double, make: Make) -> None:
    step, seen = make(), list[str]()
    double.forget()
    step.run(0, lambda: seen.extend(double.calls()))
    assert seen == ["cuCtxPushCurrent", "cuGraphLaunch"]
    assert double.calls()[2:] == ["cuEventRecord", "cuEventSynchronize", "cuCtxPopCurrent"]


def test_an_error_meanwhile_is_raised_once_the_step_is_over(double: Double, make: Make) -> None:
    def meanwhile() -> None:
        raise BackendError("a clock that stands", expected="one that runs", fix="none: it is a test")

    step = make()
    double.forget()
    with pytest.raises(BackendError, match="a clock that stands"):
        step.run(0, meanwhile)
    assert "cuEventSynchronize" in double.calls()
    assert double.pushed() == 0


@pytest.mark.parametrize("difference", ["frame size", "state shape", "state name", "output missing", "dt"])
def test_an_engine_that_is_not_what_the_spec_says_is_refused_with_both(
    double: Double, tiny_onnx: bytes, tiny_spec: ModelSpec, difference: str
) -> None:
    h, c = tiny_spec.states
    specs = {
        "frame size": replace(tiny_spec, frame=TensorSpec("frame", (1, 8, 9, 3), "uint8")),
        "state shape": replace(tiny_spec, states=(h, replace(c, shape=(1, 1, 5)))),
        "state name": replace(tiny_spec, states=(h, StatePair("cell", "c_next", (1, 1, 4)))),
        "output missing": replace(tiny_spec, outputs=(*tiny_spec.outputs, TensorSpec("more", (1, 2), "float32"))),
        "dt": replace(tiny_spec, dt=TensorSpec("dt", (1, 1), "float32")),
    }
    with pytest.raises(BackendError, match=r"(?s)inputs and outputs are .*'frame'.*manifest says: .*'frame'.*build"):
        DeviceStep(double.engine(tiny_onnx, tiny_spec), specs[difference], Wiring())
    assert double.alive().keys() <= {"pinned"}


@pytest.mark.parametrize(
    ("call", "could_not"),
    [
        ("create_execution_context", "make an execution context"),
        ("set_tensor_address", "take an address for 'frame'"),
        ("execute_async_v3", "run"),
    ],
)
@pytest.mark.parametrize("graphs", [True, False])
def test_what_tensorrt_refuses_is_told_in_its_words(
    double: Double, make: Make, call: str, could_not: str, graphs: bool
) -> None:
    double.fail(call)
    with pytest.raises(BackendError, match=rf"TensorRT's engine could not {could_not}: .*Context.*: unknown"):
        make(Wiring(graphs=graphs))
    assert double.alive().keys() <= {"pinned"}


def test_a_network_without_memory_has_no_sizes_to_watch(double: Double, tiny_spec: ModelSpec) -> None:
    class Stateless:
        """An engine of a network that nothing can be computed with: only its description matters."""

        engine = property(lambda self: self)

        def tensors(self) -> dict[str, tuple[str, tuple[int, ...], str]]:
            found = {"frame": ("input", spec.frame.shape, "uint8")}
            return found | {output.name: ("output", output.shape, "float32") for output in spec.outputs}

        def create_execution_context(self) -> Any:
            return type("Context", (), {"set_tensor_address": lambda *_: True, "execute_async_v3": lambda *_: True})()

    spec = replace(tiny_spec, states=())
    step = DeviceStep(Stateless, spec, Wiring(graphs=False))  # type: ignore[arg-type]  # see its docstring
    advance(step)
    assert step.state.is_finite()
    assert step.state.snapshot() == {}
    step.close()


@each_wiring
def test_whichever_call_fails_while_it_is_made_nothing_leaks(
    tiny_onnx: bytes, tiny_spec: ModelSpec, wiring: Wiring
) -> None:
    def attempt(double: Double, _: object) -> None:
        step = DeviceStep(double.engine(tiny_onnx, tiny_spec), tiny_spec, wiring)
        step.close()
        step.close()
        assert "execution context" not in double.alive()

    failed = sweep(attempt)
    assert {"cuMemAlloc", "cuMemHostAlloc", "set_tensor_address", "cuEventCreate", "execute", "cuMemFree"} < {*failed}
    assert wiring.graphs == ({"cuGraphInstantiate", "cuGraphExecDestroy"} < {*failed})


@each_transfer
@pytest.mark.parametrize("call", ["cuMemAlloc", "cuMemHostAlloc"])
def test_too_little_memory_for_any_buffer_is_told_with_what_was_asked_for_and_what_is_free(
    double: Double, make: Make, transfer: str, call: str
) -> None:
    double.forget()
    make(Wiring(transfer))
    allocations = double.calls().count(call)
    assert allocations >= 2
    for nth in range(1, allocations + 1):
        before = double.alive()
        double.fail(call, OUT_OF_MEMORY, nth, for_ever=True)
        with pytest.raises(
            DeviceMemoryError,
            match=r"(?s)allocate [\d,]+ .*bytes for (frames|answers|memory '\w'|snapshots): .*"
            r"out of memory; [\d,]+ of [\d,]+ bytes are free.*open fewer streams",
        ):
            make(Wiring(transfer))
        double.fail("nothing")
        after = double.alive()
        assert {**after, "pinned": 0} == {**before, "pinned": 0}


@each_wiring
def test_both_ways_of_stepping_give_the_same(make: Make, wiring: Wiring) -> None:
    one, other = make(wiring), make(Wiring("copied", graphs=False))
    for pixels in tiny_frames(20, seed=1):
        for step in (one, other):
            step.frames[0] = pixels
            advance(step)
        assert_same(one.answers[1 - one.state.side], other.answers[1 - other.state.side])
    assert_same(one.state.snapshot(), other.state.snapshot())
