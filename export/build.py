"""The TensorRT gate: every graph meant for it is built ahead of time, and its int8 weights are found in the plan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.gpu.engine import Plan, build_plan
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.spec_of import spec_of
from export.graphs import layer_of

INT8_SHARE = 0.9
"""Of the int8 weights that must be found in a plan; TensorRT repacks a small first convolution."""


@dataclass(frozen=True, slots=True)
class Build:
    """A graph as TensorRT built it ahead of time; of its int8 weights, how many bytes the plan holds as they are."""

    plan: Plan
    int8_weight_bytes: int
    expected_int8_weight_bytes: int


def build(graph: onnx.ModelProto, name: str, network: CnnLstm) -> Build:
    """Build a graph with TensorRT-RTX as a robot would build it, and look for its int8 weights in the plan.

    Raises ExportError, naming operator and layer, when TensorRT refuses the graph, and when int8 weights are missing
    from the plan: then they were made wider.
    """
    memory = [pair.output for pair in spec_of(network).states]
    try:
        plan = build_plan(graph.SerializeToString(), name, watch=memory, ahead_of_time=True)
    except ExportError as error:
        raise _with_layer(error, graph, network) from error
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in graph.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    held = sum(array.nbytes for array in weights if _holds(plan.data, array))
    expected = sum(array.nbytes for array in weights)
    if held < expected * INT8_SHARE:
        raise ExportError(
            f"the plan of {name!r} holds {held:,} bytes of {expected:,} int8 weights",
            expected=f"at least {INT8_SHARE:.0%}; the others were made wider, or packed in a way not known here",
            fix="choose another precision, and report this with the version of TensorRT",
        )
    return Build(plan, held, expected)


def _with_layer(error: ExportError, graph: onnx.ModelProto, network: CnnLstm) -> ExportError:
    """Return TensorRT's refusal with the layer that the refused node came from."""
    refused = next((node for node in graph.graph.node if node.name and f"node {node.name} (" in error.found), None)
    layer = None if refused is None else layer_of(refused.op_type, network)
    if refused is None or layer is None:
        return error
    return ExportError(
        f"{error.found} (operator {refused.op_type}, in layer {layer!r})",
        expected=error.expected,
        fix=f"write {layer!r} with other operators, or leave it out of the network",
    )


def _holds(plan: bytes, weights: NDArray[np.generic]) -> bool:
    """Whether a plan holds these weights byte for byte: as they are, transposed, or with the channels last."""
    other = weights.T if weights.ndim == 2 else weights.transpose(0, 2, 3, 1)
    return weights.tobytes() in plan or other.tobytes() in plan
