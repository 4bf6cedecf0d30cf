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
from edge_cnnlstm.training.model import CnnLstm, Outputs, State
from edge_cnnlstm.training.spec_of import spec_of
from edge_cnnlstm.training.step import StepModule
from export.batch import with_any_batch

OPSET = 19
"""The newest operator set that both TensorRT 10.3 reads and that allows FP16 scales in Q/DQ (since 19)."""


class SequenceModule(StepModule):
    """`CnnLstm.sequence` with flat inputs and outputs, in the order that `spec_of` names them."""

    def advance(self, frame: Tensor, state: State, *dt: Tensor) -> tuple[Outputs, State]:
        return self.model.sequence(frame, state, *dt)


def export_step(model: CnnLstm) -> onnx.ModelProto:
    """Trace the step into a checked, self-contained ONNX graph for any number of streams; see `batch`.

    Inputs and outputs are named as in `spec_of`. Raises ExportError when the trace would bake a value or the number of
    streams into the graph, when an operator has no form in ONNX, or when the result is not valid.
    """
    module, spec = StepModule(model), spec_of(model)
    one, two = (export_module(module, spec.batched(streams)) for streams in (1, 2))
    return with_any_batch(one, two, spec)


def export_sequence(model: CnnLstm, steps: int, batch: int = 1) -> onnx.ModelProto:
    """Trace `steps` steps of `batch` streams into one graph with fixed shapes, for scoring whole clips offline.

    Frames uint8 [batch, steps, height, width, 3] and, if the network asks, dt float32 [batch, steps, 1] → outputs
    [batch, steps, …]; the memory goes in before the first step and comes out after the last. Errors as `export_step`
    raises them.
    """
    return export_module(SequenceModule(model), spec_of(model, batch), steps)


def export_module(module: nn.Module, spec: ModelSpec, *time: int) -> onnx.ModelProto:
    """Trace any module with the inputs and outputs that `spec` names, for so many streams, and steps if it takes many.

    Errors as `export_step` raises them.
    """
    seen = [tensor for tensor in (spec.frame, spec.dt) if tensor]
    shapes = [(tensor.shape[0], *time, *tensor.shape[1:]) for tensor in seen]
    example = (
        *(torch.zeros(shape, dtype=getattr(torch, tensor.dtype)) for tensor, shape in zip(seen, shapes, strict=True)),
        *(torch.from_numpy(pair.zeros()) for pair in spec.states),
    )
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
                input_names=[*(tensor.name for tensor in seen), *(pair.input for pair in spec.states)],
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
