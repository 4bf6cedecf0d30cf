from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.gpu.engine import Configuration, build_plan
from edge_cnnlstm.training.config import PRESETS, HeadConfig, ModelConfig, preset_config
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.fold import fold
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.spec_of import spec_of
from edge_cnnlstm.training.step import StepModule
from export.build import build
from export.graphs import export_module, export_sequence, export_step
from export.operators import check_quantizers, operators, optimized_operators
from export.points import quantizable, quantized_layers
from export.precisions import Precision, candidates
from export.qdq import ActivationQuantizer
from export.quantize import calibrate
from export.rollout import OnnxSteps, torch_course

ALL_HEADS = (
    *HEADS,
    HeadConfig(name="odd", task="classify", labels=("even", "odd")),
    HeadConfig(name="velocity", task="regress", labels=("x", "y"), centre=(100.0, 0.0), spread=(3000.0, 0.5)),
)


class Determined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        seen: Tensor = self.inner(image)
        return seen * torch.linalg.det(seen)[..., None, None]


class Bessel(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.special.i0e(image)


@cache
def lowered(preset: str, heads: tuple[HeadConfig, ...] = HEADS, **changes: object) -> dict[str, CnnLstm]:
    """A network that was never trained, in every precision."""
    torch.manual_seed(0)
    config = preset_config(preset, heads).model_copy(update=changes)
    model = CnnLstm(config)
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (64, config.height, config.width, 3), dtype=np.uint8)
    with torch.no_grad():
        model.see(torch.from_numpy(frames[:4]))
    folded = fold(model.eval())
    split = quantizable(folded)
    calibration = calibrate(split, [frames])
    found = {name: how.network(split, calibration) for name, how in candidates(quantized_layers(split)).items()}
    return found | {"fp32": folded}


@cache
def traced(preset: str, name: str, **changes: object) -> onnx.ModelProto:
    """The step of such a network in one precision."""
    return export_step(lowered(preset, **changes)[name])


def with_backbone(module: type[nn.Module]) -> CnnLstm:
    torch.manual_seed(0)
    backbone = {"kind": "module", "module": f"{module.__module__}:{module.__name__}"}
    return CnnLstm(
        ModelConfig.model_validate({"height": 16, "width": 16, "hidden": 8, "heads": HEADS, "backbone": backbone})
    ).eval()


def frames_like(network: CnnLstm, steps: int, streams: int = 1) -> NDArray[np.uint8]:
    config = network.config
    shape = (steps, streams, config.height, config.width, 3)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("name", ["fp32", "fp16_tensorrt", "int8_tensorrt", "int8_onnxruntime"])
def test_each_graph_is_a_step_with_named_state(name: str, graphs: dict[str, onnx.ModelProto]) -> None:
    graph = graphs[name].graph

    assert [value.name for value in graph.input] == ["frame", "h", "c"]
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    outputs = ["digit_logits", "target_box", "target_presence", "h_next", "c_next"]
    assert [value.name for value in graph.output] == outputs
    assert not any(tensor.external_data for tensor in graph.initializer)


@pytest.mark.parametrize("name", ["fp32", "mixed_tensorrt", "int8_tensorrt", "mixed_onnxruntime", "int8_onnxruntime"])
def test_a_sequence_is_the_step_repeated_for_every_stream(name: str, networks: dict[str, CnnLstm]) -> None:
    network, steps, streams = networks[name], 5, 2
    spec = spec_of(network, streams)
    frames = frames_like(network, steps, streams)
    never = np.zeros(steps, np.bool_)

    stepped = OnnxSteps(export_step(network), spec).course(frames, never)
    whole = OnnxSteps(export_sequence(network, steps, streams), spec).step(frames.swapaxes(0, 1).copy())

    for name_, values in stepped.items():
        expected = values[-1] if name_ in {"h_next", "c_next"} else values.swapaxes(0, 1)
        # Engines sum in another order for another batch, and a sum on the edge of a step may fall to its other side.
        atol = 1e-4 if name == "fp32" else 0.05 * float(np.abs(expected).max())
        np.testing.assert_allclose(whole[name_], expected, rtol=0, atol=atol)


def test_every_quantizer_is_counted_against_the_plan(
    split: CnnLstm, graphs: dict[str, onnx.ModelProto], precisions: dict[str, Precision]
) -> None:
    for name, graph in graphs.items():
        check_quantizers(graph, split, precisions[name])

    with pytest.raises(ExportError, match=r"(?s)'int8_tensorrt' holds .*expected: .* for 7 int8 layers"):
        check_quantizers(graphs["mixed_tensorrt"], split, precisions["int8_tensorrt"])


