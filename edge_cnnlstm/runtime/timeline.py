"""A whole run in constant memory: what happened in each stretch of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 600
FIRST_WIDTH_NS = 100_000_000


class Timeline:
    """Ages, misses and losses in up to 600 stretches of equal length.

    A stretch begins as a tenth of a second. When a run outgrows them, each two become one, so that an hour takes no
    more memory than a minute.
    """

    def __init__(self) -> None:
        self.start_ns: int | None = None
        self.width_ns = FIRST_WIDTH_NS
        self._frames, self._oldest, self._late, self._lost = np.zeros((4, BINS), np.int64)
        self._ages = np.zeros(BINS)

    def add(
        self,
        decided: NDArray[np.int64],
        ages: NDArray[np.int64],
        late: NDArray[np.bool_],
        lost: NDArray[np.int64],
    ) -> None:
        """Add decisions, in the order of their instants: monotonic ns, ages in ns, and what was late or lost before."""
        if self.start_ns is None:
            # Not its capture: by a clock that is wrong that was ten years ago, and the run would be one stretch.
            self.start_ns = int(decided[0])
        since = np.maximum(decided - self.start_ns, 0)
        while since[-1] >= BINS * self.width_ns:
            self._halve()
        at = np.minimum(since // self.width_ns, BINS - 1)
        np.add.at(self._frames, at, 1)
        np.maximum.at(self._oldest, at, ages)
        np.add.at(self._ages, at, ages)
        np.add.at(self._late, at, late)
        np.add.at(self._lost, at, lost)

    def document(self) -> dict[str, Any]:
        """Return it as JSON data: the stretches in which something happened, their start in seconds, ages in ms."""
        used = np.flatnonzero(self._frames)
        mean = self._ages[used] / self._frames[used] / 1e6
        return {
            "width_s": self.width_ns / 1e9,
            "start_s": (used * (self.width_ns / 1e9)).round(3).tolist(),
            "frames": self._frames[used].tolist(),
            "mean_age_ms": mean.round(4).tolist(),
            "max_age_ms": (self._oldest[used] / 1e6).round(4).tolist(),
            "late": self._late[used].tolist(),
            "lost": self._lost[used].tolist(),
        }

    def _halve(self) -> None:
        for counts in (self._frames, self._ages, self._late, self._lost):
            counts[: BINS // 2], counts[BINS // 2 :] = counts.reshape(-1, 2).sum(axis=1), 0
        self._oldest[: BINS // 2], self._oldest[BINS // 2 :] = self._oldest.reshape(-1, 2).max(axis=1), 0
        self.width_ns *= 2
