"""Read what the other commands left in a run folder, and gather it into one document.

Every input is checked on the way in; fields that this report does not need are ignored.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edge_cnnlstm.errors import ConfigError, DataError

VIDEO = "unseen.mp4"
TRUTH = "unseen.truth.jsonl"
STREAM = "stream.json"
PREDICTIONS = "predictions.jsonl"
EVALUATION = "evaluation.json"
EXPORT = "digits.export.json"
CHECKPOINT = "checkpoint/training.json"
CNN_ONLY = "cnn-only/training.json"

_RUN = f"edge-cnnlstm run digits.edge --source {VIDEO} --rate 30 --predictions {PREDICTIONS} --summary {STREAM}"
WRITTEN_BY = {
    CHECKPOINT: "edge-cnnlstm train --output checkpoint",
    CNN_ONLY: "edge-cnnlstm train --layers 0 --output cnn-only",
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


T = TypeVar("T")
InputT = TypeVar("InputT", bound=_Input)


class Timed(_Input):
    """When a command began, in Unix seconds, and how long it took."""

    started: float
    seconds: float


class Scores(_Input):
    """Accuracy 0..1, centre error in pixels of the network's frame, mean IoU."""

    clips: int
    visible: float
    hidden: float
    centre_error_px_visible: float
    centre_error_px_hidden: float
    iou: float
    across_occlusion: tuple[float | None, ...]


class Networks(_Input):
    """The scores of the network and of the same CNN without memory."""

    checkpoint: Scores
    cnn_only: Scores = Field(alias="cnn-only")


class Evaluation(_Input):
    """`across` are the frames, relative to the first hidden one, of each `across_occlusion`."""

    across: tuple[int, ...]
    scores: Networks

    @model_validator(mode="after")
    def _one_accuracy_per_frame(self) -> Evaluation:
        for scores in (self.scores.checkpoint, self.scores.cnn_only):
            if len(scores.across_occlusion) != len(self.across):
                raise ValueError(f"{len(scores.across_occlusion)} accuracies across {len(self.across)} frames")
        return self


class PerGraph(_Input, Generic[T]):
    """One value per graph of the bundle."""

    fp32: T
    int8_onnxruntime: T
    int8_tensorrt: T


class Parity(_Input):
    """Largest absolute differences from torch over the golden rollout, and what is allowed."""

    max_abs_output: float
    max_abs_state: float
    tolerance: float


class TensorrtBuild(_Input):
    """The TensorRT graph as built ahead of time."""

    plan_bytes: int
    seconds: float
    version: str


class Export(Timed):
    """What the export measured."""

    graph_bytes: PerGraph[int]
    accuracy: PerGraph[Scores]
    parity: PerGraph[Parity]
    tensorrt_aot: TensorrtBuild


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
    export, networks = run.export, run.evaluation.scores
    scores = {
        "fp32": networks.checkpoint,
        "int8": export.accuracy.int8_onnxruntime,
        "int8_tensorrt": export.accuracy.int8_tensorrt,
        "cnn_only": networks.cnn_only,
    }
    timed = (run.checkpoint, run.cnn_only, export)
    return {
        "written": datetime.fromtimestamp(now, timezone.utc).isoformat(timespec="seconds"),
        "bundle": run.stream.bundle,
        "accuracy": {name: row.model_dump(include={"visible", "hidden", "clips"}) for name, row in scores.items()},
        "tracking": {
            name: row.model_dump(include={"centre_error_px_visible", "centre_error_px_hidden", "iou"})
            for name, row in scores.items()
        },
        "across_occlusion": {
            "frames": list(run.evaluation.across),
            "fp32": list(networks.checkpoint.across_occlusion),
            "cnn_only": list(networks.cnn_only.across_occlusion),
            "chance": _chance(run),
        },
        "graph_bytes": export.graph_bytes.model_dump(),
        "parity": export.parity.model_dump(),
        "tensorrt_aot": export.tensorrt_aot.model_dump(),
        "stream": _stream(run),
        "seconds": {
            "train": run.checkpoint.seconds + run.cnn_only.seconds,
            "export": export.seconds,
            "total": now - min(command.started for command in timed),
        },
        "versions": {"python": platform.python_version(), **_installed()},
        "machine": _machine(),
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


def _installed() -> dict[str, str]:
    found = {name: _version(name) for name in DISTRIBUTIONS}
    return {name: number for name, number in found.items() if number is not None}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    """Describe this machine; None where it does not say."""
    return {
        "cpu": _cpu_model(Path("/proc/cpuinfo")),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": platform.platform(),
    }


def _cpu_model(cpuinfo: Path) -> str | None:
    """Return the first model name; None on machines that list none, as many Arm ones do."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
