from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edge_cnnlstm.errors import ExportError, ParityError
from edge_cnnlstm.runtime.backends.ort import open_session
from edge_cnnlstm.training.fold import fold
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.spec_of import spec_of
from edge_cnnlstm.training.step import StepModule
from export.graphs import export_module, export_step
from export.operators import operators, optimized_operators
from export.parity import prove_graph
from export.precisions import FP32, Precision
from export.rollout import Course, OnnxSteps, torch_course
from tests.export.test_lowering import frames_like, lowered, traced, with_backbone

STREAMS = 3
MEMORY = {"h_next", "c_next"}


class Shuffling(nn.Module):
    """What people write with `x.shape`: reshapes that carry the batch along, split it or lose it on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, 4, 1), nn.Linear(8, 8)

    def forward(self, image: Tensor) -> Tensor:
        seen = self.first(nn.functional.pad(image, (1, 1)))
        batch, channels, height, width = seen.shape
        shuffled = seen.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        low, high = shuffled.reshape(batch, channels, height, width).chunk(2, dim=1)
        rows = torch.cat([high, low], dim=1).permute(0, 2, 3, 1).reshape(-1, channels)
        return torch.relu(self.second(rows)).view(seen.size(0), -1)


class Prefixed(nn.Module):
    """A learnt row that is repeated for every stream."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Parameter(torch.ones(1, 3, 1, 16))

    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([image, self.row.expand(image.shape[0], -1, -1, -1)], dim=2)


