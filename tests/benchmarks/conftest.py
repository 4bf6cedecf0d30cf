"""A real bundle, small enough to make for every test: a few frames of 8×8, two copies of one graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.golden import Golden, dump
from edge_cnnlstm.bundle.manifest import FORMAT_VERSION, Graph, Manifest
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.proof import replay
from edge_cnnlstm.spec import HeadSpec, ModelSpec, StatePair, TensorSpec

FRAMES = 6
MEMORY = (1, 1, 2)
SPEC = ModelSpec(
    frame=TensorSpec("frame", (1, 8, 8, 3), "uint8"),
    fit="stretch",
    states=(StatePair("h", "h_next", MEMORY), StatePair("c", "c_next", MEMORY)),
    outputs=(TensorSpec("digit_logits", (1, 2), "float32"),),
    heads=(HeadSpec("digit", "classify", ("digit_logits",), ("even", "odd")),),
)
GRAPHS = (
    Graph("fp32", "graphs/fp32.onnx", "portable", "fp32", tolerance=1e-4),
    Graph("int8", "graphs/int8.onnx", "tensorrt", "int8", tolerance=1e-4),
)

Make = Callable[..., Path]


@pytest.fixture
def make_bundle(tmp_path: Path) -> Make:
    """Return a function that writes a bundle; its arguments break one thing each."""

    def make(graphs: dict[str, bytes] | None = None, error: float = 0.0) -> Path:
        content = {graph.name: step_graph() for graph in GRAPHS} | (graphs or {})
        course = expected(step_graph())
        course["digit_logits"] = course["digit_logits"] + np.float32(error)
        golden = Golden(frames(), resets(), {graph.name: course for graph in GRAPHS})
        members = {graph.file: content[graph.name] for graph in GRAPHS} | {bundle_format.GOLDEN: dump(golden)}
        path = tmp_path / "tiny.edge"
        bundle_format.write(path, Manifest(FORMAT_VERSION, "tiny", SPEC, GRAPHS, {}, {}), members)
        return path

    return make


def frames() -> NDArray[np.uint8]:
    """Return the golden frames, all different."""
    return np.random.default_rng(0).integers(0, 256, (FRAMES, 8, 8, 3), np.uint8)


def resets() -> NDArray[np.bool_]:
    """Return where the golden rollout forgets."""
    return np.array([index == FRAMES // 2 for index in range(FRAMES)])


def expected(graph: bytes) -> dict[str, NDArray[np.float32]]:
    """Return what ONNX Runtime computes over the golden rollout."""
    blank = Golden(frames(), resets(), {})
    course = replay(OnnxRuntimeBackend(graph, SPEC), blank)
    memory = {pair.output: course[pair.output][0] for pair in SPEC.states}
    return {"digit_logits": np.stack(course["digit_logits"]), **memory}


def step_graph() -> bytes:
    """Return a step: the mean colour of the frame joins a fading sum, and both sides of it are the answer."""
    tensors: dict[str, NDArray[Any]] = {
        "weight": np.array([[1, -1], [0.5, 0.5], [-1, 1]], np.float32) / 64,
        "fade": np.array(0.5, np.float32),
        "memory_shape": np.array(MEMORY),
        "answer_shape": np.array([1, 2]),
    }
    nodes = [
        helper.make_node("Cast", ["frame"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["colour"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["colour", "weight"], ["seen"]),
        helper.make_node("Reshape", ["seen", "memory_shape"], ["news"]),
        helper.make_node("Mul", ["c", "fade"], ["faded"]),
        helper.make_node("Add", ["faded", "news"], ["c_next"]),
        helper.make_node("Tanh", ["c_next"], ["h_next"]),
        helper.make_node("Add", ["h_next", "h"], ["answer"]),
        helper.make_node("Reshape", ["answer", "answer_shape"], ["digit_logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "step",
        [
            helper.make_tensor_value_info("frame", TensorProto.UINT8, SPEC.frame.shape),
            *(helper.make_tensor_value_info(pair.input, TensorProto.FLOAT, pair.shape) for pair in SPEC.states),
        ],
        [
            helper.make_tensor_value_info("digit_logits", TensorProto.FLOAT, (1, 2)),
            *(helper.make_tensor_value_info(pair.output, TensorProto.FLOAT, pair.shape) for pair in SPEC.states),
        ],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
