"""Whether something grows with time: a line through its samples, by least squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, linear_regression

from benchmarks.statistics import CONFIDENCE

FEWEST = 30
"""Samples from which on the normal distribution gives the interval, within 5 %, that Student's gives."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Units a minute, and the interval of that with 95 % confidence.

    It takes samples to stray from the line independently of each other. Resident memory moves in steps, so that it is
    less certain than its interval says.
    """

    per_minute: float
    low: float
    high: float


def slope(seconds: Sequence[float], values: Sequence[float]) -> Slope | None:
    """Return the slope of values over time; None for too few to tell."""
    count = len(values)
    if count < FEWEST:
        return None
    line, middle = linear_regression(seconds, values), math.fsum(seconds) / count
    strayed = sum((value - line.intercept - line.slope * at) ** 2 for at, value in zip(seconds, values, strict=True))
    error = math.sqrt(strayed / (count - 2) / sum((at - middle) ** 2 for at in seconds))
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * error
    return Slope(60 * line.slope, 60 * (line.slope - half), 60 * (line.slope + half))
