"""Histograms of ages, from the buckets that a stream counted."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.runtime.histogram import SUB_BITS

Histogram = Sequence[tuple[int, int]]
"""(upper edge in nanoseconds, frames) of each bucket of `runtime.histogram.Histogram` that is not empty."""


def frames_below(histogram: Histogram, edges_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many frames are younger than each edge, as if spread evenly over their bucket.

    The buckets are narrower than the bars and do not line up with them; counting whole buckets would make teeth.
    """
    uppers = np.array([upper for upper, _ in histogram], float)
    widths = np.array([1 << max(0, upper.bit_length() - SUB_BITS - 1) for upper, _ in histogram], float)
    reached = np.cumsum([count for _, count in histogram], dtype=float)
    places = np.column_stack([uppers + 1 - widths, uppers + 1]).ravel()
    values = np.column_stack([np.concatenate([[0.0], reached[:-1]]), reached]).ravel()
    return np.asarray(np.interp(edges_ms * 1e6, places, values))


def round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, … times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)
