"""Read what the other commands left in a run folder, and gather it into one document.

Every input is checked on the way in; fields that this report does not need are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_cnnlstm.errors import ConfigError, DataError
from edge_cnnlstm.provenance import machine, versions

VIDEO = "unseen.mp4"
TRUTH = "unseen.truth.jsonl"
STREAM = "stream.json"
PREDICTIONS = "predictions.jsonl"
EVALUATION = "evaluation.json"
EXPORT = "digits.export_report.json"
CHECKPOINT = "checkpoint/training.json"
CNN_ONLY = "cnn-only/training.json"

_RUN = f"edge-cnnlstm run digits.edge --source {VIDEO} --rate 30 --predictions {PREDICTIONS} --summary {STREAM}"
WRITTEN_BY = {
    CHECKPOINT: "edge-cnnlstm train occluded-digits --output checkpoint",
    CNN_ONLY: "edge-cnnlstm train occluded-digits --set model.layers=0 --output cnn-only",
    EVALUATION: f"edge-cnnlstm evaluate checkpoint cnn-only --output {EVALUATION}",
    EXPORT: "python -m export checkpoint --output digits.edge",
    VIDEO: f"edge-cnnlstm sample-video {VIDEO}",
    TRUTH: f"edge-cnnlstm sample-video {VIDEO}",
    STREAM: _RUN,
    PREDICTIONS: _RUN,
}
"""Each file of a run folder, and the command that writes it."""

DISTRIBUTIONS = (
    "edge-cnnlstm",
    "torch",
    "onnx",
    "onnxruntime",
    "nvidia-modelopt",
    "tensorrt-rtx",
    "opencv-python-headless",
    "numpy",
    "lightning",
)

BoxSides = tuple[float, float, float, float]


class _Input(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)


InputT = TypeVar("InputT", bound=_Input)


class Timed(_Input):
    """When a command began, in Unix seconds, and how long it took."""

    started: float
    seconds: float

    @property
    def ended(self) -> float:
        """When it was done, in Unix seconds."""
        return self.started + self.seconds


class Scores(_Input):
    """Accuracy 0..1, centre error in pixels of the network's frame, mean IoU."""

    visible: float = Field(alias="digit.accuracy.visible")
    hidden: float = Field(alias="digit.accuracy.hidden")
    centre_error_px_visible: float = Field(alias="target.centre_error_px.visible")
    centre_error_px_hidden: float = Field(alias="target.centre_error_px.hidden")
    iou: float = Field(alias="target.iou")


class Across(_Input):
    """Accuracy at frames relative to the first hidden one; None where no clip reaches."""

    frames: tuple[int, ...]
    accuracy: tuple[float | None, ...]

    @model_validator(mode="after")
    def _one_accuracy_per_frame(self) -> Across:
        if len(self.accuracy) != len(self.frames):
            raise ValueError(f"{len(self.accuracy)} accuracies across {len(self.frames)} frames")
        return self


class DigitHead(_Input):
    """What lies behind the accuracy."""

    across: Across


class Heads(_Input):
    """Details by head."""

    digit: DigitHead


class Evaluated(_Input):
    """One network on so many clips."""

    clips: int
    scores: Scores
    heads: Heads


class Networks(_Input):
    """The network, and the same CNN without memory."""

    checkpoint: Evaluated
    cnn_only: Evaluated = Field(alias="cnn-only")

    @model_validator(mode="after")
    def _same_frames(self) -> Networks:
        if self.checkpoint.heads.digit.across.frames != self.cnn_only.heads.digit.across.frames:
            raise ValueError("the networks are followed across different frames")
        return self


class Evaluation(_Input):
    """Both networks on the same clips."""

    networks: Networks


class Candidate(_Input):
    """A precision that the export compared."""

    name: str
    dialect: str
    precision: str


class Choice(_Input):
    """The graph that an engine gets, and why."""

    name: str
    reason: str


class ShippedGraph(_Input):
    """A graph of the bundle."""

    bytes: int
    scores: Scores


class Proof(_Input):
    """How far a graph strays from torch in the worst and in the median step, relative to each tensor's magnitude."""

    largest: float
    typical: float
    tolerance: float
    typical_tolerance: float


