"""The step graph: one frame and the memory in, the heads' outputs and the new memory out.

Every graph comes from one traced module; what differs between targets is decided before tracing, by
`lower_ort` and `lower_trt`, never by rewriting a finished graph node by node.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # public, but not marked so

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.spec import ModelSpec, StatePair, TensorSpec
from edge_cnnlstm.training.model import CnnLstm, State

OPSET = 19
"""The newest operator set that both TensorRT 10.3 reads and that allows FP16 scales in Q/DQ (since 19)."""


class StepModule(nn.Module):
    """`CnnLstm.step` with flat inputs and outputs, in the order that `spec_of` names them."""

    def __init__(self, model: CnnLstm) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        outputs, state = self.model.step(frame, State(h, c))
        return (*outputs.values(), state.h, state.c)


def export_step(module: nn.Module, spec: ModelSpec) -> onnx.ModelProto:
    """Trace a step module into a checked, self-contained ONNX graph with static shapes.

    Raises ExportError when the trace would bake a value into the graph, or when the result is not valid ONNX.
    """
    inputs: list[TensorSpec | StatePair] = [spec.frame, *spec.states]
    example = tuple(torch.from_numpy(tensor.zeros()) for tensor in inputs)
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The TorchScript exporter is deprecated, but the newer one ignores `symbolic`, which is how Q/DQ and the
        # fused LSTM are written here.
        torch.onnx.export(
            module,
            example,
            buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes a buffer too
            dynamo=False,
            opset_version=OPSET,
            input_names=[spec.frame.name, *(pair.input for pair in spec.states)],
            output_names=[*(output.name for output in spec.outputs), *(pair.output for pair in spec.states)],
        )
    for warning in caught:
        if issubclass(warning.category, TracerWarning):
            raise ExportError(
                f"tracing the step graph would bake a value into it: {str(warning.message).splitlines()[0]}",
                expected="a step whose operations depend on values only through tensors",
                fix=f"replace the Python control flow at {Path(warning.filename).name}:{warning.lineno}",
            )
    graph = onnx.load_from_string(buffer.getvalue())
    _inline_shared_constants(graph.graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _inline_shared_constants(graph: onnx.GraphProto) -> None:
    """Undo the tracer's sharing of equal constants through Identity nodes, so that every scale is a plain constant."""
    constants = {tensor.name for tensor in graph.initializer}
    shared = [node for node in graph.node if node.op_type == "Identity" and node.input[0] in constants]
    original = {node.output[0]: node.input[0] for node in shared}
    for node in shared:
        graph.node.remove(node)
    for node in graph.node:
        node.input[:] = [original.get(name, name) for name in node.input]
