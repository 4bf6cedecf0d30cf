"""One module, two graphs: the step that streams, and the sequence that scores whole clips at once.

Step: one frame and the memory in, the heads' outputs and the new memory out. Sequence: the step repeated, with the
convolutions batched over all frames. Every graph comes from one traced module; what differs between targets is decided
before tracing, by `lower_ort` and `lower_trt`, never by rewriting a finished graph node by node.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import Tensor, fx, nn
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # public, but not marked so

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.spec import ModelSpec
from edge_cnnlstm.training.model import CnnLstm, State
from edge_cnnlstm.training.spec_of import spec_of

OPSET = 19
"""The newest operator set that both TensorRT 10.3 reads and that allows FP16 scales in Q/DQ (since 19)."""


class StepModule(nn.Module):
    """`CnnLstm.step` with flat inputs and outputs, in the order that `spec_of` names them."""

    def __init__(self, model: CnnLstm) -> None:
        super().__init__()
        self.model = model

    def forward(self, frame: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        state = State(*memory) if memory else self.model.initial_state(frame.shape[0])
        outputs, after = self.model.step(frame, state)
        return (*outputs.values(), *(after if memory else ()))


class SequenceModule(nn.Module):
    """`CnnLstm.sequence` with flat inputs and outputs, in the order that `spec_of` names them."""

    def __init__(self, model: CnnLstm) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor, *memory: Tensor) -> tuple[Tensor, ...]:
        state = State(*memory) if memory else self.model.initial_state(frames.shape[0])
        outputs, after = self.model.sequence(frames, state)
        return (*outputs.values(), *(after if memory else ()))


def export_step(model: CnnLstm, batch: int = 1) -> onnx.ModelProto:
    """Trace the step of `batch` streams into a checked, self-contained ONNX graph with static shapes.

    Inputs and outputs are named as in `spec_of`. Raises ExportError when the trace would bake a value into the graph,
    when an operator has no form in ONNX, or when the result is not valid.
    """
    spec = spec_of(model, batch)
    return export_module(StepModule(model), spec, torch.zeros(spec.frame.shape, dtype=torch.uint8))


def export_sequence(model: CnnLstm, steps: int, batch: int = 1) -> onnx.ModelProto:
    """Trace `steps` steps of `batch` streams into one graph, for scoring whole clips offline.

    Frames uint8 [batch, steps, height, width, 3] → outputs [batch, steps, …]; the memory goes in before the first step
    and comes out after the last. Errors as `export_step` raises them.
    """
    spec = spec_of(model, batch)
    shape = (batch, steps, *spec.frame.shape[1:])
    return export_module(SequenceModule(model), spec, torch.zeros(shape, dtype=torch.uint8))


def export_module(module: nn.Module, spec: ModelSpec, frame: Tensor) -> onnx.ModelProto:
    """Trace any module with the inputs and outputs that `spec` names; see `export_step`."""
    example = (frame, *(torch.from_numpy(pair.zeros()) for pair in spec.states))
    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught, _without_dump():
        warnings.simplefilter("always")
        # The TorchScript exporter is deprecated, but the newer one ignores `symbolic`, which is how Q/DQ and the
        # fused LSTM are written here.
        try:
            torch.onnx.export(
                module.eval(),  # as torch would do for the while of the export, and then undo for every module inside
                example,
                buffer,  # type: ignore[arg-type]  # the TorchScript exporter takes a buffer too
                dynamo=False,
                opset_version=OPSET,
                input_names=[spec.frame.name, *(pair.input for pair in spec.states)],
                output_names=[*(output.name for output in spec.outputs), *(pair.output for pair in spec.states)],
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise _untranslatable(error, getattr(module, "model", None)) from error
    for warning in caught:
        if issubclass(warning.category, TracerWarning):
            raise ExportError(
                f"tracing the graph would bake a value into it: {str(warning.message).splitlines()[0]}",
                expected="a step whose operations depend on values only through tensors",
                fix=f"replace the Python control flow at {Path(warning.filename).name}:{warning.lineno}",
            )
    graph = onnx.load_from_string(buffer.getvalue())
    _unshare_constants(graph.graph)
    onnx.checker.check_model(graph, full_check=True)
    return graph


@contextlib.contextmanager
def _without_dump() -> Iterator[None]:
    """Keep the exporter from writing the whole graph to the terminal when it fails, past Python's own stdout."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def layer_of(operator: str, model: CnnLstm) -> str | None:
    """Return the layer of a traced network in whose forward pass an operator is called, if it can be told."""
    wanted = operator.rpartition("::")[2].lower().replace("_", "")
    backbone = model.get_submodule("backbone")
    for node in backbone.graph.nodes if isinstance(backbone, fx.GraphModule) else ():
        called = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        if node.op in {"call_function", "call_method"} and called.lower().replace("_", "").endswith(wanted):
            scopes = list(node.meta.get("nn_module_stack", {}))
            return ".".join(["backbone", *scopes[-1:]])
    return None


def _untranslatable(error: Exception, model: CnnLstm | None) -> ExportError:
    words = str(error).splitlines()[0]
    named = re.search(r"operator '([\w:]+)'", words)
    layer = layer_of(named[1], model) if named and model else None
    return ExportError(
        f"operator {named[1] if named else words}{f' in layer {layer!r}' if layer else ''} has no ONNX form",
        expected=f"layers made of operators that ONNX opset {OPSET} and TensorRT have",
        fix="write that layer with convolutions, matrix products and elementwise operators, or leave it out",
    )


def _unshare_constants(graph: onnx.GraphProto) -> None:
    """Undo the tracer's sharing of equal constants through Identity nodes: each layer gets its own.

    ONNX Runtime, where it has to widen int8 weights (see `runtime.backends.ort`), stops at a zero point that two share.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Identity" and node.input[0] in constants]:
        graph.node.remove(node)
        own = graph.initializer.add()
        own.CopyFrom(constants[node.input[0]])
        own.name = node.output[0]