class Proofs(_Input):
    """The rollout that every graph was held against torch over."""

    steps: int
    graphs: dict[str, Proof]


class TensorrtBuild(_Input):
    """A TensorRT graph as built ahead of time."""

    plan_bytes: int
    seconds: float
    version: str


class Export(Timed):
    """What the export chose and measured, the scores on so many test clips; by name of the graph."""

    test_clips: int
    candidates: tuple[Candidate, ...]
    choice: dict[str, Choice]
    graphs: dict[str, ShippedGraph]
    parity: Proofs
    tensorrt: dict[str, TensorrtBuild]

    @model_validator(mode="after")
    def _every_graph_is_described_and_proven(self) -> Export:
        known = {candidate.name for candidate in self.candidates} & set(self.parity.graphs)
        wanted = {"fp32", *self.graphs, *(choice.name for choice in self.choice.values())}
        if missing := sorted((wanted - known) | ({"fp32"} - set(self.graphs))):
            raise ValueError(f"nothing is said of graph {missing[0]!r}")
        return self


class Latency(_Input):
    """One stage in milliseconds; None when no frame was predicted."""

    p50: float | None
    p90: float | None
    p99: float | None
    p99_9: float | None
    max: float | None
    mean: float | None


class Stages(_Input):
    """Where each frame's time went; the first four add up to `age`."""

    wait: Latency
    fit: Latency
    infer: Latency
    decode: Latency
    age: Latency


class StreamSummary(_Input):
    """Counts and latencies of one stream; the histogram holds (upper edge in nanoseconds, frames)."""

    bundle: str
    backend: str
    rate: float | None
    frames_in: int
    predicted: int
    dropped: int
    deadline_ms: float | None
    deadline_misses: int
    longest_miss_burst: int
    latency_ms: Stages
    age_histogram_ns: tuple[tuple[int, int], ...]


class Truth(_Input):
    """What a video frame shows; the box is centre x, centre y, width, height in video pixels."""

    label: str
    box: BoxSides
    visible: bool


class Digit(_Input):
    """The label the network gives, its probability, and the probabilities of all labels."""

    label: str
    score: float
    scores: tuple[float, ...]


class Target(_Input):
    """The box is left, top, width, height in video pixels; presence is the probability of being in sight."""

    box: BoxSides
    presence: float


class Predicted(_Input):
    """What the network said about one video frame."""

    frame: int = Field(ge=0)
    digit: Digit
    target: Target


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder's content; `predictions` by the index of the video frame."""

    folder: Path
    checkpoint: Timed
    cnn_only: Timed
    evaluation: Evaluation
    export: Export
    stream: StreamSummary
    truth: tuple[Truth, ...]
    predictions: dict[int, Predicted]


def read_run(folder: Path) -> Run:
    """Read a run folder; raises ConfigError without a folder, DataError naming the file that is missing or wrong."""
    if not folder.is_dir():
        raise ConfigError(f"no folder {folder}", expected="a run folder", fix="check the path, or run `make demo`")
    run = Run(
        folder,
        checkpoint=_read(folder, CHECKPOINT, Timed),
        cnn_only=_read(folder, CNN_ONLY, Timed),
        evaluation=_read(folder, EVALUATION, Evaluation),
        export=_read(folder, EXPORT, Export),
        stream=_read(folder, STREAM, StreamSummary),
        truth=_read_lines(folder, TRUTH, Truth),
        predictions={found.frame: found for found in _read_lines(folder, PREDICTIONS, Predicted)},
    )
    if len(run.predictions) != run.stream.predicted:
        raise unusable(
            folder, PREDICTIONS, f"{len(run.predictions)} predictions, but {STREAM} counts {run.stream.predicted}"
        )
    if max(run.predictions, default=0) >= len(run.truth):
        raise unusable(folder, PREDICTIONS, f"a prediction for a frame beyond the {len(run.truth)} of {TRUTH}")
    return run


