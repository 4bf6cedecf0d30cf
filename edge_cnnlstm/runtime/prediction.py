"""What a stream answers: one immutable record per frame, and one decoder per task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.frame import Placement
from edge_cnnlstm.runtime.latency import Timings
from edge_cnnlstm.spec import HeadSpec, ModelSpec

Arrays = Mapping[str, NDArray[np.generic]]


class Classification(NamedTuple):
    """The most likely label, and its probability.

    `logits` is what the network said of each label; `scores`, the probabilities of all labels, are computed from it
    when somebody asks.
    """

    label: str
    score: float
    logits: tuple[float, ...]

    @property
    def scores(self) -> NDArray[np.float32]:
        """The probabilities of all labels, float32 [labels]; a new array."""
        logits = np.array(self.logits)
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum(), np.float32)


class Box(NamedTuple):
    """A box in pixels of the image that the source saw, before it was fitted: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float

    def placed(self, placement: Placement) -> Box:
        """Return the box in pixels of the network's frame, where the image was placed like that."""
        return Box(
            self.x * placement.scale_x + placement.offset_x,
            self.y * placement.scale_y + placement.offset_y,
            self.width * placement.scale_x,
            self.height * placement.scale_y,
        )


class Track(NamedTuple):
    """Where the target is, hidden or not, and the probability that it is in sight."""

    box: Box
    presence: float


class Regression(NamedTuple):
    """Real values by their names, in the units that the network was trained in."""

    values: Mapping[str, float]


Answer = Classification | Regression | Track


class Prediction(NamedTuple):
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


class NotFiniteError(Exception):
    """An output holds NaN or infinity; the message says which."""


def decoders(spec: ModelSpec, *, finite: bool = True) -> dict[str, Decoder]:
    """Return one decoder per head: raw outputs, the frame's placement and the stream's row in, answer out.

    With `finite` they raise NotFiniteError rather than answer nonsense.
    """
    return {
        head.name: _DECODERS[head.task](head, spec, _check_finite if finite else _check_nothing) for head in spec.heads
    }


Check = Callable[[str, list[float]], None]


def _check_finite(name: str, values: list[float]) -> None:
    # A sum of float32 numbers cannot overflow a float64: it is finite exactly if they are.
    if not math.isfinite(sum(values)):
        raise NotFiniteError(f"output {name!r}")


def _check_nothing(name: str, values: list[float]) -> None:
    pass


def _classify(head: HeadSpec, spec: ModelSpec, check: Check) -> Decoder:
    (logits_name,) = head.outputs
    labels, exp = head.labels, math.exp
    one_logit = spec.output(logits_name).shape[1] == 1

    def decode(outputs: Arrays, _: Placement, row: int) -> Classification:
        said = outputs[logits_name][row].tolist()
        check(logits_name, said)
        if one_logit:
            said = [0.0, *said]  # a sigmoid is the softmax of two logits, of which the first is 0
        highest = max(said)
        score = 1 / sum([exp(logit - highest) for logit in said])
        return Classification(labels[said.index(highest)], score, tuple(said))

    return decode


def _regress(head: HeadSpec, _: ModelSpec, check: Check) -> Decoder:
    (values_name,) = head.outputs

    def decode(outputs: Arrays, _: Placement, row: int) -> Regression:
        values = outputs[values_name][row].tolist()
        check(values_name, values)
        return Regression(dict(zip(head.labels, values, strict=True)))

    return decode


def _track(head: HeadSpec, spec: ModelSpec, check: Check) -> Decoder:
    box_name, presence_name = head.outputs
    frame_width, frame_height = spec.width, spec.height

    def decode(outputs: Arrays, placement: Placement, row: int) -> Track:
        found, (presence,) = outputs[box_name][row].tolist(), outputs[presence_name][row].tolist()
        check(box_name, found)
        check(presence_name, [presence])
        centre_x, centre_y, width, height = found
        scale_x, scale_y = placement.scale_x, placement.scale_y
        box = Box(
            ((centre_x - width / 2) * frame_width - placement.offset_x) / scale_x,
            ((centre_y - height / 2) * frame_height - placement.offset_y) / scale_y,
            width * frame_width / scale_x,
            height * frame_height / scale_y,
        )
        return Track(box, _sigmoid(presence))

    return decode


def _sigmoid(logit: float) -> float:
    """Return 1 / (1 + exp(−logit)) without overflow on either side."""
    power = math.exp(-abs(logit))
    return 1 / (1 + power) if logit >= 0 else power / (1 + power)


_DECODERS: dict[str, Callable[[HeadSpec, ModelSpec, Check], Decoder]] = {
    "classify": _classify,
    "regress": _regress,
    "track": _track,
}
