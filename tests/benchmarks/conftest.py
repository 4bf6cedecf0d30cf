"""Real bundles: one small enough to make for every test, of a few frames of 8×8, and one of a nano network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from edge_cnnlstm.spec import BATCH, HeadSpec, ModelSpec, StatePair, TensorSpec
from tests.conftest import Once

if TYPE_CHECKING:
    from edge_cnnlstm.training.model import CnnLstm

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

    def make(graphs: dict[str, bytes] | None = None, error: float = 0.0, described: tuple[Graph, ...] = GRAPHS) -> Path:
        content = {graph.name: step_graph() for graph in described} | (graphs or {})
        course = expected(step_graph())
        course["digit_logits"] = course["digit_logits"] + np.float32(error)
        golden = Golden(frames(), resets(), {graph.name: course for graph in described})
        members = {graph.file: content[graph.name] for graph in described} | {bundle_format.GOLDEN: dump(golden)}
        path = tmp_path / "tiny.edge"
        bundle_format.write(path, Manifest(FORMAT_VERSION, "tiny", SPEC, described, {}, {}), members)
        return path

    return make


@pytest.fixture(scope="session")
def nano(once: Once) -> Path:
    """A bundle of an untrained nano network: FP32 and int8 in both dialects, over eight frames with a reset."""
    return once("nano", write_nano) / "nano.edge"


def write_nano(folder: Path) -> None:
    """Write the bundle into a folder."""
    from edge_cnnlstm.training.data.occluded_digits import Scene, held_out_clip
    from edge_cnnlstm.training.spec_of import spec_of
    from export.graphs import export_step
    from export.points import quantizable, quantized_layers
    from export.precisions import candidates
    from export.quantize import calibrate

    network = untrained(layers=1)
    split, spec = quantizable(network), spec_of(network)
    clips = [held_out_clip(index, Scene(frames=8), split="validation").frames for index in range(16)]
    seen, calibration = clips[0], calibrate(split, [np.concatenate(clips)])
    precisions = candidates(quantized_layers(split))
    lowered = {name: precisions[name].network(split, calibration) for name in ("int8_onnxruntime", "int8_tensorrt")}
    graphs = (
        Graph("fp32", "graphs/fp32.onnx", "portable", "fp32", tolerance=1e-3),
        Graph("int8_onnxruntime", "graphs/cpu.onnx", "onnxruntime", "int8", tolerance=0.3),
        Graph("int8_tensorrt", "graphs/board.onnx", "tensorrt", "int8, fp16 between", tolerance=0.3),
    )
    content = {"fp32": export_step(network)} | {name: export_step(module) for name, module in lowered.items()}
    golden = Golden(seen, np.arange(len(seen)) == 4, {})
    course = replay(OnnxRuntimeBackend(content["fp32"].SerializeToString(), spec), golden)
    expected: dict[str, NDArray[np.generic]] = {
        output.name: np.concatenate(course[output.name]) for output in spec.outputs
    }
    expected |= {pair.output: course[pair.output][0] for pair in spec.states}
    rollout = Golden(seen, golden.resets, {graph.name: expected for graph in graphs})
    members = {graph.file: content[graph.name].SerializeToString() for graph in graphs}
    manifest = Manifest(FORMAT_VERSION, "nano", spec, graphs, {}, {})
    bundle_format.write(folder / "nano.edge", manifest, members | {bundle_format.GOLDEN: dump(rollout)})


def untrained(layers: int) -> CnnLstm:
    """Return a nano network as it is exported, whose memory and answers move with every frame."""
    from edge_cnnlstm.training.fold import fold

    return fold(unfolded(layers))


def unfolded(layers: int) -> CnnLstm:
    """Return the same as it is trained; new weights would hardly move its memory, so they are made larger."""
    import torch

    from edge_cnnlstm.training.config import preset_config
    from edge_cnnlstm.training.data.occluded_digits import HEADS
    from edge_cnnlstm.training.model import CnnLstm

    torch.manual_seed(0)
    network = CnnLstm(preset_config("nano", HEADS, layers=layers))
    with torch.no_grad():
        network.see(torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8))
        for weights in (*network.cells.parameters(), *network.heads.parameters()):
            weights.mul_(1.5)
    return network.eval()


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
    return {"digit_logits": np.concatenate(course["digit_logits"]), **memory}


def step_graph(fade: float = 0.5) -> bytes:
    """Return a step: the mean colour of the frame joins a fading sum, and both sides of it are the answer."""
    tensors: dict[str, NDArray[Any]] = {
        "weight": np.array([[1, -1], [0.5, 0.5], [-1, 1]], np.float32) / 64,
        "fade": np.array(fade, np.float32),
        "memory_shape": np.array([1, -1, 2]),
        "answer_shape": np.array([-1, 2]),
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
            helper.make_tensor_value_info("frame", TensorProto.UINT8, (BATCH, *SPEC.frame.shape[1:])),
            *(helper.make_tensor_value_info(pair.input, TensorProto.FLOAT, (1, BATCH, 2)) for pair in SPEC.states),
        ],
        [
            helper.make_tensor_value_info("digit_logits", TensorProto.FLOAT, (BATCH, 2)),
            *(helper.make_tensor_value_info(pair.output, TensorProto.FLOAT, (1, BATCH, 2)) for pair in SPEC.states),
        ],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
