"""The figures of a GPU: which measurement each is read from, and its goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.device.stand_in import NAME as STAND_IN
from benchmarks.goals import Figure, median
from benchmarks.statistics import percentile
from edge_cnnlstm.runtime.account import SAMPLES

Answers = Sequence[dict[str, Any]]
"""What one measurement answered, round by round; lists of nanoseconds end in "_ns"."""
Rounds = dict[str, Answers]
TAILS = {"p50": 50.0, "p99": 99.0, "p99_9": 99.9}
GOAL_US = 45
"""For `small` in TensorRT on a data-centre GPU, one stream, the frame and the answers on the host."""


@dataclass(frozen=True, slots=True)
class Case:
    """How ours is run: for so many streams, frames `copied` or `mapped`, each step a `graph` or `enqueued`."""

    batch: int
    transfer: str
    launched: str

    @property
    def name(self) -> str:
        """The measurement's name in every result."""
        return f"batch {self.batch}, {self.transfer}, {self.launched}"


def figures(rounds: Rounds, engine: str, transfer: str, peers: Sequence[str]) -> list[Figure]:
    """Return every figure that the measurements at hand allow, ratios first.

    `transfer` is what the runtime chooses on this GPU. What stands in for an engine is compared with nobody, and held
    against no goal of TensorRT's; its figures are named so.
    """
    ours = Case(1, transfer, "graph").name
    if ours not in rounds:
        return []
    real = engine != STAND_IN
    found = _against(rounds, ours, peers) if real else []
    found += _launching(rounds, transfer) + _steadiness(rounds[ours]) + _others(rounds, transfer)
    found += _times(rounds[ours], GOAL_US if real else None)
    if real:
        return found
    return [Figure(f"{STAND_IN}: {f.name}", f.value, f.samples, f.low, f.high, f.goal, f.at_most) for f in found]


def summary(answers: Answers) -> dict[str, dict[str, Any]]:
    """Return the percentiles of every list over all rounds, in µs, and whether it is long enough for each."""
    return {
        name: {
            **{f"{tail}_us": percentile(_all(answers, name), at) / 1e3 for tail, at in TAILS.items()},
            "rounds_p50_us": [percentile(answer[name], 50) / 1e3 for answer in answers],
            "samples": len(_all(answers, name)),
            "enough_for": [tail for tail, least in SAMPLES.items() if len(_all(answers, name)) >= least],
        }
        for name in answers[0]
        if name.endswith("_ns")
    }


def _against(rounds: Rounds, ours: str, peers: Sequence[str]) -> list[Figure]:
    return [_ratio(f"{peer} ÷ ours, host to host, p50", rounds[peer], rounds[ours]) for peer in peers if peer in rounds]


def _launching(rounds: Rounds, transfer: str) -> list[Figure]:
    replayed = rounds[Case(1, transfer, "graph").name]
    found = [_within("step ÷ bare loop over the same graph, p50", replayed, "step_ns", "bare_ns", 1.05)]
    if enqueued := rounds.get(Case(1, transfer, "enqueued").name):
        name = "enqueueing ÷ replaying a graph, until the call returns, p50"
        found.insert(0, _ratio(name, enqueued, replayed, "launch_ns", goal=2))
        found.append(_ratio("enqueued ÷ replayed, host to host, p50", enqueued, replayed))
    return found


def _steadiness(answers: Answers) -> list[Figure]:
    times = _all(answers, "gpu_ns")
    return [
        Figure(
            f"GPU time of a step, {tail.replace('_', '.')} ÷ p50",
            percentile(times, TAILS[tail]) / percentile(times, 50),
            len(times),
            goal=goal,
            at_most=True,
        )
        for tail, goal in (("p99", 1.02), ("p99_9", 1.05))
        if len(times) >= SAMPLES[tail]
    ]


def _others(rounds: Rounds, transfer: str) -> list[Figure]:
    one = rounds[Case(1, transfer, "graph").name]
    ours = [answer for name, answers in rounds.items() if name.startswith("batch ") for answer in answers]
    copied = [answer["bytes_of_memory_copied"] for answer in ours]
    found = [Figure("bytes of memory that a step copies, at most", max(copied), len(copied), goal=0, at_most=True)]
    other = {"copied": "mapped", "mapped": "copied"}[transfer]
    if answers := rounds.get(Case(1, other, "graph").name):
        found.append(_ratio(f"{other} ÷ {transfer}, host to host, p50", answers, one))
    for batch in (2, 4, 8, 16, 32):
        if answers := rounds.get(Case(batch, transfer, "graph").name):
            more = [batch * _p50(single) / _p50(many) for single, many in zip(one, answers, strict=True)]
            frames = len(_all(answers, "step_ns"))
            found.append(median(f"frames a second, {batch} streams ÷ one", more, frames))
    return found


def _times(answers: Answers, goal: float | None) -> list[Figure]:
    series = {"host to host": "step_ns", "on the GPU": "gpu_ns", "until the launch returns": "launch_ns"}
    found = []
    for what, name in series.items():
        values = [percentile(answer[name], 50) / 1e3 for answer in answers]
        limit = goal if name == "step_ns" else None
        found.append(median(f"{what}, p50, µs", values, len(_all(answers, name)), limit))
    steps = _all(answers, "step_ns")
    for tail, least in SAMPLES.items():
        if len(steps) >= least:
            name = f"host to host, {tail.replace('_', '.')}, µs"
            found.append(Figure(name, percentile(steps, TAILS[tail]) / 1e3, len(steps)))
    return found


def _ratio(name: str, over: Answers, under: Answers, series: str = "step_ns", goal: float | None = None) -> Figure:
    ratios = [_p50(upper, series) / _p50(lower, series) for upper, lower in zip(over, under, strict=True)]
    return median(name, ratios, min(len(_all(over, series)), len(_all(under, series))), goal, at_most=False)


def _within(name: str, answers: Answers, over: str, under: str, goal: float) -> Figure:
    ratios = [_p50(answer, over) / _p50(answer, under) for answer in answers]
    return median(name, ratios, len(_all(answers, over)), goal)


def _p50(answer: dict[str, Any], series: str = "step_ns") -> int:
    return percentile(answer[series], 50)


def _all(answers: Answers, series: str) -> list[int]:
    return [sample for answer in answers for sample in answer[series]]
