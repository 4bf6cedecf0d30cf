"""What tables and pictures read from a report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.goals import Rounds
from benchmarks.peers.ours import OURS

Case = dict[str, Any]


def groups(report: dict[str, Any]) -> list[tuple[int, list[Case]]]:
    """Return the cases of the closed loop by their number of threads."""
    return [
        (threads, [case for case in report["closed"] if case["threads"] == threads])
        for threads in report["plan"]["threads"]
    ]


def timed(case: Case) -> Rounds:
    """Return what a case is compared by: samples at 30 Hz, else a peer's bare call, else the whole step."""
    rounds: Rounds = case.get("paced_ns") or case["bare_ns"] or case["whole_ns"]
    return rounds


def own(cases: Iterable[Case]) -> Case:
    """Return our own case among others."""
    return next(case for case in cases if case["about"]["name"] == OURS)
