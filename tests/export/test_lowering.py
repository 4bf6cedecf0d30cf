from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from edge_cnnlstm.errors import DataError, ExportError, ParityError
from edge_cnnlstm.gpu.engine import build_plan
from edge_cnnlstm.training.config import preset_config
from edge_cnnlstm.training.data.clip import Corpus
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.spec_of import spec_of
from export.graphs import StepModule, export_step
from export.parity import _with_casts, golden_rollout, prove_graph, with_flipped_weights, with_swapped_state
from export.pipeline import LOWERINGS, first_clips, lower_all
from export.qdq import ActivationQuantizer, QuantizedConv, QuantizedLinear
from export.quantize import calibrate, fold_batch_norm, quantizable

GRAPHS = sorted(LOWERINGS)


@pytest.fixture(scope="session")
def graphs(lowered: dict[str, CnnLstm]) -> dict[str, onnx.ModelProto]:
    return {name: export_step(StepModule(network), spec_of(network)) for name, network in lowered.items()}


def count(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


def test_folding_batch_norm_and_splitting_gates_change_nothing(trained: CnnLstm) -> None:
    frames = torch.randint(0, 256, (2, 5, 64, 64, 3), dtype=torch.uint8)
    split = quantizable(fold_batch_norm(trained))

    with torch.inference_mode():
        expected, state = trained.sequence(frames, trained.initial_state(2))
        found, found_state = split.sequence(frames, split.initial_state(2))

    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in split.modules())
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found_state.c, state.c, rtol=1e-4, atol=1e-4)


def test_x_and_h_have_scales_of_their_own(lowered: dict[str, CnnLstm]) -> None:
    cell = lowered["int8_tensorrt"].cells[0]

    assert isinstance(cell.gates_x, QuantizedLinear)
    assert isinstance(cell.gates_h, QuantizedLinear)
    assert cell.gates_h.quantizer.scale <= 1 / 127 + 1e-4
    assert cell.gates_x.quantizer.scale > 1.5 * cell.gates_h.quantizer.scale


def test_quantizing_the_frame_loses_nothing(lowered: dict[str, CnnLstm]) -> None:
    frame = torch.arange(64 * 64 * 3).reshape(1, 64, 64, 3).to(torch.uint8)
    for name in ("int8_onnxruntime", "int8_tensorrt"):
        network = lowered[name]
        first = network.backbone.stages[0]
        assert isinstance(first, QuantizedConv)
        seen = first.quantizer(network.normalise(frame)).float()
        assert torch.equal(seen * 64 + 128, frame.permute(0, 3, 1, 2).float())


def test_calibration_follows_the_largest_activation(trained: CnnLstm, corpus: Corpus) -> None:
    split = quantizable(fold_batch_norm(trained))
    clips = [clip.frames for clip in first_clips(corpus, "train", 5)]
    largest = {}
    split.backbone.stages[2].register_forward_pre_hook(
        lambda _, inputs: largest.update(seen=max(largest.get("seen", 0.0), float(inputs[0].max())))
    )
    with torch.inference_mode():
        for clip in clips:
            split.sequence(torch.from_numpy(clip)[None], split.initial_state())

    learnt = calibrate(quantizable(fold_batch_norm(trained)), clips)

    assert learnt.inputs["backbone.stages.2"].magnitude == pytest.approx(largest["seen"], rel=1e-4)
    assert learnt.inputs["backbone.stages.2"].low == 0
    assert learnt.inputs["cells.0.gates_h"].low < 0


def test_too_little_calibration_data_is_refused(trained: CnnLstm) -> None:
    with pytest.raises(DataError, match="at least 64"):
        calibrate(quantizable(fold_batch_norm(trained)), [np.zeros((3, 64, 64, 3), np.uint8)])


def test_weights_that_are_not_finite_are_refused_by_name(trained: CnnLstm, corpus: Corpus) -> None:
    split = quantizable(fold_batch_norm(trained))
    with torch.no_grad():
        split.backbone.stages[2].bias[0] = float("inf")

    with pytest.raises(DataError, match=r"backbone\.stages\.4"):
        calibrate(split, [clip.frames for clip in first_clips(corpus, "train", 5)])


@pytest.mark.parametrize("name", GRAPHS)
def test_each_graph_is_a_step_with_named_state(name: str, graphs: dict[str, onnx.ModelProto]) -> None:
    graph = graphs[name].graph

    assert [value.name for value in graph.input] == ["frame", "h", "c"]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [value.name for value in graph.output] == [
        "digit_logits",
        "target_box",
        "target_presence",
        "h_next",
        "c_next",
    ]
    assert not any(tensor.external_data for tensor in graph.initializer)


def test_the_tensorrt_dialect_is_symmetric_unrolled_and_typed(graphs: dict[str, onnx.ModelProto]) -> None:
    graph = graphs["int8_tensorrt"]
    operators = count(graph)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    scales = [node.input[1] for node in graph.graph.node if node.op_type == "QuantizeLinear"]

    # Activations: four convolutions in a row, the map, x and h. Weights: five convolutions, two gate matrices.
    assert operators["QuantizeLinear"] == 7
    assert operators["DequantizeLinear"] == 7 + 7
    assert operators["LSTM"] == 0
    assert graph.graph.node[0].op_type == "Cast"
    assert all(tensor.dtype != np.uint8 for tensor in tensors.values())
    assert all(tensors[name].dtype == np.float16 for name in scales if name in tensors)
    assert sum(array.dtype == np.int8 and array.size > 1000 for array in tensors.values()) == 5


