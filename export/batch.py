"""One graph for any number of streams: the batch is a dimension with a name, and a runtime fixes it before it builds.

A network is traced for one stream and for two. What differs between the two graphs is the batch, and that may be
nothing but one number of a shape that a Reshape asks for, which an engine can infer. What the tracer leaves to be
computed of shapes is computed here. So with the batch fixed to 1, engines make of the graph what they make of the one
for one stream.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edge_cnnlstm.errors import ExportError
from edge_cnnlstm.runtime.backends.ort import open_session
from edge_cnnlstm.spec import BATCH, ModelSpec

Tensors = dict[str, NDArray[Any]]


def with_any_batch(one: onnx.ModelProto, two: onnx.ModelProto, spec: ModelSpec) -> onnx.ModelProto:
    """Return a step graph of one stream as one of any number, given the same network's graph of two.

    `spec` names what goes in and comes out. Raises ExportError, naming the operator, when anything but the shape that a
    Reshape asks for depends on the number of streams.
    """
    if [(node.op_type, node.output) for node in one.graph.node] != [(n.op_type, n.output) for n in two.graph.node]:
        raise _depends("which operators there are")
    follows = _follows_from_shapes(one.graph)
    reshapes = {node.input[1]: node.output[0] for node in one.graph.node if node.op_type == "Reshape"}
    values = [_values(traced, [*follows, *reshapes.values()]) for traced in (one, two)]
    graph, twin = (_with_constants(traced, follows, known) for traced, known in zip((one, two), values, strict=True))
    otherwise_read = {name for node in graph.graph.node if node.op_type != "Reshape" for name in node.input}
    for node, other in zip(graph.graph.node, twin.graph.node, strict=True):
        if node != other:
            shape = node.output[0]
            if node.op_type != "Constant" or shape not in reshapes or shape in otherwise_read:
                raise _depends(f"{node.op_type} {node.name!r}")
            of_one, of_two = (known[reshapes[shape]].shape for known in values)
            node.attribute[0].t.CopyFrom(numpy_helper.from_array(_any_batch(of_one, of_two, node.name)))
    if list(graph.graph.initializer) != list(twin.graph.initializer):
        raise _depends("a constant")
    _name_batch(graph.graph, spec)
    onnx.checker.check_model(graph, full_check=True)
    return graph


def _any_batch(one: tuple[int, ...], two: tuple[int, ...], name: str) -> NDArray[np.int64]:
    """Return a shape with −1, for an engine to infer, in the place that differs."""
    differs = np.not_equal(one, two)
    if differs.sum() != 1:
        raise _depends(f"more than one dimension of the shape {name!r}")
    return np.where(differs, -1, one).astype(np.int64)


def _follows_from_shapes(graph: onnx.GraphProto) -> list[str]:
    """Return which tensors are computed of shapes and whole numbers, and of constants beside them, alone."""
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    constants |= {node.output[0]: node.attribute[0].t.data_type for node in graph.node if node.op_type == "Constant"}
    whole = {name for name, kind in constants.items() if kind == onnx.TensorProto.INT64}
    found: dict[str, None] = {}
    for node in graph.node:
        given = {name for name in node.input if name}
        begins = given & (whole | found.keys()) and given <= constants.keys() | found.keys()
        if node.op_type == "Shape" or begins:
            found |= dict.fromkeys(node.output)
    return list(found)


def _values(model: onnx.ModelProto, names: list[str]) -> Tensors:
    """Run a static graph once, on zeros, and return these tensors of it."""
    if not names:
        return {}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    del exposed.graph.output[:]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(names))
    session = open_session(exposed.SerializeToString(), optimize=False)
    types = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
    zeros = {given.name: np.zeros(given.shape, types[given.type]) for given in session.get_inputs()}
    return dict(zip(dict.fromkeys(names), session.run(None, zeros), strict=True))


def _with_constants(model: onnx.ModelProto, names: list[str], values: Tensors) -> onnx.ModelProto:
    """Return a copy in which these tensors are constants, as far as they are read."""
    folded = onnx.ModelProto()
    folded.CopyFrom(model)
    nodes = [
        helper.make_node("Constant", [], node.output, node.name, value=numpy_helper.from_array(values[node.output[0]]))
        if node.output[0] in names
        else node
        for node in model.graph.node
    ]
    read = {name for node in nodes for name in node.input}
    del folded.graph.node[:]
    folded.graph.node.extend(node for node in nodes if node.op_type != "Constant" or node.output[0] in read)
    return folded


def _name_batch(graph: onnx.GraphProto, spec: ModelSpec) -> None:
    """Name the dimension along which streams lie: of states the second, of everything else the first."""
    states = {name for pair in spec.states for name in (pair.input, pair.output)}
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[value.name in states].dim_param = BATCH


def _depends(what: str) -> ExportError:
    return ExportError(
        f"{what} depends on the number of streams",
        expected="the same step for any number of streams, but for the dimension along which they lie",
        fix="let the network reshape its input and compute with it, and build nothing else from `x.shape[0]`",
    )
