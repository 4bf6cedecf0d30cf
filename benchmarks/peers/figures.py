"""What was measured of each case, and the figures that come of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.goals import Figure, Rounds, median, ratio
from benchmarks.peers.accuracy import MAY_LOSE, Accuracy
from benchmarks.peers.ours import AGAIN, OURS, UNTUNED, WINDOW
from benchmarks.statistics import SAMPLES_FOR, percentile

MOST_OF_BARE_CALL, MOST_AT_30_HZ, MOST_TAIL, MOST_OF_CALMEST, LEAST_OF_WINDOW = 1.05, 0.35, 1.2, 1.0, 13.0
CANDIDATES = {("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "int8"), ("executorch", "int8")}
"""Families and precisions among which the best peer is looked for."""


@dataclass(frozen=True, slots=True)
class About:
    """Who a case is. `family` is None for our own; `settings` is a line for the reader."""

    name: str
    family: str | None
    precision: str
    settings: str

    @property
    def may_be_best(self) -> bool:
        """Whether it is one of those that ours is held against; a precision may say more than int8."""
        return any(self.family == family and self.precision.startswith(kind) for family, kind in CANDIDATES)


@dataclass(frozen=True, slots=True)
class Closed:
    """A case back to back: nanoseconds of its whole answers and, of a peer, of its bare calls, round by round.

    `deviation` is the largest difference of an output from FP32 over the golden rollout, relative to that output's
    largest value; None when it is not finite.
    """

    about: About
    threads: int
    whole_ns: Rounds
    bare_ns: Rounds | None
    accuracy: Accuracy
    deviation: float | None
    waiting_cpu_s: Sequence[float]

    @property
    def timed_ns(self) -> Rounds:
        """What the case is compared by: a peer's bare call, and of ours everything."""
        return self.whole_ns if self.bare_ns is None else self.bare_ns


@dataclass(frozen=True, slots=True)
class Paced:
    """A case at 30 Hz: nanoseconds from when a frame was due to its answer, and the share of a core, round by round."""

    about: About
    paced_ns: Rounds
    core_share: Sequence[float]
    accuracy: Accuracy
    deviation: float | None
    waiting_cpu_s: Sequence[float]

    @property
    def timed_ns(self) -> Rounds:
        """What the case is compared by."""
        return self.paced_ns


def closed_figures(cases: Sequence[Closed], threads: int) -> list[Figure]:
    """Return the figures of the closed loop with so many cores a step."""
    mine = {case.about.name: case for case in cases if case.threads == threads}
    ours, with_threads = mine[OURS], counted(threads)
    peers = [case for case in mine.values() if case.about.family is not None and case.accuracy.equal]
    found = [_lost(ours, with_threads)]
    candidates = [case for case in peers if case.about.may_be_best]
    if candidates:
        best = min(candidates, key=_p50)
        name = f"ours ÷ best peer's bare call ({best.about.name}), p50, {with_threads}"
        found.append(ratio(name, ours.whole_ns, best.timed_ns, goal=MOST_OF_BARE_CALL, at_most=True))
    found += _tails(ours, peers, with_threads)
    window, again = f"{WINDOW} ÷ ours, p50, {with_threads}", f"{AGAIN} ÷ ours, p50, {with_threads}"
    found.append(ratio(window, mine[WINDOW].whole_ns, ours.whole_ns, goal=LEAST_OF_WINDOW))
    found.append(ratio(again, mine[AGAIN].whole_ns, ours.whole_ns))
    for peer in peers:
        name = f"ours ÷ {peer.about.name}"
        found += [
            ratio(f"{name}, bare call, p50, {with_threads}", ours.whole_ns, peer.timed_ns),
            ratio(f"{name}, whole answer, p50, {with_threads}", ours.whole_ns, peer.whole_ns),
        ]
    return found


def paced_figures(cases: Sequence[Paced]) -> list[Figure]:
    """Return the figures of the paced loop, none if there was none."""
    if not cases:
        return []
    mine = {case.about.name: case for case in cases}
    ours = mine[OURS]
    peers = [case for case in cases if case.about.family is not None and case.accuracy.equal]
    found = []
    candidates = [case for case in peers if case.about.may_be_best]
    if candidates:
        best = min(candidates, key=_p50)
        name = f"ours paced ÷ best peer as commonly used ({best.about.name}), p50"
        found.append(ratio(name, ours.paced_ns, best.paced_ns, goal=MOST_AT_30_HZ, at_most=True))
    found += [ratio(f"{name} ÷ ours, paced, p50", mine[name].paced_ns, ours.paced_ns) for name in (AGAIN, UNTUNED)]
    found += [ratio(f"ours ÷ {peer.about.name}, paced, p50", ours.paced_ns, peer.paced_ns) for peer in peers]
    return found + [_share(case) for case in (ours, mine[UNTUNED], *peers)]


def counted(threads: int) -> str:
    """Return a number of threads as words."""
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _p50(case: Closed | Paced) -> int:
    return percentile(_all(case.timed_ns), 50)


def _all(rounds: Rounds) -> list[int]:
    return [sample for turn in rounds for sample in turn]


def _lost(ours: Closed, with_threads: str) -> Figure:
    """Hold our own accuracy against FP32's by the rule that decides who is a peer."""
    accuracy = ours.accuracy
    if accuracy.lost is None:
        name = f"ours: frames with FP32's label, %, {with_threads}"
        return Figure(name, 100 * accuracy.agreement, accuracy.frames, goal=100 * (1 - MAY_LOSE))
    name = f"ours: accuracy lost to FP32, points, {with_threads}"
    return Figure(name, 100 * accuracy.lost, accuracy.frames, goal=100 * MAY_LOSE, at_most=True)


def _tails(ours: Closed, peers: Iterable[Closed], with_threads: str) -> list[Figure]:
    """Return p99 over p50 of all rounds, ours and beside the peer that has the least; nothing without enough samples.

    A round alone has too few for a p99, so that there is no value a round, and no interval.
    """
    samples = len(_all(ours.timed_ns))
    if samples < SAMPLES_FOR["p99"]:
        return []
    own = _tail(ours)
    found = [Figure(f"ours p99 ÷ p50, {with_threads}", own, samples, goal=MOST_TAIL, at_most=True)]
    tails = {peer.about.name: _tail(peer) for peer in peers}
    if tails:
        least = min(tails, key=tails.__getitem__)
        name = f"ours p99 ÷ p50, over the least of any peer ({least}), {with_threads}"
        found.append(Figure(name, own / tails[least], samples, goal=MOST_OF_CALMEST, at_most=True))
    return found


def _tail(case: Closed) -> float:
    samples = _all(case.timed_ns)
    return percentile(samples, 99) / percentile(samples, 50)


def _share(case: Paced) -> Figure:
    name = f"share of a core at 30 Hz, {case.about.name}, %"
    return median(name, [100 * share for share in case.core_share], len(_all(case.paced_ns)))
