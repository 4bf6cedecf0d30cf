"""What tests share: a tiny network without torch, and one that was really trained and exported, each made once."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from edge_cnnlstm.spec import BATCH, HeadSpec, ModelSpec, StatePair, TensorSpec

if TYPE_CHECKING:
    from edge_cnnlstm.training.data.clip import Corpus
    from edge_cnnlstm.training.model import CnnLstm

ROOT = Path(__file__).parent.parent

Weights = dict[str, NDArray[np.float32]]

HEIGHT = WIDTH = 8
HIDDEN = 4
STEPS = 12
SECOND_RESET = 5
PERIOD = 1 / 32
MOST_MISSED = 16

DtScript = Callable[[Pixels, Arrays, float], tuple[Arrays, Arrays]]
"""(pixels, state by input name, seconds since the last frame) → (outputs by name, new state by input name)."""

Once = Callable[[str, Callable[[Path], None]], Path]
"""(name, what fills a folder) → the folder of that name."""

for measure in ("COLUMNS", "LINES"):
    os.environ.pop(measure, None)  # readline tells pytest-xdist's processes of a terminal, and rich would believe it

settings.register_profile("reproducible", deadline=None, derandomize=True, database=None)
settings.load_profile("reproducible")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither read nor write what the user's engines have measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", autouse=True)
def _imports_are_no_garbage() -> Iterator[None]:
    """Spare whoever collects garbage the million objects that importing torch has made: 0.4 s each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return what makes a folder once for all processes of this run: the first to ask makes it, the others wait."""
    own = tmp_path_factory.getbasetemp()
    root = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[Path], None]) -> Path:
        from filelock import FileLock

        folder, unfinished = root / name, root / f"{name}-{own.name}"
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return made


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
def tiny_dt_spec(tiny_spec: ModelSpec) -> ModelSpec:
    """The same, told the time since its last frame."""
    return replace(tiny_spec, dt=TensorSpec("dt", (1, 1), "float32"))


@pytest.fixture(scope="session")
def tiny_weights() -> Weights:
    generator = np.random.default_rng(7)
    shapes = {
        "gates": (WIDTH * 3 + HIDDEN, 3 * HIDDEN),
        "bias": (3 * HIDDEN,),
        "digit": (HIDDEN, 3),
        "box": (HIDDEN, 4),
        "presence": (HIDDEN, 1),
        "missed": (1, 3 * HIDDEN),
    }
    return {name: generator.normal(0, 0.8, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="session")
def tiny_script(tiny_weights: Weights) -> Script:
    """The network in numpy: column means into a cell with one candidate and two gates, then three heads."""
    return lambda pixels, state: _tiny_step(tiny_weights, pixels, state, dt=0)


@pytest.fixture(scope="session")
def tiny_dt_script(tiny_weights: Weights) -> DtScript:
    """The same network, in which each missed frame moves all gates."""
    return lambda pixels, state, dt: _tiny_step(tiny_weights, pixels, state, dt)


def _tiny_step(weights: Weights, pixels: Pixels, state: Arrays, dt: float) -> tuple[Arrays, Arrays]:
    columns = ((pixels.astype(np.float32) - 128) / 64).mean(axis=0).reshape(1, -1)
    seen = np.concatenate([columns, np.asarray(state["h"], np.float32).reshape(1, -1)], axis=1)
    missed = np.float32(np.clip(np.float32(dt) / np.float32(PERIOD) - 1, 0, MOST_MISSED))
    sums = seen @ weights["gates"] + weights["bias"] + missed * weights["missed"]
    candidate, keep, show = np.split(sums, 3, axis=1)
    c = _sigmoid(keep) * np.asarray(state["c"], np.float32).reshape(1, -1) + (1 - _sigmoid(keep)) * np.tanh(candidate)
    h = _sigmoid(show) * np.tanh(c)
    outputs = {
        "digit_logits": h @ weights["digit"],
        "target_box": _sigmoid(h @ weights["box"]),
        "target_presence": h @ weights["presence"],
    }
    return outputs, {"h": h.reshape(1, 1, HIDDEN), "c": c.reshape(1, 1, HIDDEN)}


@pytest.fixture(scope="session")
def tiny_onnx(tiny_weights: Weights) -> bytes:
    """The same network as an ONNX step graph, for any number of streams."""
    return _tiny_graph(tiny_weights, dt=False)


@pytest.fixture(scope="session")
def tiny_dt_onnx(tiny_weights: Weights) -> bytes:
    """The one that is told the time since its last frame."""
    return _tiny_graph(tiny_weights, dt=True)


def _tiny_graph(weights: Weights, *, dt: bool) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)

    nodes = [
        node("Cast", "frame", "pixels", to=TensorProto.FLOAT),
        node("Sub", "pixels grey", "centred"),
        node("Div", "centred contrast", "normal"),
        node("ReduceMean", "normal", "columns", axes=[1], keepdims=0),
        node("Reshape", "columns flat", "x"),
        node("Reshape", "h remembered", "h_flat"),
        node("Reshape", "c remembered", "c_flat"),
        node("Concat", "x h_flat", "seen", axis=1),
        node("Gemm", "seen gates bias", "sums" if not dt else "unmoved"),
        *(_told(node) if dt else []),
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
        **{name: array for name, array in weights.items() if dt or name != "missed"},
        "grey": np.float32(128),
        "contrast": np.float32(64),
        "one": np.float32(1),
        "flat": np.array([0, -1], np.int64),
        "remembered": np.array([-1, HIDDEN], np.int64),
        "memory": np.array([1, -1, HIDDEN], np.int64),
    }
    if dt:
        constants |= {"period": np.float32(PERIOD), "none": np.float32(0), "most": np.float32(MOST_MISSED)}
    real, memory = TensorProto.FLOAT, [1, BATCH, HIDDEN]
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs=[
            helper.make_tensor_value_info("frame", TensorProto.UINT8, [BATCH, HEIGHT, WIDTH, 3]),
            *([helper.make_tensor_value_info("dt", real, [BATCH, 1])] if dt else []),
            helper.make_tensor_value_info("h", real, memory),
            helper.make_tensor_value_info("c", real, memory),
        ],
        outputs=[
            helper.make_tensor_value_info("digit_logits", real, [BATCH, 3]),
            helper.make_tensor_value_info("target_box", real, [BATCH, 4]),
            helper.make_tensor_value_info("target_presence", real, [BATCH, 1]),
            helper.make_tensor_value_info("h_next", real, memory),
            helper.make_tensor_value_info("c_next", real, memory),
        ],
        initializer=[numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _told(node: Callable[..., Any]) -> list[Any]:
    """What missed frames add to the sums."""
    return [
        node("Div", "dt period", "periods"),
        node("Sub", "periods one", "between"),
        node("Clip", "between none most", "count"),
        node("MatMul", "count missed", "moved"),
        node("Add", "unmoved moved", "sums"),
    ]


@pytest.fixture(scope="session")
def tiny_golden(tiny_onnx: bytes, tiny_spec: ModelSpec) -> Golden:
    """The true course, from plain session runs that share nothing with the runtime."""
    return _tiny_course(tiny_onnx, tiny_spec, None)


@pytest.fixture(scope="session")
def tiny_dt_golden(tiny_dt_onnx: bytes, tiny_dt_spec: ModelSpec) -> Golden:
    """Likewise; some frames were missed, once more than the network tells apart."""
    dt = np.full(STEPS, PERIOD, np.float32)
    dt[[0, SECOND_RESET]] = 0
    dt[[2, 6, 9]] = 3 * PERIOD, 2.5 * PERIOD, 1.0
    return _tiny_course(tiny_dt_onnx, tiny_dt_spec, dt)


def _tiny_course(graph: bytes, spec: ModelSpec, dt: NDArray[np.float32] | None) -> Golden:
    import onnxruntime

    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    frames = tiny_frames(STEPS, seed=3)
    resets = np.zeros(STEPS, np.bool_)
    resets[[0, SECOND_RESET]] = True
    names = [output.name for output in spec.outputs] + [pair.output for pair in spec.states]
    course: dict[str, list[NDArray[np.float32]]] = {output.name: [] for output in spec.outputs}
    state = {pair.input: pair.zeros() for pair in spec.states}
    for at, (pixels, reset) in enumerate(zip(frames, resets, strict=True)):
        if reset:
            state = {pair.input: pair.zeros() for pair in spec.states}
        told = {} if dt is None else {"dt": dt[at].reshape(1, 1)}
        results = dict(zip(names, session.run(names, {"frame": pixels[None], **told, **state}), strict=True))
        for name, values in course.items():
            values.append(results[name][0])
        state = {pair.input: results[pair.output] for pair in spec.states}
    expected: dict[str, NDArray[np.generic]] = {name: np.stack(values) for name, values in course.items()}
    expected |= {pair.output: state[pair.input] for pair in spec.states}
    return Golden(frames, resets, {"tiny": expected}, dt)


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
def tiny_dt_bundle(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_manifest: Manifest,
    tiny_members: dict[str, bytes],
    tiny_dt_spec: ModelSpec,
    tiny_dt_onnx: bytes,
    tiny_dt_golden: Golden,
) -> Path:
    """A bundle of the network that is told the time since its last frame."""
    path = tmp_path_factory.mktemp("tiny") / "tiny_dt.edge"
    members = {**tiny_members, "graphs/tiny.onnx": tiny_dt_onnx, "golden.npz": golden.dump(tiny_dt_golden)}
    bundle_format.write(path, replace(tiny_manifest, model=tiny_dt_spec), members)
    return path


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
def checkpoint(once: Once) -> Path:
    """A nano network trained for a few seconds: enough for its activations to have a shape worth calibrating."""

    def train(folder: Path) -> None:
        from edge_cnnlstm.training import run
        from edge_cnnlstm.training.recipe import load_recipe

        stages = "fit.stages=[{epochs=2, frames=3, batch=48}, {epochs=3, batch=24}]"
        recipe = load_recipe("occluded-digits", ["data.clips=144", "data.held_out=64", stages])
        run.train(recipe, folder / "checkpoint", progress=False)

    return once("trained", train) / "checkpoint"


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
def exported(checkpoint: Path, once: Once) -> Path:
    """The bundle that `python -m export` makes of the trained network."""

    def export(folder: Path) -> None:
        few = [
            "--clips",
            "4",
            "--validation-clips",
            "16",
            "--sensitivity-clips",
            "2",
            "--steps",
            "128",
            "--budget",
            "1",
        ]
        command = [sys.executable, "-m", "export", checkpoint, "-o", folder / "digits.edge", *few]
        made = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT, check=False)
        assert made.returncode == 0, made.stdout + made.stderr

    return once("exported", export) / "digits.edge"
