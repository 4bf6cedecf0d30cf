"""How well a network does on clips that it never learnt from: scores, what lies behind them, and its worst clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import UNKNOWN, Clip, ClipSet
from edge_cnnlstm.training.metrics import Meters
from edge_cnnlstm.training.metrics.answered import Answered, hidden_for
from edge_cnnlstm.training.metrics.details import answers, details
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.tasks import due, truth_names

SHOWN = 10
"""Frames in the film strip of a clip."""
SOON = 3
"""The condition `hidden_3`: hidden, for at most this many frames so far."""
TOGETHER = 256
"""Clips that are scored at a time."""

Arrays = Mapping[str, NDArray[np.generic]]
Outputs = Mapping[str, NDArray[np.float32]]
"""What a network says of the frames of one clip, by the names of its outputs in the graph, [time, …] each."""
Answer = Callable[[NDArray[np.uint8]], Outputs]
"""Frames of one clip, uint8 [time, height, width, 3], to the network's outputs. It starts from an empty memory each
time."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`scores` by name, as `metrics.Meters` computes them, also for each of the `conditions` alone.

    `heads`, by name, are tables and curves as plain data. `film` holds the clips that went worst, by their index:
    their name, which frames to show, and each head's truth and answer there.
    """

    clips: int
    frames: int
    conditions: tuple[str, ...]
    scores: dict[str, float]
    heads: dict[str, dict[str, Any]]
    film: dict[str, dict[str, Any]]

    def document(self) -> dict[str, Any]:
        """Return everything as JSON data."""
        return asdict(self)


def torch_answer(model: CnnLstm) -> Answer:
    """Return the trained network as something that `evaluate` can ask."""

    @torch.inference_mode()
    def answer(frames: NDArray[np.uint8]) -> Outputs:
        empty = model.initial_state()
        outputs, _ = model.sequence(torch.from_numpy(frames)[None].to(empty.h.device), empty)
        return {name: values[0].float().cpu().numpy() for name, values in outputs.items()}

    return answer


def evaluate(
    answer: Answer,
    clips: ClipSet | Sequence[Clip],
    heads: tuple[HeadConfig, ...],
    *,
    limit: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Score what `answer` says of every clip, or of the first `limit`.

    Raises DataError when there is no clip, when the clips do not tell what these heads are asked, when nothing is
    known about any of them, or when the network answers NaN or infinity.
    """
    answered = [compared(answer(clip.frames), clip, heads) for clip in asked(clips, heads, limit, progress=progress)]
    count, conditions = len(answered), _conditions(answered)
    scores = scores_of(answered, heads)
    found = {head.name: details(head, answered) for head in heads}
    worst = sorted({row["clip"] for head in found.values() for row in head["worst"]})
    return Evaluation(
        clips=count,
        frames=sum(clip.time for clip in answered),
        conditions=conditions,
        scores=scores,
        heads=found,
        film={str(index): _film(answered[index], heads) for index in worst},
    )


def asked(
    clips: ClipSet | Sequence[Clip], heads: tuple[HeadConfig, ...], limit: int | None, *, progress: bool
) -> Iterator[Clip]:
    """Yield every clip, or the first `limit`; raises DataError when there is none, or they do not tell of the heads."""
    count = len(clips) if limit is None else min(limit, len(clips))
    if count < 1:
        raise DataError("no clip to score", expected="one or more", fix="choose another split, or add clips")
    if not isinstance(clips, Sequence):
        _check_heads(heads, clips.heads)
    indices = track(
        range(count), "Scoring", console=Console(stderr=True), transient=True, disable=not progress, total=count
    )
    for index in indices:
        yield clips[index] if isinstance(clips, Sequence) else clips.clip(index)


def _check_heads(asked: tuple[HeadConfig, ...], told: tuple[HeadConfig, ...]) -> None:
    known = {head.name: head for head in told}
    for head in asked:
        clips = known.get(head.name)
        if clips is None or (clips.task, clips.labels) != (head.task, head.labels):
            raise DataError(
                f"the network answers {_described(head)}; the clips tell {', '.join(map(_described, told))}",
                expected="clips that tell what the network was trained to answer, with the same labels in one order",
                fix="evaluate on the data that it was trained on, or train on this",
            )


def _described(head: HeadConfig) -> str:
    labels = [*head.labels[:3], "…"] if len(head.labels) > 4 else head.labels
    return f"{head.name!r} ({head.task}{': ' if labels else ''}{', '.join(labels)})"


def compared(outputs: Outputs, clip: Clip, heads: tuple[HeadConfig, ...]) -> Answered:
    """Return a clip with what the network said of each of its frames; raises DataError as `evaluate` does."""
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise DataError(
                f"output {name!r} holds NaN or infinity on clip {clip.name!r}",
                expected="finite numbers",
                fix="the weights are bad: train again with a lower learning rate",
            )
    for head in heads:
        for name in truth_names(head):
            if name not in clip.truth:
                raise DataError(
                    f"clip {clip.name!r} says nothing of {name!r}",
                    expected=f"truth for the head {head.name!r}",
                    fix="evaluate on clips with the labels that the network was trained on",
                )
    counted = due(heads, {name: torch.from_numpy(values)[None] for name, values in clip.truth.items()})
    hidden = clip.conditions.get("hidden")
    soon = {} if hidden is None else {f"hidden_{SOON}": hidden & (hidden_for(hidden) <= SOON)}
    return Answered(
        name=clip.name,
        height=clip.frames.shape[1],
        width=clip.frames.shape[2],
        outputs=outputs,
        truth=clip.truth,
        asked={name: values[0].numpy() for name, values in counted.items()},
        conditions={**clip.conditions, **soon},
    )


def scores_of(clips: Sequence[Answered], heads: tuple[HeadConfig, ...]) -> dict[str, float]:
    """Return the scores by name; raises DataError when nothing is known about any of these clips."""
    conditions = _conditions(clips)
    meters = Meters(heads, clips[0].height, clips[0].width)
    for start in range(0, len(clips), TOGETHER):
        some = clips[start : start + TOGETHER]
        nowhere = [{name: np.zeros(clip.time, np.bool_) for name in conditions} for clip in some]
        meters.update(
            _stacked([clip.outputs for clip in some]),
            _stacked([clip.truth for clip in some]),
            _stacked([{**empty, **clip.conditions} for empty, clip in zip(nowhere, some, strict=True)]),
        )
    scores = meters.compute()
    if not scores:
        raise DataError(
            f"nothing is known about {len(clips)} clips", expected="truth to compare with", fix="choose another split"
        )
    return scores


def _conditions(clips: Sequence[Answered]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for clip in clips for name in clip.conditions))


def _stacked(clips: Sequence[Arrays]) -> dict[str, torch.Tensor]:
    """Stack arrays, [time, …] each, by name; about the frames that a shorter clip lacks, nothing is known."""
    return {name: torch.from_numpy(_padded([clip[name] for clip in clips])) for name in clips[0]}


def _padded(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    first, time = arrays[0], max(len(array) for array in arrays)
    missing = {"f": np.nan, "i": UNKNOWN, "b": False}[first.dtype.kind]
    padded = np.full((len(arrays), time, *first.shape[1:]), missing, first.dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def _film(clip: Answered, heads: tuple[HeadConfig, ...]) -> dict[str, Any]:
    frames = np.unique(np.linspace(0, clip.time - 1, SHOWN).round().astype(int)).tolist()
    return {
        "name": clip.name,
        "frames": frames,
        "conditions": {name: values[frames].tolist() for name, values in clip.conditions.items()},
        "heads": {head.name: answers(head, clip, frames) for head in heads},
    }