def test_the_cpu_dialect_takes_the_raw_frame_and_fuses_the_memory(graphs: dict[str, onnx.ModelProto]) -> None:
    operators = count(graphs["int8_onnxruntime"])

    assert operators["LSTM"] == 1
    assert operators["Cast"] == 0
    assert operators["QuantizeLinear"] == 5


def test_onnx_runtime_runs_every_convolution_of_the_cpu_dialect_in_integers(
    graphs: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(graphs["int8_onnxruntime"].SerializeToString(), options)

    operators = count(onnx.load(tmp_path / "optimized.onnx"))

    assert operators["QLinearConv"] == 5
    assert operators["Conv"] + operators["FusedConv"] == 0
    assert operators["QuantizeLinear"] == 0
    assert operators["DequantizeLinear"] == 2


@pytest.mark.parametrize("name", GRAPHS)
def test_each_graph_computes_what_torch_computes(
    name: str, lowered: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], corpus: Corpus
) -> None:
    spec = spec_of(lowered[name])
    golden = golden_rollout({name: lowered[name]}, first_clips(corpus, "validation", 4))

    found = prove_graph(name, graphs[name], spec, golden, LOWERINGS[name].tolerance)

    assert found.largest < LOWERINGS[name].tolerance
    assert golden.resets.sum() == 3


@pytest.mark.parametrize("corrupt", ["weights", "state"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_corrupted_graph_fails_the_proof(
    name: str, corrupt: str, lowered: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], corpus: Corpus
) -> None:
    spec = spec_of(lowered[name])
    golden = golden_rollout({name: lowered[name]}, first_clips(corpus, "validation", 4))
    graph = graphs[name]
    bad = with_flipped_weights(graph) if corrupt == "weights" else with_swapped_state(graph, spec)

    with pytest.raises(ParityError, match="strays from torch"):
        prove_graph(name, bad, spec, golden, LOWERINGS[name].tolerance)


def test_a_proof_that_cannot_fail_is_refused(
    lowered: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], corpus: Corpus
) -> None:
    golden = golden_rollout({"fp32": lowered["fp32"]}, first_clips(corpus, "validation", 4))

    with pytest.raises(ParityError, match="control"):
        prove_graph("fp32", graphs["fp32"], spec_of(lowered["fp32"]), golden, tolerance=1e6)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("name", ["fp32", "int8_tensorrt"])
def test_tensorrt_builds_its_graphs_ahead_of_time(name: str, layers: int, corpus: Corpus) -> None:
    torch.manual_seed(0)
    network = lower_all(CnnLstm(preset_config("nano", HEADS, layers=layers)).eval(), corpus)[name]
    graph = export_step(StepModule(network), spec_of(network)).SerializeToString()

    plan = build_plan(graph, name, ahead_of_time=True)

    assert len(plan.data) > len(graph) // 4
    assert plan.version.startswith("tensorrt_rtx 1.")
    assert plan.layers > 20


def test_tensorrt_refuses_the_cpu_dialect_by_node(graphs: dict[str, onnx.ModelProto]) -> None:
    with pytest.raises(ExportError, match=r"(?s)'int8_onnxruntime'.*node /normalise/Transpose.*UInt8"):
        build_plan(graphs["int8_onnxruntime"].SerializeToString(), "int8_onnxruntime", ahead_of_time=True)


def test_a_step_that_looks_at_values_in_python_is_refused(trained: CnnLstm) -> None:
    class Peeking(StepModule):
        def forward(self, frame: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return super().forward(frame, h, c if bool(c.sum() > 0) else -c)

    with pytest.raises(ExportError, match=r"(?s)would bake a value.*test_lowering\.py"):
        export_step(Peeking(fold_batch_norm(trained)), spec_of(trained))


def test_activation_quantizers_round_clip_and_keep_zero() -> None:
    quantizer = ActivationQuantizer(0.5, 0, torch.uint8, torch.float32)

    found = quantizer(torch.tensor([-3.0, 0.0, 0.3, 0.75, 1.25, 200.0]))

    # Ties go to even, as in ONNX.
    assert found.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 127.5]


def test_casts_keep_older_onnx_runtimes_off_a_kernel_that_truncates(
    lowered: dict[str, CnnLstm],
    graphs: dict[str, onnx.ModelProto],
    monkeypatch: pytest.MonkeyPatch,
    corpus: Corpus,
) -> None:
    monkeypatch.setattr("export.parity.quantizes_fp16", lambda: False)
    name = "int8_tensorrt"
    golden = golden_rollout({name: lowered[name]}, first_clips(corpus, "validation", 4))

    with_casts = _with_casts(graphs[name])
    found = prove_graph(name, graphs[name], spec_of(lowered[name]), golden, LOWERINGS[name].tolerance)

    assert count(with_casts)["Cast"] == count(graphs[name])["Cast"] + 7
    assert found.largest < LOWERINGS[name].tolerance
