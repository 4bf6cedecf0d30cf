"""Checkpoint → bundle: lower, prove, measure, build, pack."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle import golden as golden_format
from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.bundle.manifest import FORMAT_VERSION, Dialect, Graph, Manifest
from edge_cnnlstm.errors import ConfigError, ExportError
from edge_cnnlstm.gpu.engine import Plan, build_plan
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.proof import Deviation
from edge_cnnlstm.spec import ModelSpec
from edge_cnnlstm.training.evaluate import Answers, Scores, evaluation_clips, score
from edge_cnnlstm.training.model import CnnLstm
from export.graphs import StepModule, export_step, model_spec
from export.lower_ort import lower_ort
from export.lower_trt import lower_trt
from export.parity import golden_rollout, load, prove_graph
from export.quantize import calibrate, fold_batch_norm, quantizable

CALIBRATION_CLIPS = 64


@dataclass(frozen=True, slots=True)
class Lowering:
    """A target: its dialect and precision, and how far its graph may stray from torch.

    The quantized tolerances are about five quantization steps of the widest activation: where torch and the
    engine round one accumulator to different sides, that difference travels through the recurrence.
    """

    dialect: Dialect
    precision: str
    tolerance: float


LOWERINGS = {
    "fp32": Lowering("portable", "fp32", 1e-3),
    "int8_onnxruntime": Lowering("onnxruntime", "int8 convolutions, fp32 memory", 0.5),
    "int8_tensorrt": Lowering("tensorrt", "int8 convolutions and gates, fp16 between, fp32 cell state", 0.5),
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export measured, per graph; `plan` is the TensorRT graph built ahead of time."""

    bytes: dict[str, int]
    parity: dict[str, Deviation]
    accuracy: dict[str, Scores]
    plan: Plan


Progress = Callable[[str], None]


def export(model: CnnLstm, output: Path, *, clips: int, budget: float, progress: Progress = print) -> Exported:
    """Lower a trained network to every target, prove and measure each graph, and write the bundle.

    The bundle is reloaded and replayed by another process before it takes its name: until then nothing stands at
    `output`. `clips` is how many test clips measure the accuracy of each graph, and `budget` how much accuracy,
    as a share, a quantized graph may lose. Raises ConfigError for a network without memory, DataError when
    calibration fails, ExportError when a graph cannot be traced or built or loses too much, and ParityError when
    one does not compute what torch computes.
    """
    if model.config.layers == 0:
        raise ConfigError(
            "a network without LSTM layers", expected="one layer or more", fix="train with --layers 1 or more"
        )
    progress("Quantizing: calibrating on rollouts that carry their state")
    references = lower_all(model)
    spec = model_spec(model)
    progress("Tracing one step graph per target")
    graphs = {name: export_step(StepModule(network), spec) for name, network in references.items()}
    progress("Proving: torch against each graph over a rollout with resets, and against corrupted controls")
    golden = golden_rollout(references, evaluation_clips(model, 4, "validation"))
    parity = {name: prove_graph(name, graph, spec, golden, LOWERINGS[name].tolerance) for name, graph in graphs.items()}
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    progress("Building the TensorRT graph ahead of time")
    plan = build_plan(files["int8_tensorrt"], "int8_tensorrt", ahead_of_time=True)
    tested, accuracy = evaluation_clips(model, clips), {}
    for name, graph in graphs.items():
        progress(f"Measuring {name} on {clips} test clips")
        accuracy[name] = score(backend_answer(load(graph, spec)), tested)
    _check_accuracy(accuracy, budget)
    progress("Packing, and replaying the bundle in a fresh process")
    pack(output, spec, files, golden, accuracy)
    return Exported({name: len(file) for name, file in files.items()}, parity, accuracy, plan)


def lower_all(model: CnnLstm) -> dict[str, CnnLstm]:
    """Return the network as each target will compute it, in torch, by the name of its graph."""
    folded = fold_batch_norm(model)
    split = quantizable(folded)
    learnt = calibrate(split, [clip.frames for clip in evaluation_clips(model, CALIBRATION_CLIPS, "train")])
    return {
        "fp32": folded,
        "int8_onnxruntime": lower_ort(split, learnt),
        "int8_tensorrt": lower_trt(split, learnt),
    }


