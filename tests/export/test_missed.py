"""Networks that are told how long ago their last frame was: from calibration to the bundle's rollout."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle import golden as golden_format
from edge_cnnlstm.errors import BackendError, ParityError
from edge_cnnlstm.gpu.engine import Configuration, build_plan
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.training.checkpoint import load_checkpoint, load_recipe_of, save_checkpoint, save_recipe
from edge_cnnlstm.training.config import ModelConfig
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.fold import fold
from edge_cnnlstm.training.model import MOST_MISSED, CnnLstm
from edge_cnnlstm.training.spec_of import spec_of
from export import controls
from export.controls import TIME_IGNORED
from export.graphs import export_sequence, export_step
from export.intervals import intervals
from export.measure import measure_graph, measure_network
from export.parity import Strayed, prove_graph
from export.pipeline import GOLDEN_STEPS, _golden
from export.points import quantizable
from export.precisions import Precision
from export.quantize import calibrate
from export.rollout import OnnxSteps
from tests.export.test_batch import check_is_for_any_batch

ROOT = Path(__file__).parent.parent.parent
Frames = NDArray[np.uint8]


def told_of_missed_frames(model: CnnLstm) -> CnnLstm:
    """The same network, with something to add to its gates for every frame that it missed."""
    changed = CnnLstm(ModelConfig.model_validate(model.config.model_dump() | {"dt_input": True})).eval()
    changed.load_state_dict(model.state_dict(), strict=False)
    assert changed.missed is not None
    with torch.no_grad():
        changed.missed.weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(5))
    return changed


@pytest.fixture(scope="module")
def told(trained: CnnLstm) -> CnnLstm:
    return told_of_missed_frames(trained)


@pytest.fixture(scope="module")
def networks(told: CnnLstm, rollouts: list[Frames], precisions: dict[str, Precision]) -> dict[str, CnnLstm]:
    """It, in every precision."""
    folded = fold(told)
    split = quantizable(folded)
    calibration = calibrate(split, rollouts)
    return {name: how.network(split, calibration) for name, how in precisions.items()} | {"fp32": folded}


@pytest.fixture(scope="module")
def graphs(networks: dict[str, CnnLstm]) -> dict[str, onnx.ModelProto]:
    return {name: export_step(network) for name, network in networks.items()}


def resets_of(frames: Frames) -> NDArray[np.bool_]:
    return np.isin(np.arange(len(frames)), (40, 130))


def between(network: CnnLstm, resets: NDArray[np.bool_], streams: int = 1) -> NDArray[np.float32]:
    found = intervals(network.config, resets, streams)
    assert found is not None
    return found


@pytest.mark.parametrize("steps", [GOLDEN_STEPS, 128, 1000])
def test_a_course_has_gaps_of_every_length_and_none_after_a_reset(told: CnnLstm, steps: int) -> None:
    resets = np.isin(np.arange(steps), (steps // 3, steps - 1))
    periods = between(told, resets, streams=2) * told.config.frame_rate

    assert periods.dtype == np.float32
    assert not periods[resets].any()
    assert not periods[0].any()
    others = np.delete(periods, [0, *np.flatnonzero(resets)], axis=0)
    assert np.median(others) == pytest.approx(1)
    for stream in others.T:
        assert ((stream > 1.5) & (stream < 8.5)).any()
        assert (stream > MOST_MISSED + 1.5).any()
    assert np.array_equal(between(told, resets[:50], streams=2), between(told, resets, streams=2)[:50])


def test_a_network_that_does_not_ask_is_told_nothing(trained: CnnLstm) -> None:
    assert intervals(trained.config, np.zeros(9, np.bool_)) is None


def test_the_time_stands_between_the_frame_and_the_memory(graphs: dict[str, onnx.ModelProto]) -> None:
    for graph in graphs.values():
        check_is_for_any_batch(graph)
        assert [value.name for value in graph.graph.input] == ["frame", "dt", "h", "c"]
        assert graph.graph.input[1].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert [dim.dim_value for dim in graph.graph.input[1].type.tensor_type.shape.dim][1:] == [1]


def test_what_missed_frames_add_is_fp32_in_every_precision(told: CnnLstm, graphs: dict[str, onnx.ModelProto]) -> None:
    assert told.missed is not None
    expected = told.missed.weight.detach().numpy()
    for name, graph in graphs.items():
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
        reached, passed, weights = {"dt"}, [], []
        for node in graph.graph.node:
            if node.input and node.input[0] in reached:
                passed.append(node.op_type)
                reached |= set(node.output) if node.op_type != "MatMul" else set()
                weights += [constants[other] for other in node.input[1:] if node.op_type == "MatMul"]

        assert passed == ["Mul", "Sub", "Clip", "MatMul"], name
        assert weights[0].dtype == np.float32
        np.testing.assert_array_equal(weights[0], expected, err_msg=name)


def test_calibration_tells_of_missed_frames(told: CnnLstm, rollouts: list[Frames]) -> None:
    seen: list[torch.Tensor] = []
    split = quantizable(fold(told))
    assert split.missed is not None
    split.missed.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    calibrate(split, rollouts)

    periods = torch.cat(seen).numpy() * told.config.frame_rate
    assert len(periods) == sum(map(len, rollouts))
    assert (periods == 0).sum() == len(rollouts)
    assert (periods > 1.5).any()


@pytest.mark.parametrize("name", ["fp32", "fp16_tensorrt", "int8_tensorrt", "int8_onnxruntime"])
def test_each_graph_hears_of_missed_frames_as_torch_does(
    name: str,
    networks: dict[str, CnnLstm],
    graphs: dict[str, onnx.ModelProto],
    precisions: dict[str, Precision],
    frames: Frames,
) -> None:
    tolerance = precisions[name].tolerance

    found = prove_graph(name, graphs[name], networks[name], frames, resets_of(frames), tolerance)

    assert found.controls[TIME_IGNORED].beyond(Strayed(*tolerance))
    assert max(found.permuted, found.batched) <= tolerance.largest
    assert found.interleaved == 0

    deaf = controls.with_time_ignored(graphs[name], "dt")
    with pytest.raises(ParityError, match=r"strays from torch.*output of 'missed'"):
        prove_graph(name, deaf, networks[name], frames, resets_of(frames), tolerance)


def test_a_network_that_has_learnt_nothing_of_missed_frames_need_not_show_it(
    told: CnnLstm, precisions: dict[str, Precision], frames: Frames
) -> None:
    untaught = copy.deepcopy(fold(told))
    assert untaught.missed is not None
    with torch.no_grad():
        untaught.missed.weight.zero_()

    tolerance = precisions["fp32"].tolerance
    found = prove_graph("fp32", export_step(untaught), untaught, frames, resets_of(frames), tolerance)

    assert set(found.controls) == {"one weight nudged", "h and c swapped", "states matched by sorted names"}


def test_a_period_between_frames_is_as_if_nothing_had_been_said(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], frames: Frames
) -> None:
    network, never = networks["int8_onnxruntime"], np.zeros(len(frames), np.bool_)
    steps = OnnxSteps(graphs["int8_onnxruntime"], spec_of(network))
    period = np.full((len(frames), 1), 1 / network.config.frame_rate, np.float32)

    silent, regular = (steps.course(frames[:, None], never, dt) for dt in (None, period))
    irregular = steps.course(frames[:, None], never, between(network, never))

    for name, values in silent.items():
        np.testing.assert_array_equal(regular[name], values)
        assert np.abs(irregular[name] - values).max() > 0.02 * np.abs(values).max()


def test_whole_clips_are_scored_as_if_no_frame_were_missed(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], clips: list[Clip]
) -> None:
    network = networks["fp32"]

    by_graph = measure_graph(graphs["fp32"], spec_of(network), clips[:4], network.config.heads)
    by_network = measure_network(network, clips[:4])

    for found, expected in zip(by_graph.answers, by_network.answers, strict=True):
        np.testing.assert_allclose(found["digit_logits"], expected["digit_logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["fp32", "int8_onnxruntime"])
def test_a_sequence_is_told_of_every_step(name: str, networks: dict[str, CnnLstm], frames: Frames) -> None:
    network, steps, streams = networks[name], 20, 2
    spec, never = spec_of(network).batched(streams), np.zeros(steps, np.bool_)
    both = np.stack([frames[:steps], frames[steps : 2 * steps]], axis=1)
    dt = between(network, never, streams)

    stepped = OnnxSteps(export_step(network), spec).course(both, never, dt)
    graph = export_sequence(network, steps, streams)
    whole = OnnxSteps(graph, spec).step(both.swapaxes(0, 1).copy(), dt.T.copy())

    assert [dim.dim_value for dim in graph.graph.input[1].type.tensor_type.shape.dim] == [streams, steps, 1]
    for tensor, values in stepped.items():
        expected = values[-1] if tensor in {"h_next", "c_next"} else values.swapaxes(0, 1)
        atol = 1e-4 if name == "fp32" else 0.05 * float(np.abs(expected).max())
        np.testing.assert_allclose(whole[tensor], expected, rtol=0, atol=atol)


@pytest.mark.parametrize("batch", [1, 8])
def test_tensorrt_builds_a_graph_that_is_told(graphs: dict[str, onnx.ModelProto], batch: int) -> None:
    for name in ("fp32", "fp16_tensorrt", "mixed_tensorrt", "int8_tensorrt"):
        built = build_plan(graphs[name].SerializeToString(), name, Configuration(batch=batch), ahead_of_time=True)
        assert built.layers > 20


def test_the_golden_rollout_says_when_frames_came(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], frames: Frames
) -> None:
    network, name = networks["fp32"], "fp32"
    golden = golden_format.parse(golden_format.dump(_golden({name: network}, frames[:GOLDEN_STEPS])))
    golden_format.check(golden, spec_of(network), [name])
    assert golden.dt is not None
    assert (golden.dt * network.config.frame_rate > MOST_MISSED + 1.5).any()
    assert not golden.dt[golden.resets].any()

    backend = OnnxRuntimeBackend(graphs[name].SerializeToString(), spec_of(network))
    prove(backend, golden, golden.expected[name], tolerance=1e-3)
    with pytest.raises(BackendError, match="strays from the golden rollout"):
        prove(backend, replace(golden, dt=np.zeros_like(golden.dt)), golden.expected[name], tolerance=1e-3)


@pytest.mark.slow
def test_a_network_trained_to_be_told_becomes_a_bundle(checkpoint: Path, tmp_path: Path) -> None:
    """Through the command line, proof in a fresh process included."""
    recipe = load_recipe_of(checkpoint)
    network = recipe.model.model_copy(update={"dt_input": True})
    save_checkpoint(told_of_missed_frames(load_checkpoint(checkpoint)), tmp_path / "told")
    save_recipe(recipe.model_copy(update={"model": network}), tmp_path / "told")
    few = ["--clips", "4", "--validation-clips", "16", "--sensitivity-clips", "2", "--steps", "128", "--budget", "1"]
    rules = ["--gap-ms", "0", "--idle-ms", "2500"]
    command = [sys.executable, "-m", "export", tmp_path / "told", "-o", tmp_path / "told.edge", *few, *rules]

    made = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT, check=False)

    assert made.returncode == 0, made.stdout + made.stderr
    bundle = bundle_format.read(tmp_path / "told.edge")
    assert bundle.manifest.model.dt is not None
    assert (bundle.manifest.model.rules.gap_ms, bundle.manifest.model.rules.idle_ms) == (None, 2500)
    assert bundle.golden.dt is not None
    assert bundle.golden.dt.any()
