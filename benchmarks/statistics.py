"""What samples say, and how far they can be trusted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from edge_cnnlstm.runtime.account import SAMPLES

SAMPLES_FOR = SAMPLES
"""Samples behind a percentile that can be depended on: MLPerf's early stopping, with ten above it allowed."""
PERCENTS = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99_9": 99.9}
CONFIDENCE = 0.95


def percentile(samples: Iterable[int], percent: float) -> int:
    """Return the smallest sample that `percent` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[max(1, math.ceil(len(ordered) * percent / 100)) - 1]


def dependable(samples: Sequence[int], tail: str) -> bool:
    """Say whether there are samples enough for a percentile, such as "p99_9"."""
    return len(samples) >= SAMPLES_FOR.get(tail, 1)


def interval(rounds: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of the median; None for fewer than six rounds, which have none.

    It is the distribution-free one: how often the median lies outside the k-th smallest and the k-th largest of n
    rounds is binomial. Seven rounds give their whole range, at 98.4 %.
    Source: Hahn and Meeker, Statistical Intervals, on order statistics.
    """
    count, outside, trimmed = len(rounds), 0.0, -1
    for k in range(count // 2):
        outside += 2 * math.comb(count, k) / 2**count
        if outside > 1 - CONFIDENCE:
            break
        trimmed = k
    if trimmed < 0:
        return None
    ordered = sorted(rounds)
    return ordered[trimmed], ordered[count - 1 - trimmed]
