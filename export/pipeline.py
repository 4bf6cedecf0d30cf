"""Checkpoint → bundle: lower, prove, measure, build, pack."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
from edge_cnnlstm.training.data.clip import Clip, Corpus, Split
from edge_cnnlstm.training.evaluate import Answer, Evaluation, evaluate
from edge_cnnlstm.training.metrics.quality import quality
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.spec_of import spec_of
from export.graphs import StepModule, export_step
from export.lower_ort import lower_ort
from export.lower_trt import lower_trt
from export.parity import golden_rollout, load, prove_graph
from export.quantize import calibrate, fold_batch_norm, quantizable

CALIBRATION_CLIPS = 64
GOLDEN_CLIPS = 4


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
    evaluations: dict[str, Evaluation]
    plan: Plan


Progress = Callable[[str], None]


def export(
    model: CnnLstm, corpus: Corpus, output: Path, *, clips: int, budget: float, progress: Progress = print
) -> Exported:
    """Lower a trained network to every target, prove and measure each graph, and write the bundle.

    `corpus` is what the network was trained on: its training clips calibrate, its validation clips make the golden
    rollout, and `clips` of its test clips measure the accuracy of each graph. `budget` is how much of a head's
    accuracy (mean IoU where it tracks, R² where it regresses), as a share, a quantized graph may lose.

    The bundle is reloaded and replayed by another process before it takes its name: until then nothing stands at
    `output`. Raises ConfigError for a network without memory from frame to frame, DataError when calibration fails,
    ExportError when a graph cannot be traced or built or loses too much, and ParityError when one does not compute
    what torch computes.
    """
    spec = spec_of(model)
    if not spec.states:
        raise ConfigError(
            "a network that remembers nothing from frame to frame",
            expected="one LSTM layer or more, along the frames",
            fix='train with model.layers of 1 or more, and model.scan = "frames"',
        )
    progress("Quantizing: calibrating on rollouts that carry their state")
    references = lower_all(model, corpus)
    progress("Tracing one step graph per target")
    graphs = {name: export_step(StepModule(network), spec) for name, network in references.items()}
    progress("Proving: torch against each graph over a rollout with resets, and against corrupted controls")
    golden = golden_rollout(references, first_clips(corpus, "validation", GOLDEN_CLIPS))
    parity = {name: prove_graph(name, graph, spec, golden, LOWERINGS[name].tolerance) for name, graph in graphs.items()}
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    progress("Building the TensorRT graph ahead of time")
    plan = build_plan(files["int8_tensorrt"], "int8_tensorrt", ahead_of_time=True)
    tested, evaluations = first_clips(corpus, "test", clips), {}
    for name, graph in graphs.items():
        progress(f"Measuring {name} on {len(tested)} test clips")
        evaluations[name] = evaluate(backend_answer(load(graph, spec)), tested, model.config.heads)
    accuracy = {name: quality(found.scores, model.config.heads) for name, found in evaluations.items()}
    _check_accuracy(accuracy, budget)
    progress("Packing, and replaying the bundle in a fresh process")
    pack(output, spec, files, golden, accuracy)
    return Exported({name: len(file) for name, file in files.items()}, parity, evaluations, plan)


def first_clips(corpus: Corpus, split: Split, count: int) -> list[Clip]:
    """Return the first clips of a split, as they are scored on: not augmented."""
    clips = corpus.clips(corpus.splits[split], training=False)
    return [clips.clip(index) for index in range(min(count, len(clips)))]


def lower_all(model: CnnLstm, corpus: Corpus) -> dict[str, CnnLstm]:
    """Return the network as each target will compute it, in torch, by the name of its graph."""
    folded = fold_batch_norm(model)
    split = quantizable(folded)
    learnt = calibrate(split, [clip.frames for clip in first_clips(corpus, "train", CALIBRATION_CLIPS)])
    return {
        "fp32": folded,
        "int8_onnxruntime": lower_ort(split, learnt),
        "int8_tensorrt": lower_trt(split, learnt),
    }


def backend_answer(backend: Backend) -> Answer:
    """Return a backend as something that `evaluate` can ask, one step a frame."""

    def answer(frames: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        backend.reset()
        steps = [{name: value[0].copy() for name, value in backend.infer(pixels).items()} for pixels in frames]
        return {name: np.stack([step[name] for step in steps]).astype(np.float32) for name in steps[0]}

    return answer


def _check_accuracy(accuracy: dict[str, dict[str, float]], budget: float) -> None:
    if not accuracy["fp32"]:
        raise ExportError(
            "no score to measure the loss by",
            expected="accuracy, mean IoU or R² of one head or more",
            fix="measure on more clips: --clips, or more held-out data",
        )
    for name, scores in accuracy.items():
        lost, worst = max((accuracy["fp32"][score] - value, score) for score, value in scores.items())
        if lost > budget:
            raise ExportError(
                f"graph {name!r} loses {lost:.2%} of {worst} to quantization",
                expected=f"at most {budget:.2%}",
                fix="train for longer, or allow more with --budget",
            )


def pack(
    output: Path, spec: ModelSpec, files: dict[str, bytes], golden: Golden, accuracy: dict[str, dict[str, float]]
) -> None:
    """Write the bundle under a temporary name, have a fresh process verify it, and only then name it `output`."""
    graphs = tuple(
        Graph(
            name,
            f"graphs/{name}.onnx",
            LOWERINGS[name].dialect,
            LOWERINGS[name].precision,
            LOWERINGS[name].tolerance,
            accuracy[name],
        )
        for name in files
    )
    labels = [label for head in spec.heads for label in head.labels]
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
    scores = list(graphs[0].accuracy)
    rows = "".join(
        f"| {graph.name} | {graph.precision} | {' | '.join(f'{graph.accuracy[score]:.1%}' for score in scores)} |\n"
        for graph in graphs
    )
    heads = ", ".join(f"{head.name} ({head.task})" for head in spec.heads)
    return (
        f"# {name}\n\n"
        f"Frames: {spec.width}×{spec.height} RGB, other sizes by `{spec.fit}`. Heads: {heads}.\n\n"
        f"| graph | precision | {' | '.join(scores)} |\n|---|---|{'---|' * len(scores)}\n{rows}"
    )


def as_report(exported: Exported, output: Path) -> dict[str, Any]:
    """Return the measurements as plain data, for the JSON beside the bundle."""
    return {
        "bundle": {"file": output.name, "bytes": output.stat().st_size},
        "graph_bytes": exported.bytes,
        "accuracy": {name: found.scores for name, found in exported.evaluations.items()},
        "clips": next(iter(exported.evaluations.values())).clips,
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
