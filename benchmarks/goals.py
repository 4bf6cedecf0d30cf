"""A figure, its interval, and the goal that it is held against."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.statistics import interval, percentile

Rounds = Sequence[Sequence[int]]
"""Samples, turn by turn."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What was measured: `value` from so many `samples`, within an interval of `low` to `high` where there is one.

    `goal` is the least that `value` should be, or the most with `at_most`; None for a figure that is only reported.
    """

    name: str
    value: float
    samples: int
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without a goal."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    def document(self) -> dict[str, Any]:
        """Return the figure as JSON data."""
        return asdict(self) | {"met": self.met}


def median(
    name: str, values: Sequence[float], samples: int, goal: float | None = None, *, at_most: bool = True
) -> Figure:
    """Return the figure of one value a round: the median round, and its 95 % interval where the rounds suffice."""
    low, high = interval(values) or (None, None)
    return Figure(name, statistics.median(values), samples, low, high, goal, at_most)


def ratio(
    name: str, over: Rounds, under: Rounds, percent: float = 50, goal: float | None = None, *, at_most: bool = False
) -> Figure:
    """Divide two cases' percentiles within each round: one slow moment of the machine then spoils one round only.

    `samples` are those of the side that has fewer, over all rounds.
    """
    pairs = zip(over, under, strict=True)
    rounds = [percentile(upper, percent) / percentile(lower, percent) for upper, lower in pairs]
    samples = min(sum(map(len, side)) for side in (over, under))
    return median(name, rounds, samples, goal, at_most=at_most)