def document(run: Run, *, now: float) -> dict[str, Any]:
    """Return the whole report as plain data; `now` is in Unix seconds."""
    export, memory, no_memory = run.export, run.evaluation.networks.checkpoint, run.evaluation.networks.cnn_only
    scores = {
        "fp32": (memory.scores, memory.clips),
        **{name: (graph.scores, export.test_clips) for name, graph in export.graphs.items() if name != "fp32"},
        "cnn_only": (no_memory.scores, no_memory.clips),
    }
    across = {"fp32": memory.heads.digit.across, "cnn_only": no_memory.heads.digit.across}
    trained = (run.checkpoint, run.cnn_only)
    return {
        "written": datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds"),
        "bundle": run.stream.bundle,
        "accuracy": {
            name: {"visible": row.visible, "hidden": row.hidden, "clips": clips}
            for name, (row, clips) in scores.items()
        },
        "tracking": {
            name: row.model_dump(include={"centre_error_px_visible", "centre_error_px_hidden", "iou"})
            for name, (row, _) in scores.items()
        },
        "across_occlusion": {
            "frames": list(across["fp32"].frames),
            **{name: list(curve.accuracy) for name, curve in across.items()},
            "chance": _chance(run),
        },
        "graphs": {
            row.name: {"dialect": row.dialect, "precision": row.precision, "bytes": export.graphs[row.name].bytes}
            for row in export.candidates
            if row.name in export.graphs
        },
        "choice": {engine: choice.model_dump() for engine, choice in export.choice.items()},
        "parity": export.parity.model_dump(),
        "tensorrt_aot": {name: build.model_dump() for name, build in export.tensorrt.items()},
        "stream": _stream(run),
        "seconds": {
            "train": max(one.ended for one in trained) - min(one.started for one in trained),
            "export": export.seconds,
            "total": now - min(command.started for command in (*trained, export)),
        },
        "versions": versions(*DISTRIBUTIONS),
        "machine": machine(),
    }


def unusable(folder: Path, name: str, why: str) -> DataError:
    """Return the error for a file of a run folder that cannot be used."""
    return DataError(
        f"{folder / name}: {why}", expected=f"what `{WRITTEN_BY[name]}` writes", fix="run that command again"
    )


def scenes(truth: Sequence[Truth]) -> list[range]:
    """Return the video frames of each scene: a digit keeps its label and the size of its box."""
    shown = [(frame.label, frame.box[2:]) for frame in truth]
    cuts = [index for index in range(1, len(shown)) if shown[index] != shown[index - 1]]
    return [range(start, stop) for start, stop in pairwise([0, *cuts, len(shown)])]


def _read(folder: Path, name: str, kind: type[InputT]) -> InputT:
    return _parse(folder, name, kind, _content(folder, name))


def _read_lines(folder: Path, name: str, kind: type[InputT]) -> tuple[InputT, ...]:
    lines = _content(folder, name).splitlines()
    return tuple(_parse(folder, name, kind, line, f"line {number}, ") for number, line in enumerate(lines, 1))


def _content(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise unusable(folder, name, f"cannot be read: {error.strerror}") from error


def _parse(folder: Path, name: str, kind: type[InputT], content: bytes, where: str = "") -> InputT:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise unusable(folder, name, f"{where}{field and f'field {field}: '}{first['msg']}") from error


def _chance(run: Run) -> float | None:
    """Accuracy of guessing among the labels that the network chooses from; None when it predicted nothing."""
    labels = next((len(found.digit.scores) for found in run.predictions.values()), 0)
    return 1 / labels if labels else None


def _stream(run: Run) -> dict[str, Any]:
    stream = run.stream
    stages = stream.latency_ms.model_dump()
    right: dict[bool, list[bool]] = {True: [], False: []}
    for frame, found in run.predictions.items():
        truth = run.truth[frame]
        right[truth.visible].append(found.digit.label == truth.label)
    seen, hidden = right[True], right[False]
    return {
        **stream.model_dump(exclude={"bundle", "latency_ms", "age_histogram_ns"}),
        "scenes": len(scenes(run.truth)),
        "age_ms": stages.pop("age"),
        "stages_ms": stages,
        "accuracy": {
            "visible": fmean(seen) if seen else None,
            "hidden": fmean(hidden) if hidden else None,
            "frames_visible": len(seen),
            "frames_hidden": len(hidden),
        },
    }
