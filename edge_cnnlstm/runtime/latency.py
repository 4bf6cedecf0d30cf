"""Honest time: where each millisecond between the shutter and the decision went.

All times are monotonic nanoseconds. A frame's age counts from its capture, or from the instant at which it was
scheduled when a recording is replayed at a rate: a stall then ages every frame that it delayed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SUB_BITS = 7
RELATIVE_ERROR = 2.0**-SUB_BITS
"""Percentiles are at most this share above the true value: 0.8 %."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Timings(NamedTuple):
    """Where one frame's time went, in nanoseconds.

    `wait` is everything before the step that is not fitting: decoding the video, and queueing. `fit` is the
    resize, `infer` the engine, `decode` the raw outputs' way to an answer. They add up to `age`, the time from
    capture to decision.
    """

    wait: int
    fit: int
    infer: int
    decode: int
    age: int


class Histogram:
    """Counts of nanosecond values in buckets whose width grows with the value; constant memory.

    Each power of two is cut into 128 buckets, as in an HDR histogram: percentiles carry a relative error of at
    most `RELATIVE_ERROR`, the maximum is exact.
    """

    def __init__(self) -> None:
        # A list, because incrementing one of its items is three times faster than an array's.
        self._counts = [0] * ((65 - SUB_BITS) << SUB_BITS)
        self.count = 0
        self.maximum = 0
        self.total = 0

    def record(self, value: int) -> None:
        """Count one value; a negative one counts as 0."""
        value = max(value, 0)
        self._counts[_bucket(value)] += 1
        self.count += 1
        self.total += value
        self.maximum = max(self.maximum, value)

    def percentile(self, percent: float) -> float:
        """Return the smallest bucket edge that `percent` of the values do not exceed; nan when there are none."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(self.count * percent / 100))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        return float(min(_upper_edge(bucket), self.maximum))

    def buckets(self) -> list[tuple[int, int]]:
        """Return (upper edge in nanoseconds, count) of every bucket that is not empty."""
        return [(_upper_edge(bucket), count) for bucket, count in enumerate(self._counts) if count]


def _bucket(value: int) -> int:
    shift = max(0, value.bit_length() - SUB_BITS - 1)
    return (shift << SUB_BITS) + (value >> shift)


def _upper_edge(bucket: int) -> int:
    shift = max(0, (bucket >> SUB_BITS) - 1)
    return ((bucket - (shift << SUB_BITS) + 1) << shift) - 1


@dataclass(frozen=True, slots=True)
class Summary:
    """One stage in milliseconds; None where nothing was recorded."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    max: float | None = None
    mean: float | None = None


class LatencyRecorder:
    """Collects the timings of a stream, and counts the frames that came too late.

    `deadline_ns` is the age by which a prediction must be there; None counts no misses.
    """

    RECENT = 512

    def __init__(self, deadline_ns: int | None = None) -> None:
        self.deadline_ns = deadline_ns
        self.stages = {name: Histogram() for name in Timings._fields}
        self.deadline_misses = 0
        self.longest_miss_burst = 0
        self.recent_ages: deque[int] = deque(maxlen=self.RECENT)
        self._burst = 0

    def record(self, timings: Timings) -> None:
        """Add one frame's timings."""
        for name, value in zip(Timings._fields, timings, strict=True):
            self.stages[name].record(value)
        self.recent_ages.append(timings.age)
        missed = self.deadline_ns is not None and timings.age > self.deadline_ns
        self._burst = self._burst + 1 if missed else 0
        self.deadline_misses += missed
        self.longest_miss_burst = max(self.longest_miss_burst, self._burst)

    def summary(self) -> dict[str, Summary]:
        """Return each stage's percentiles in milliseconds."""
        return {name: _summarise(histogram) for name, histogram in self.stages.items()}


def _summarise(histogram: Histogram) -> Summary:
    if not histogram.count:
        return Summary()
    p50, p90, p99, p99_9 = (histogram.percentile(percent) / 1e6 for percent in PERCENTILES)
    return Summary(p50, p90, p99, p99_9, histogram.maximum / 1e6, histogram.total / histogram.count / 1e6)
