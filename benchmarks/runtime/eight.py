"""A network of eight numbers, which costs an engine next to nothing: what is left is the runtime."""

from __future__ import annotations

import numpy as np

from edge_cnnlstm.spec import HeadSpec, ModelSpec, StatePair, TensorSpec

LABELS = tuple("abcdefgh")
SPEC = ModelSpec(
    frame=TensorSpec("frame", (1, 1, 1, 3), "uint8"),
    fit="crop",
    states=(StatePair("h", "h_next", (1, 1, 8)),),
    outputs=(TensorSpec("logits", (1, 8), "float32"),),
    heads=(HeadSpec("letter", "classify", ("logits",), LABELS),),
)


def graph() -> bytes:
    """Return it as ONNX: the memory, a little faded, plus the frame's mean."""
    from onnx import TensorProto, ValueInfoProto, helper, numpy_helper

    def tensor(name: str, kind: int, shape: list[int]) -> ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, shape)

    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "memory"], ["seen"]),
        helper.make_node("Mul", ["h", "fade"], ["kept"]),
        helper.make_node("Add", ["kept", "seen"], ["h_next"]),
        helper.make_node("Reshape", ["h_next", "flat"], ["logits"]),
    ]
    whole = helper.make_graph(
        nodes,
        "eight",
        [tensor("frame", TensorProto.UINT8, [1, 1, 1, 3]), tensor("h", TensorProto.FLOAT, [1, 1, 8])],
        [tensor("logits", TensorProto.FLOAT, [1, 8]), tensor("h_next", TensorProto.FLOAT, [1, 1, 8])],
        [
            numpy_helper.from_array(np.array([1, 1, 1]), "memory"),
            numpy_helper.from_array(np.array([1, 8]), "flat"),
            numpy_helper.from_array(np.array(0.5, np.float32), "fade"),
        ],
    )
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
