"""What a stream answers: one immutable record per frame, and one decoder per task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.frame import Placement
from edge_cnnlstm.runtime.latency import Timings
from edge_cnnlstm.spec import HeadSpec, ModelSpec

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Classification:
    """The most likely label, and its probability.

    `logits`, float32 [labels], is what the network said; `scores`, the probabilities of all labels, are computed from
    it when somebody asks.
    """

    label: str
    score: float
    logits: NDArray[np.float32] = field(compare=False, repr=False)

    @property
    def scores(self) -> NDArray[np.float32]:
        """The probabilities of all labels, float32 [labels]; a new array."""
        powers = np.exp(self.logits.astype(np.float64) - self.logits.max())
        return np.asarray(powers / powers.sum(), np.float32)


@dataclass(frozen=True, slots=True)
class Box:
    """A box in pixels of the image that the source saw, before it was fitted: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Track:
    """Where the target is, hidden or not, and the probability that it is in sight."""

    box: Box
    presence: float


@dataclass(frozen=True, slots=True)
class Regression:
    """Real values by their names, in the units that the network was trained in."""

    values: Mapping[str, float]


Answer = Classification | Regression | Track


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network said about one frame; everything in it is the caller's.

    `first_after_reset` is true when the network remembered nothing before this frame, and `reset_reason` says why:
    "start", "requested", or the rule that emptied the memory. `answers` maps each head's name to its answer; `label`,
    `scores`, `values` and `box` are the first head's that has one.
    """

    frame_index: int
    captured_ns: int
    first_after_reset: bool
    answers: Mapping[str, Answer]
    timings: Timings
    reset_reason: str | None = None

    @property
    def classification(self) -> Classification:
        """The first classification; raises ConfigError when no head classifies."""
        for answer in self.answers.values():
            if isinstance(answer, Classification):
                return answer
        raise self._without("classify")

    @property
    def regression(self) -> Regression:
        """The first regression; raises ConfigError when no head regresses."""
        for answer in self.answers.values():
            if isinstance(answer, Regression):
                return answer
        raise self._without("regress")

    @property
    def track(self) -> Track:
        """The first track; raises ConfigError when no head tracks."""
        for answer in self.answers.values():
            if isinstance(answer, Track):
                return answer
        raise self._without("track")

    @property
    def label(self) -> str:
        return self.classification.label

    @property
    def scores(self) -> NDArray[np.float32]:
        return self.classification.scores

    @property
    def values(self) -> Mapping[str, float]:
        return self.regression.values

    @property
    def box(self) -> Box:
        return self.track.box

    def _without(self, task: str) -> ConfigError:
        return ConfigError(
            f"a model with heads {list(self.answers)}",
            expected=f"a head with the task {task!r}",
            fix="read `answers`, or export a model with such a head",
        )


Decoder = Callable[[Arrays, Placement, int], Answer]


def decoders(spec: ModelSpec) -> dict[str, Decoder]:
    """Return one decoder per head: raw outputs, the frame's placement and the stream's row in, answer out."""
    return {head.name: _DECODERS[head.task](head, spec) for head in spec.heads}


def _classify(head: HeadSpec, spec: ModelSpec) -> Decoder:
    (logits_name,) = head.outputs
    labels = head.labels
    one_logit = spec.output(logits_name).shape[1] == 1

    def decode(outputs: Arrays, _: Placement, row: int) -> Classification:
        logits = outputs[logits_name][row].astype(np.float32)
        if one_logit:
            # A sigmoid is the softmax of two logits, of which the first is 0.
            logits = np.array([0, logits[0]], np.float32)
        said = logits.tolist()
        highest = max(said)
        score = 1 / sum(math.exp(logit - highest) for logit in said)
        return Classification(labels[said.index(highest)], score, logits)

    return decode


def _regress(head: HeadSpec, _: ModelSpec) -> Decoder:
    (values_name,) = head.outputs

    def decode(outputs: Arrays, _: Placement, row: int) -> Regression:
        return Regression(dict(zip(head.labels, outputs[values_name][row].tolist(), strict=True)))

    return decode


def _track(head: HeadSpec, spec: ModelSpec) -> Decoder:
    box_name, presence_name = head.outputs

    def decode(outputs: Arrays, placement: Placement, row: int) -> Track:
        centre_x, centre_y, width, height = outputs[box_name][row].tolist()
        box = Box(
            x=((centre_x - width / 2) * spec.width - placement.offset_x) / placement.scale_x,
            y=((centre_y - height / 2) * spec.height - placement.offset_y) / placement.scale_y,
            width=width * spec.width / placement.scale_x,
            height=height * spec.height / placement.scale_y,
        )
        return Track(box, presence=_sigmoid(float(outputs[presence_name][row, 0])))

    return decode


def _sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(−logit)) without overflow on either side."""
    power = math.exp(-abs(logit))
    return 1 / (1 + power) if logit >= 0 else power / (1 + power)


_DECODERS: dict[str, Callable[[HeadSpec, ModelSpec], Decoder]] = {
    "classify": _classify,
    "regress": _regress,
    "track": _track,
}
