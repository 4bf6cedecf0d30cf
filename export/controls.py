"""Graphs that are wrong in a small way, each as a real fault would make it: the proof must reject them all."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.spec import ModelSpec, StatePair

TIME_IGNORED = "missed frames ignored"


def corrupted(graph: onnx.ModelProto, spec: ModelSpec) -> dict[str, tuple[onnx.ModelProto, ModelSpec]]:
    """Return each control and the spec to run it by, under what was done to it."""
    found = {"one weight nudged": (with_nudged_weight(graph), spec)}
    if spec.states:
        found["h and c swapped"] = (with_swapped_state(graph, spec), spec)
        found["states matched by sorted names"] = matched_by_sorted_names(graph, spec)
    if spec.dt:
        found[TIME_IGNORED] = (with_time_ignored(graph, spec.dt.name), spec)
    return found


def with_nudged_weight(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy in which one weight, the largest of the first layer, has the opposite sign."""
    control = onnx.ModelProto()
    control.CopyFrom(graph)
    first = next(tensor for tensor in control.graph.initializer if tensor.name == _first_weights(graph))
    weights = numpy_helper.to_array(first).copy()
    at = np.unravel_index(int(np.abs(weights.astype(np.float32)).argmax()), weights.shape)
    # Clipped, because −(−128) does not exist in int8.
    weights[at] = -np.maximum(weights[at], np.array(-127, weights.dtype))
    first.CopyFrom(numpy_helper.from_array(weights, first.name))
    return control


def _first_weights(graph: onnx.ModelProto) -> str:
    """Return the name of the weights that the first convolution or matrix product multiplies by."""
    constants = {tensor.name for tensor in graph.graph.initializer}
    made_of: dict[str, str] = {
        node.output[0]: node.input[0] for node in graph.graph.node if node.op_type == "DequantizeLinear"
    }
    for node in graph.graph.node:
        if node.op_type in {"Conv", "MatMul", "Gemm"}:
            weights: str = made_of.get(node.input[1], node.input[1])
            if weights in constants:
                return weights
    raise ExportError("a graph without weights", expected="a convolution or a matrix product", fix="export a network")


def with_swapped_state(graph: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Return a copy in which the first two state outputs have each other's names."""
    first, second = (pair.output for pair in spec.states[:2])
    return _renamed(graph, {first: second, second: first})


def with_time_ignored(graph: onnx.ModelProto, dt: str) -> onnx.ModelProto:
    """Return a copy that reads 0 wherever it read the time since the last frame."""
    control = onnx.ModelProto()
    control.CopyFrom(graph)
    control.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), TIME_IGNORED))
    for node in control.graph.node:
        node.input[:] = [TIME_IGNORED if name == dt else name for name in node.input]
    return control


def matched_by_sorted_names(graph: onnx.ModelProto, spec: ModelSpec) -> tuple[onnx.ModelProto, ModelSpec]:
    """Return a copy whose state outputs sort in the other order than its inputs, with pairs matched by that order.

    A server that pairs states so swaps them silently: triton-inference-server/server#8586.
    """
    ordered = sorted(spec.states, key=lambda pair: pair.input)
    names = {pair.output: f"state_{len(ordered) - index}" for index, pair in enumerate(ordered)}
    pairs = zip(ordered, sorted(names.values()), strict=True)
    states = tuple(StatePair(pair.input, output, pair.shape, pair.dtype) for pair, output in pairs)
    return _renamed(graph, names), replace(spec, states=states)


def _renamed(graph: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    control = onnx.ModelProto()
    control.CopyFrom(graph)
    for node in control.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    if not set(names.values()) <= set(names):
        for output in control.graph.output:
            output.name = names.get(output.name, output.name)
    return control