@pytest.mark.parametrize("name", ["int8_onnxruntime", "int8_tensorrt"])
def test_no_two_layers_share_a_zero_point(name: str, graphs: dict[str, onnx.ModelProto]) -> None:
    weights = {tensor.name for tensor in graphs[name].graph.initializer if len(tensor.dims) > 1}
    layers = [node for node in graphs[name].graph.node if node.input and node.input[0] in weights]

    zero_points = [node.input[2] for node in layers if node.op_type == "DequantizeLinear"]

    assert len(zero_points) == 7
    assert len(set(zero_points)) == 7


def test_the_tensorrt_dialect_is_symmetric_unrolled_and_typed(graphs: dict[str, onnx.ModelProto]) -> None:
    graph = graphs["int8_tensorrt"]
    found = operators(graph)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    scales = [node.input[1] for node in graph.graph.node if node.op_type == "QuantizeLinear"]

    # Activations: the frame, three rectified maps, the last map, x and h. Weights: five convolutions, two matrices.
    assert found["QuantizeLinear"] == 7
    assert found["DequantizeLinear"] == 7 + 7
    assert "LSTM" not in found
    assert graph.graph.node[0].op_type == "Cast"
    assert all(tensor.dtype != np.uint8 for tensor in tensors.values())
    assert all(tensors[name].dtype == np.float16 for name in scales if name in tensors)
    assert sum(array.dtype == np.int8 and array.ndim > 1 for array in tensors.values()) == 7


EVERY_PRESET = [
    pytest.param(preset, marks=[pytest.mark.slow] if preset == "base" else []) for preset in sorted(PRESETS)
]


@pytest.mark.parametrize("preset", EVERY_PRESET)
def test_onnx_runtime_computes_every_layer_of_the_cpu_dialect_in_integers(preset: str) -> None:
    network = lowered(preset)["int8_onnxruntime"]

    found = optimized_operators(traced(preset, "int8_onnxruntime"))

    layers = quantized_layers(quantizable(fold(CnnLstm(network.config).eval())))
    gates = sum(".gates_" in name for name in layers)
    assert found["QLinearConv"] == len(layers) - gates
    assert found["MatMulIntegerToFloat"] == gates
    assert not {"Conv", "FusedConv", "MatMul", "MatMulNBits", "Relu", "Clip", "Cast", "LSTM"} & set(found)
    # What is left: x and h into each layer's memory, and each heads' own reading.
    strays = found.get("QuantizeLinear", 0) + found.get("DequantizeLinear", 0)
    assert strays <= 2 + 2 * network.config.layers
    if preset == "base":
        assert found["QLinearAdd"] == 10
        assert strays <= 10


def test_the_file_of_the_cpu_dialect_is_three_tenths_of_fp32(graphs: dict[str, onnx.ModelProto]) -> None:
    assert graphs["int8_onnxruntime"].ByteSize() <= 0.3 * graphs["fp32"].ByteSize()
    assert graphs["int8_tensorrt"].ByteSize() <= 0.3 * graphs["fp32"].ByteSize()


def test_quantizing_the_frame_loses_nothing(networks: dict[str, CnnLstm]) -> None:
    frame = torch.arange(64 * 64 * 3).reshape(1, 64, 64, 3).to(torch.uint8)
    for name in ("int8_onnxruntime", "int8_tensorrt"):
        network = networks[name]
        seen = network.get_submodule("backbone.point_image")(network.normalise(frame)).float()
        assert torch.equal(seen * 64 + 128, frame.permute(0, 3, 1, 2).float())


@pytest.mark.parametrize("name", ["fp32", "fp16_tensorrt", "int8_tensorrt", "int8_onnxruntime"])
def test_every_head_answers_in_every_dialect(name: str) -> None:
    network = lowered("nano", ALL_HEADS)[name]
    frames, never = frames_like(network, 6), np.zeros(6, np.bool_)

    found = OnnxSteps(export_step(network), spec_of(network)).course(frames, never)
    expected = torch_course(network, frames, never)

    assert {"digit_logits", "target_box", "target_presence", "odd_logits", "velocity_values"} < set(found)
    assert found["odd_logits"].shape == (6, 1, 1)
    for output, values in expected.items():
        atol = 0.02 * float(np.abs(values).max()) + 1e-6
        np.testing.assert_allclose(found[output], values, rtol=0, atol=atol)


