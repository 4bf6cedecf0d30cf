"""The same network with one LSTM operator for each of its cells: the other way to write a memory for a CPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

CELL = re.compile(r"/cells\.\d+/")
ORDER = (0, 3, 1, 2)
"""Of the gates input, forget, cell, output in what ONNX's LSTM calls iofc."""


def with_lstm_operators(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of an FP32 step graph whose unrolled cells are LSTM operators; raises ValueError without cells."""
    fused = onnx.ModelProto()
    fused.CopyFrom(model)
    nodes = list(fused.graph.node)
    scopes = dict.fromkeys(found[0] for node in nodes if (found := CELL.match(node.name)))
    if not scopes:
        raise ValueError("no LSTM cells in this network")
    constants = {tensor.name: tensor for tensor in fused.graph.initializer}
    replaced = {scope: _fuse(scope, nodes, constants) for scope in scopes}
    del fused.graph.node[:]
    for node in nodes:
        found = CELL.match(node.name)
        if found is None:
            fused.graph.node.append(node)
        elif found[0] in replaced:
            operators, weights = replaced.pop(found[0])
            fused.graph.node.extend(operators)
            fused.graph.initializer.extend(weights)
    used = {name for node in fused.graph.node for name in node.input}
    kept = [tensor for tensor in fused.graph.initializer if tensor.name in used]
    del fused.graph.initializer[:]
    fused.graph.initializer.extend(kept)
    onnx.checker.check_model(fused, full_check=True)
    return fused


def _fuse(
    scope: str, nodes: Sequence[onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes and the weights that compute one cell: x, h [batch, …] and c in, h and c out, by their names."""
    within = [node for node in nodes if node.name.startswith(scope)]
    made = {name for node in within for name in node.output}
    (joined,) = (node for node in within if node.op_type == "Concat")
    (gates,) = (node for node in within if node.op_type == "Gemm")
    *parts, h = joined.input
    outside = {name for node in within for name in node.input} - made - set(constants) - set(joined.input)
    (c,) = outside
    needed = {name for node in nodes if not node.name.startswith(scope) for name in node.input}
    results = {node.op_type: node.output[0] for node in within if node.output[0] in needed}

    weight, bias = (numpy_helper.to_array(constants[name]) for name in gates.input[1:])
    hidden = len(bias) // 4
    weight, bias = (np.concatenate([array.reshape(4, hidden, -1)[gate] for gate in ORDER]) for array in (weight, bias))
    inputs = weight.shape[1] - hidden
    weights = {
        "axis": np.array([0], np.int64),
        "W": weight[None, :, :inputs],
        "R": weight[None, :, inputs:],
        "B": np.concatenate([bias.ravel(), np.zeros(4 * hidden, np.float32)])[None],
    }

    def name(what: str) -> str:
        return f"{scope}{what}"

    def node(kind: str, given: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, given, outputs, name=name(f"fused/{outputs[0]}"), **attributes)

    axis = name("axis")
    operators = [node("Concat", parts, [name("x")], axis=1)]
    operators += [
        node("Unsqueeze", [value, axis], [name(to)]) for value, to in ((name("x"), "xs"), (h, "hs"), (c, "cs"))
    ]
    given = [name("xs"), name("W"), name("R"), name("B"), "", name("hs"), name("cs")]
    operators.append(node("LSTM", given, ["", name("h_last"), name("c_last")], hidden_size=hidden))
    operators += [
        node("Squeeze", [name(last), axis], [results[kind]]) for last, kind in (("h_last", "Mul"), ("c_last", "Add"))
    ]
    tensors = [numpy_helper.from_array(np.ascontiguousarray(array), name(key)) for key, array in weights.items()]
    return operators, tensors