def backend_answer(backend: Backend) -> Callable[[NDArray[np.uint8]], Answers]:
    """Return a backend as something that `score` can ask, one step a frame."""
    spec = backend.spec
    logits = next(head.outputs[0] for head in spec.heads if head.task == "classify")
    box = next(head.outputs[0] for head in spec.heads if head.task == "track")

    def answer(frames: NDArray[np.uint8]) -> Answers:
        backend.reset()
        classes = np.empty(len(frames), np.int64)
        boxes = np.empty((len(frames), 4), np.float32)
        for index, pixels in enumerate(frames):
            outputs = backend.infer(pixels)
            classes[index] = outputs[logits][0].argmax()
            boxes[index] = outputs[box][0]
        return classes, boxes

    return answer


def _check_accuracy(accuracy: dict[str, Scores], budget: float) -> None:
    for name, scores in accuracy.items():
        lost = max(accuracy["fp32"].visible - scores.visible, accuracy["fp32"].hidden - scores.hidden)
        if lost > budget:
            raise ExportError(
                f"graph {name!r} loses {lost:.2%} of accuracy to quantization",
                expected=f"at most {budget:.2%}",
                fix="train for longer, or allow more with --budget",
            )


def pack(output: Path, spec: ModelSpec, files: dict[str, bytes], golden: Golden, accuracy: dict[str, Scores]) -> None:
    """Write the bundle under a temporary name, have a fresh process verify it, and only then name it `output`."""
    graphs = tuple(
        Graph(
            name,
            f"graphs/{name}.onnx",
            LOWERINGS[name].dialect,
            LOWERINGS[name].precision,
            LOWERINGS[name].tolerance,
            {"visible": accuracy[name].visible, "hidden": accuracy[name].hidden},
        )
        for name in files
    )
    labels = next(head.labels for head in spec.heads if head.task == "classify")
    members = {f"graphs/{name}.onnx": file for name, file in files.items()} | {
        bundle_format.GOLDEN: golden_format.dump(golden),
        "labels.txt": "".join(f"{label}\n" for label in labels).encode(),
        "card.md": _card(output.stem, spec, graphs).encode(),
    }
    made_with = {name: version(name) for name in ("torch", "onnx", "nvidia-modelopt", "onnxruntime")}
    manifest = Manifest(
        FORMAT_VERSION, output.stem, spec, graphs, {}, {"python": platform.python_version(), **made_with}
    )
    unproven = output.with_name(f".{output.name}.unproven")
    try:
        bundle_format.write(unproven, manifest, members)
        verified = subprocess.run(
            [sys.executable, "-m", "edge_cnnlstm.cli", "verify", str(unproven)],
            capture_output=True,
            text=True,
            check=False,
        )
        if verified.returncode:
            raise ExportError(
                f"the bundle failed in a fresh process:\n{verified.stdout}{verified.stderr}",
                expected="`edge-cnnlstm verify` to accept it",
                fix="report this: the same graphs passed in the exporting process",
            )
        unproven.replace(output)
    finally:
        unproven.unlink(missing_ok=True)


def _card(name: str, spec: ModelSpec, graphs: tuple[Graph, ...]) -> str:
    rows = "".join(
        f"| {graph.name} | {graph.precision} | {graph.accuracy['visible']:.1%} | {graph.accuracy['hidden']:.1%} |\n"
        for graph in graphs
    )
    heads = ", ".join(f"{head.name} ({head.task})" for head in spec.heads)
    return (
        f"# {name}\n\n"
        f"Frames: {spec.width}×{spec.height} RGB, other sizes by `{spec.fit}`. Heads: {heads}.\n\n"
        f"| graph | precision | accuracy, in sight | accuracy, hidden |\n|---|---|---|---|\n{rows}"
    )


def as_report(exported: Exported, output: Path) -> dict[str, Any]:
    """Return the measurements as plain data, for the JSON beside the bundle."""
    return {
        "bundle": {"file": output.name, "bytes": output.stat().st_size},
        "graph_bytes": exported.bytes,
        "accuracy": {name: asdict(scores) for name, scores in exported.accuracy.items()},
        "parity": {
            name: {
                "max_abs_output": found.output,
                "max_abs_state": found.state,
                "tolerance": LOWERINGS[name].tolerance,
            }
            for name, found in exported.parity.items()
        },
        "tensorrt_aot": {
            "plan_bytes": len(exported.plan.data),
            "seconds": exported.plan.seconds,
            "version": exported.plan.version,
        },
    }