class Looping(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return torch.cat([part * 2 for part in image.split(1)])


class Mingled(nn.Module):
    """Two dimensions that both depend on the batch."""

    def forward(self, image: Tensor) -> Tensor:
        batch = image.shape[0]
        turned = image.reshape(2 * batch, 24 * batch, -1)
        return turned.reshape(batch, 3, 16, 16)


def at_random(steps: int, network: CnnLstm) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    return frames_like(network, steps, STREAMS), np.arange(steps) == 4


def stream(course: Course, which: int) -> Course:
    """What one stream of several was answered, as if it were alone."""
    return {name: np.take(values, [which], axis=1 + (name in MEMORY)) for name, values in course.items()}


def check_is_for_any_batch(graph: onnx.ModelProto) -> None:
    for value in (*graph.graph.input, *graph.graph.output):
        dimensions = value.type.tensor_type.shape.dim
        named = [at for at, dimension in enumerate(dimensions) if dimension.dim_param]
        assert named == [1 if value.name in {"h", "c", *MEMORY} else 0], value.name
        assert dimensions[named[0]].dim_param == "batch"
    assert not {"Shape", "Size", "ConstantOfShape", "Expand", "Loop", "If"} & set(operators(graph))
    constants = {node.output[0] for node in graph.graph.node if node.op_type == "Constant"}
    constants |= {tensor.name for tensor in graph.graph.initializer}
    assert all(node.input[1] in constants for node in graph.graph.node if node.op_type == "Reshape")


@pytest.mark.parametrize(
    "preset", ["reference", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nano", "small", "base"))]
)
def test_with_one_stream_engines_get_what_was_traced_for_one(preset: str) -> None:
    for name, network in lowered(preset).items():
        graph, spec = traced(preset, name), spec_of(network)
        static = export_module(StepModule(network), spec)

        check_is_for_any_batch(graph)
        if not name.endswith("tensorrt"):
            assert optimized_operators(graph) == optimized_operators(static), name
        frames, resets = at_random(6, network)
        found, expected = (OnnxSteps(each, spec).course(frames[:, :1], resets) for each in (graph, static))
        for tensor, values in expected.items():
            np.testing.assert_array_equal(found[tensor], values, err_msg=f"{name} {tensor}")


@pytest.mark.parametrize("changes", [{}, {"scan": "rows", "layers": 2}, {"layers": 0}], ids=str)
def test_each_stream_of_a_batch_is_answered_as_if_it_were_alone(changes: dict[str, object]) -> None:
    networks = lowered("reference", **changes)
    for name in ("fp32", "fp16_tensorrt", "int8_tensorrt", "int8_onnxruntime"):
        network = networks[name]
        graph, spec = traced("reference", name, **changes), spec_of(network)
        frames, resets = at_random(6, network)

        check_is_for_any_batch(graph)
        together = OnnxSteps(graph, spec.batched(STREAMS)).course(frames, resets)
        expected = torch_course(network, frames, resets)
        for which in range(STREAMS):
            alone = OnnxSteps(graph, spec).course(frames[:, which : which + 1], resets)
            for tensor, values in alone.items():
                scale = float(np.abs(values).max()) or 1.0
                # Seen: the same bits in FP32 and in the CPU dialect; FP16 sums in another order.
                exact = not name.endswith("tensorrt")
                found = stream(together, which)[tensor]
                np.testing.assert_allclose(found, values, rtol=0, atol=0 if exact else 0.01 * scale)
                assert np.abs(stream(expected, which)[tensor] - values).max() <= 0.05 * scale, (name, tensor)


def test_a_session_is_for_as_many_streams_as_it_was_opened_for(graphs: dict[str, onnx.ModelProto]) -> None:
    session = open_session(graphs["int8_onnxruntime"].SerializeToString(), batch=5)

    assert [value.shape for value in session.get_inputs()] == [[5, 64, 64, 3], [1, 5, 96], [1, 5, 96]]
    assert [value.shape for value in session.get_outputs()][3:] == [[1, 5, 96], [1, 5, 96]]


def test_a_users_reshapes_carry_any_batch() -> None:
    network = fold(with_backbone(Shuffling))
    graph = export_step(network)
    frames, resets = at_random(4, network)

    check_is_for_any_batch(graph)
    found = OnnxSteps(graph, spec_of(network).batched(STREAMS)).course(frames, resets)
    for name, values in torch_course(network, frames, resets).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "named"),
    [
        (Prefixed, r"Constant '/backbone/.*' depends"),
        (Looping, "which operators there are depends"),
        (Mingled, "more than one dimension of the shape '/backbone/.*' depends"),
    ],
)
def test_a_network_that_is_made_for_a_number_of_streams_is_refused_by_name(
    backbone: type[nn.Module], named: str
) -> None:
    with pytest.raises(ExportError, match=rf"(?s){named} on the number of streams.*x\.shape\[0\]"):
        export_step(with_backbone(backbone))


def mixing(graph: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each stream's classes move towards the mean of all: with one stream nothing changes."""
    bad = onnx.ModelProto()
    bad.CopyFrom(graph)
    for node in bad.graph.node:
        node.output[:] = ["unmixed" if name == "digit_logits" else name for name in node.output]
    axis = numpy_helper.from_array(np.array([0], np.int64), "batch axis")
    half = numpy_helper.from_array(np.array(0.5, np.float32), "half")
    bad.graph.initializer.extend([axis, half])
    bad.graph.node.extend(
        [
            helper.make_node("ReduceMean", ["unmixed", "batch axis"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["mean", "unmixed"], ["apart"]),
            helper.make_node("Mul", ["apart", "half"], ["moved"]),
            helper.make_node("Add", ["unmixed", "moved"], ["digit_logits"]),
        ]
    )
    return bad


def test_streams_that_influence_each_other_fail_the_proof(
    networks: dict[str, CnnLstm],
    graphs: dict[str, onnx.ModelProto],
    precisions: dict[str, Precision],
    frames: NDArray[np.uint8],
) -> None:
    never = np.zeros(len(frames), np.bool_)

    with pytest.raises(ParityError, match=r"streams influence each other, by .* by 0\.\d+ by being in one and by 0 by"):
        prove_graph("fp32", mixing(graphs["fp32"]), networks["fp32"], frames, never, FP32)
