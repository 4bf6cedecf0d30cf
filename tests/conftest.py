"""What tests share: a tiny network without torch, and one that was really trained and exported, each made once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle import golden
from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.bundle.manifest import FORMAT_VERSION, Graph, Manifest
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import Script
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import HeadSpec, ModelSpec, StatePair, TensorSpec

if TYPE_CHECKING:
    from edge_cnnlstm.training.data.clip import Corpus
    from edge_cnnlstm.training.model import CnnLstm

ROOT = Path(__file__).parent.parent

Weights = dict[str, NDArray[np.float32]]

HEIGHT = WIDTH = 8
HIDDEN = 4
STEPS = 12
SECOND_RESET = 5

settings.register_profile("reproducible", deadline=None, derandomize=True, database=None)
settings.load_profile("reproducible")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither read nor write what the user's engines have measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_spec() -> ModelSpec:
    """Both tasks, and two pieces of memory of one shape: only their names tell them apart."""
    return ModelSpec(
        frame=TensorSpec("frame", (1, HEIGHT, WIDTH, 3), "uint8"),
        fit="letterbox",
        states=(StatePair("h", "h_next", (1, 1, HIDDEN)), StatePair("c", "c_next", (1, 1, HIDDEN))),
        outputs=(
            TensorSpec("digit_logits", (1, 3), "float32"),
            TensorSpec("target_box", (1, 4), "float32"),
            TensorSpec("target_presence", (1, 1), "float32"),
        ),
        heads=(
            HeadSpec("digit", "classify", ("digit_logits",), ("zero", "one", "two")),
            HeadSpec("target", "track", ("target_box", "target_presence")),
        ),
    )


@pytest.fixture(scope="session")
def tiny_weights() -> Weights:
    generator = np.random.default_rng(7)
    shapes = {
        "gates": (WIDTH * 3 + HIDDEN, 3 * HIDDEN),
        "bias": (3 * HIDDEN,),
        "digit": (HIDDEN, 3),
        "box": (HIDDEN, 4),
        "presence": (HIDDEN, 1),
    }
    return {name: generator.normal(0, 0.8, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def tiny_script(tiny_weights: Weights) -> Script:
    """The network in numpy: column means into a cell with one candidate and two gates, then three heads."""
    weights = tiny_weights

    def script(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        columns = ((pixels.astype(np.float32) - 128) / 64).mean(axis=0).reshape(1, -1)
        seen = np.concatenate([columns, np.asarray(state["h"], np.float32).reshape(1, -1)], axis=1)
        candidate, keep, show = np.split(seen @ weights["gates"] + weights["bias"], 3, axis=1)
        c = _sigmoid(keep) * np.asarray(state["c"], np.float32).reshape(1, -1) + (1 - _sigmoid(keep)) * np.tanh(
            candidate
        )
        h = _sigmoid(show) * np.tanh(c)
        outputs = {
            "digit_logits": h @ weights["digit"],
            "target_box": _sigmoid(h @ weights["box"]),
            "target_presence": h @ weights["presence"],
        }
        return outputs, {"h": h.reshape(1, 1, HIDDEN), "c": c.reshape(1, 1, HIDDEN)}

    return script


@pytest.fixture(scope="session")
def tiny_onnx(tiny_weights: Weights) -> bytes:
    """The same network as an ONNX step graph."""
    from onnx import TensorProto, helper, numpy_helper

    def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)

    nodes = [
        node("Cast", "frame", "pixels", to=TensorProto.FLOAT),
        node("Sub", "pixels grey", "centred"),
        node("Div", "centred contrast", "normal"),
        node("ReduceMean", "normal", "columns", axes=[1], keepdims=0),
        node("Reshape", "columns flat", "x"),
        node("Reshape", "h flat", "h_flat"),
        node("Reshape", "c flat", "c_flat"),
        node("Concat", "x h_flat", "seen", axis=1),
        node("Gemm", "seen gates bias", "sums"),
        node("Split", "sums", "candidate keep show", axis=1),
        node("Tanh", "candidate", "fresh"),
        node("Sigmoid", "keep", "kept"),
        node("Sub", "one kept", "taken"),
        node("Mul", "kept c_flat", "old"),
        node("Mul", "taken fresh", "new"),
        node("Add", "old new", "c_out"),
        node("Tanh", "c_out", "bounded"),
        node("Sigmoid", "show", "shown"),
        node("Mul", "shown bounded", "h_out"),
        node("MatMul", "h_out digit", "digit_logits"),
        node("MatMul", "h_out box", "corners"),
        node("Sigmoid", "corners", "target_box"),
        node("MatMul", "h_out presence", "target_presence"),
        node("Reshape", "h_out memory", "h_next"),
        node("Reshape", "c_out memory", "c_next"),
    ]
    constants = {
        **tiny_weights,
        "grey": np.float32(128),
        "contrast": np.float32(64),
        "one": np.float32(1),
        "flat": np.array([1, -1], np.int64),
        "memory": np.array([1, 1, HIDDEN], np.int64),
    }
    real, memory = TensorProto.FLOAT, [1, 1, HIDDEN]
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs=[
            helper.make_tensor_value_info("frame", TensorProto.UINT8, [1, HEIGHT, WIDTH, 3]),
            helper.make_tensor_value_info("h", real, memory),
            helper.make_tensor_value_info("c", real, memory),
        ],
        outputs=[
            helper.make_tensor_value_info("digit_logits", real, [1, 3]),
            helper.make_tensor_value_info("target_box", real, [1, 4]),
            helper.make_tensor_value_info("target_presence", real, [1, 1]),
            helper.make_tensor_value_info("h_next", real, memory),
            helper.make_tensor_value_info("c_next", real, memory),
        ],
        initializer=[numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.fixture(scope="session")
def tiny_golden(tiny_onnx: bytes, tiny_spec: ModelSpec) -> Golden:
    """The true course, from plain session runs that share nothing with the runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(tiny_onnx, providers=["CPUExecutionProvider"])
    frames = tiny_frames(STEPS, seed=3)
    resets = np.zeros(STEPS, np.bool_)
    resets[[0, SECOND_RESET]] = True
    names = [output.name for output in tiny_spec.outputs] + [pair.output for pair in tiny_spec.states]
    course: dict[str, list[NDArray[np.float32]]] = {output.name: [] for output in tiny_spec.outputs}
    state = {pair.input: pair.zeros() for pair in tiny_spec.states}
    for pixels, reset in zip(frames, resets, strict=True):
        if reset:
            state = {pair.input: pair.zeros() for pair in tiny_spec.states}
        results = dict(zip(names, session.run(names, {"frame": pixels[None], **state}), strict=True))
        for name, values in course.items():
            values.append(results[name][0])
        state = {pair.input: results[pair.output] for pair in tiny_spec.states}
    expected: dict[str, NDArray[np.generic]] = {name: np.stack(values) for name, values in course.items()}
    expected |= {pair.output: state[pair.input] for pair in tiny_spec.states}
    return Golden(frames, resets, {"tiny": expected})


