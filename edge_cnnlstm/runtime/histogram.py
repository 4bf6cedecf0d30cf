"""Counts of times in constant memory, and the percentiles that a report shows of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SUB_BITS = 7
RELATIVE_ERROR = 2.0**-SUB_BITS
"""Percentiles are at most this share above the true value: 0.8 %."""
PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Histogram:
    """Counts of nanosecond values in buckets whose width grows with the value; constant memory.

    Each power of two is cut into 128 buckets, as in an HDR histogram: percentiles carry a relative error of at
    most `RELATIVE_ERROR`, the maximum is exact.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((65 - SUB_BITS) << SUB_BITS, np.int64)
        self.count = 0
        self.maximum = 0
        self.total = 0

    def record(self, *values: int) -> None:
        """Count values of any size; a negative one counts as 0."""
        for value in values:
            self._add(max(value, 0), _bucket(max(value, 0)))

    def record_all(self, values: NDArray[np.int64]) -> None:
        """Count many values at once, as `record` does."""
        if values.size:
            values = np.maximum(values, 0)
            shifts = np.maximum(np.frexp(values.astype(np.float64))[1] - SUB_BITS - 1, 0)
            np.add.at(self._counts, (shifts << SUB_BITS) + (values >> shifts), 1)
            self.count += values.size
            # In two halves: thirty ages of ten years, by a clock that is wrong, would overflow.
            self.total += (int((values >> 32).sum()) << 32) + int((values & 0xFFFFFFFF).sum())
            self.maximum = max(self.maximum, int(values.max()))

    def percentile(self, percent: float) -> float:
        """Return the smallest bucket edge that `percent` of the values do not exceed; nan when there are none."""
        if not self.count:
            return math.nan
        rank = max(1, math.ceil(self.count * percent / 100))
        bucket = int(np.searchsorted(np.cumsum(self._counts), rank))
        return float(min(_upper_edge(bucket), self.maximum))

    def buckets(self) -> list[tuple[int, int]]:
        """Return (upper edge in nanoseconds, count) of every bucket that is not empty."""
        return [(_upper_edge(int(bucket)), int(self._counts[bucket])) for bucket in np.flatnonzero(self._counts)]

    def _add(self, value: int, bucket: int) -> None:
        self._counts[bucket] += 1
        self.count += 1
        self.total += value
        self.maximum = max(self.maximum, value)


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


def summarise(histogram: Histogram) -> Summary:
    """Return a histogram of nanoseconds in milliseconds."""
    if not histogram.count:
        return Summary()
    p50, p90, p99, p99_9 = (histogram.percentile(percent) / 1e6 for percent in PERCENTILES)
    return Summary(p50, p90, p99, p99_9, histogram.maximum / 1e6, histogram.total / histogram.count / 1e6)
