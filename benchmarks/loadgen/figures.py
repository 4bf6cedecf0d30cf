"""The figures of a run: which of LoadGen's findings each is read from, and its goal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.goals import Figure
from benchmarks.loadgen.scenario import BOUND_NS

Answers = Mapping[str, dict[str, Any]]
"""What `run` answered, by scenario."""


def figures(answers: Answers, tolerance: float) -> list[Figure]:
    """Return every figure that the scenarios at hand allow; `tolerance` is the graph's, for answers in a batch."""
    found = [
        Figure(f"{name} VALID, 1 = yes", answer["summary"]["valid"], samples(answer), goal=1)
        for name, answer in answers.items()
    ]
    for name, answer in answers.items():
        found += _metrics(name, answer)
    return found + [_correct(name, answer, tolerance) for name, answer in answers.items()]


def samples(answer: Mapping[str, Any]) -> int:
    """Return how many samples a scenario's metric comes from: queries, but in Offline, which has one."""
    counted = answer["queries"]
    return int(answer["summary"]["parameters"]["samples_per_query"]) if counted == 1 else counted


def _metrics(name: str, answer: Mapping[str, Any]) -> list[Figure]:
    said, count = answer["summary"], samples(answer)
    estimates = [
        Figure(f"{name} {tail}, early-stopping estimate, ms", ns / 1e6, count)
        for tail, ns in said["estimates_ns"].items()
    ]
    if name == "Server":
        p99 = said["percentiles_ns"]["p99"] / 1e6
        estimates += [Figure("Server p99 from the scheduled time, ms", p99, count, goal=BOUND_NS / 1e6, at_most=True)]
    if name in ("Server", "Offline"):
        estimates += [Figure(f"{name}, samples a second", said["result"], count)]
    return estimates


def _correct(name: str, answer: Mapping[str, Any], tolerance: float) -> Figure:
    """One stream must answer bit for bit; a batched product may add up in another order."""
    checked, goal = answer["accuracy"], 0.0 if answer["streams"] == 1 else tolerance
    title = f"{name}, largest difference from Stream.step"
    return Figure(title, checked["largest_difference"], checked["answers"], goal=goal, at_most=True)