@pytest.fixture(scope="session")
def tiny_manifest(tiny_spec: ModelSpec) -> Manifest:
    """The manifest before `write` fills in the members."""
    graph = Graph("tiny", "graphs/tiny.onnx", "portable", "fp32", tolerance=1e-5, accuracy={"digit": 0.9})
    return Manifest(FORMAT_VERSION, "tiny", tiny_spec, (graph,), members={}, made_with={"tests": "1"})


@pytest.fixture(scope="session")
def tiny_members(tiny_onnx: bytes, tiny_golden: Golden) -> dict[str, bytes]:
    """Everything but the manifest."""
    return {
        "graphs/tiny.onnx": tiny_onnx,
        "golden.npz": golden.dump(tiny_golden),
        "labels.txt": b"zero\none\ntwo\n",
    }


@pytest.fixture(scope="session")
def tiny_bundle(
    tmp_path_factory: pytest.TempPathFactory, tiny_manifest: Manifest, tiny_members: dict[str, bytes]
) -> Path:
    """A bundle that opens; small enough that a test can damage it in every place."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.edge"
    bundle_format.write(path, tiny_manifest, tiny_members)
    return path


def tiny_frames(count: int, seed: int) -> NDArray[np.uint8]:
    """Frames that no two of are alike."""
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def _sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-values)), np.float32)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano network trained for a few seconds: enough for its activations to have a shape worth calibrating."""
    from edge_cnnlstm.training import run
    from edge_cnnlstm.training.recipe import load_recipe

    folder = tmp_path_factory.mktemp("trained") / "checkpoint"
    stages = "fit.stages=[{epochs=2, frames=3, batch=48}, {epochs=3, batch=24}]"
    run.train(load_recipe("occluded-digits", ["data.clips=144", "data.held_out=64", stages]), folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def corpus(checkpoint: Path) -> Corpus:
    """What the trained network was trained on."""
    from edge_cnnlstm.training.checkpoint import load_recipe_of
    from edge_cnnlstm.training.data.corpora import open_corpus

    recipe = load_recipe_of(checkpoint)
    return open_corpus(recipe.data, recipe.model, recipe.seed)


@pytest.fixture(scope="session")
def trained(checkpoint: Path) -> CnnLstm:
    from edge_cnnlstm.training.checkpoint import load_checkpoint

    return load_checkpoint(checkpoint)


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that `python -m export` makes of the trained network."""
    bundle = tmp_path_factory.mktemp("exported") / "digits.edge"
    few = ["--clips", "4", "--validation-clips", "16", "--sensitivity-clips", "2", "--steps", "128", "--budget", "1"]
    command = [sys.executable, "-m", "export", checkpoint, "-o", bundle, *few]
    made = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return bundle