@pytest.mark.parametrize("preset", EVERY_PRESET)
def test_tensorrt_builds_every_precision_with_its_int8_weights_as_they_are(preset: str) -> None:
    networks = lowered(preset)
    precisions = candidates(quantized_layers(quantizable(networks["fp32"])))
    memory = ["h_next", "c_next"]
    for name, network in networks.items():
        if name.endswith("onnxruntime"):
            continue
        graph = traced(preset, name)

        built = build(graph, name, network)
        many = build_plan(graph.SerializeToString(), name, Configuration(8), watch=memory, ahead_of_time=True)

        assert many.layers == built.plan.layers
        planned = Counter(built.plan.precisions.values())
        assert planned.pop("int8", 0) == len(precisions[name].layers)
        assert set(planned) == {precisions[name].rest}
        assert built.plan.version.startswith("tensorrt_rtx 1.")
        assert built.plan.layers > 20
        int8 = "int8" in name or "mixed" in name
        assert (built.expected_int8_weight_bytes > 0) == int8
        assert built.int8_weight_bytes >= 0.9 * built.expected_int8_weight_bytes


def test_tensorrt_builds_the_rows_of_an_image_and_a_network_without_memory() -> None:
    for changes in ({"scan": "rows"}, {"layers": 0}):
        networks = lowered("reference", **changes)
        network, split = networks["int8_tensorrt"], quantizable(networks["fp32"])
        graph = traced("reference", "int8_tensorrt", **changes)
        check_quantizers(graph, split, candidates(quantized_layers(split))["int8_tensorrt"])

        assert [value.name for value in graph.graph.input] == ["frame"]
        assert build(graph, "int8_tensorrt", network).int8_weight_bytes > 0


def test_int8_weights_that_a_plan_does_not_hold_are_missed(
    graphs: dict[str, onnx.ModelProto], networks: dict[str, CnnLstm], monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = build_plan(graphs["fp16_tensorrt"].SerializeToString(), "fp16_tensorrt", ahead_of_time=True)
    monkeypatch.setattr("export.build.build_plan", lambda *_, **__: wide)

    with pytest.raises(ExportError, match=r"(?s)holds 0 bytes of [\d,]+ int8 weights.*made wider"):
        build(graphs["int8_tensorrt"], "int8_tensorrt", networks["int8_tensorrt"])


def test_tensorrt_refuses_the_cpu_dialect_by_node(
    graphs: dict[str, onnx.ModelProto], networks: dict[str, CnnLstm]
) -> None:
    with pytest.raises(ExportError, match=r"(?s)'int8_onnxruntime'.*node /normalise/Transpose.*UInt8"):
        build(graphs["int8_onnxruntime"], "int8_onnxruntime", networks["int8_onnxruntime"])


def test_an_operator_that_tensorrt_lacks_is_named_with_its_layer() -> None:
    network = fold(with_backbone(Determined))

    with pytest.raises(ExportError, match=r"(?s)operator Det, in layer 'backbone\.stages\.0'.*write 'backbone"):
        build(export_step(network), "fp32", network)


def test_an_operator_that_onnx_lacks_is_named_with_its_layer(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"(?s)aten::special_i0e in layer 'backbone\.stages\.0' has no ONNX form"):
        export_step(fold(with_backbone(Bessel)))

    assert capfd.readouterr().out == ""


def test_a_step_that_looks_at_values_in_python_is_refused(folded: CnnLstm) -> None:
    class Peeking(StepModule):
        def forward(self, frame: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
            h, c = memory
            return super().forward(frame, h, c if bool(c.sum() > 0) else -c)

    spec = spec_of(folded)
    with pytest.raises(ExportError, match=r"(?s)would bake a value.*test_lowering\.py"):
        export_module(Peeking(folded), spec)


def test_exporting_leaves_the_network_as_it_was(folded: CnnLstm) -> None:
    before = {name: module.training for name, module in folded.named_modules()}

    export_step(folded)

    assert {name: module.training for name, module in folded.named_modules()} == before


def test_activation_quantizers_round_clip_and_keep_zero() -> None:
    quantizer = ActivationQuantizer(0.5, 0, torch.uint8, torch.float32)

    found = quantizer(torch.tensor([-3.0, 0.0, 0.3, 0.75, 1.25, 200.0]))

    # Ties go to even, as in ONNX.
    assert found.tolist() == [0.0, 0.0, 0.5, 1.0, 1.0, 127.5]


def test_graphs_from_one_checkpoint_are_the_same_bytes_twice(
    networks: dict[str, CnnLstm], graphs: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    for name, network in networks.items():
        assert export_step(network).SerializeToString() == graphs[name].SerializeToString()
