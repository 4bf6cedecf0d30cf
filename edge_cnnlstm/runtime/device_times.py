"""Where a step's time goes on the GPU, by its own clock."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterable
from copy import deepcopy

import numpy as np

from edge_cnnlstm.runtime.histogram import Histogram

STAGES = ("upload", "infer", "download")
BATCH = 1024
"""Steps that are put into the histograms together."""


class DeviceTimes:
    """Collects what the GPU took for the copy up, the engine and the copy down of each step; constant memory.

    Any thread may read `stages`, a histogram in nanoseconds each; what it gets is its own. Copies take nothing where
    the GPU reads host memory in place.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending = array("q")
        self._stages = {name: Histogram() for name in STAGES}

    def record(self, times_ns: Iterable[int]) -> None:
        """Add one step: the nanoseconds of each stage."""
        with self._lock:
            self._pending.extend(times_ns)
            if len(self._pending) >= BATCH * len(STAGES):
                self._fold()

    @property
    def stages(self) -> dict[str, Histogram]:
        with self._lock:
            self._fold()
            return deepcopy(self._stages)

    def _fold(self) -> None:
        rows = np.array(self._pending, np.int64).reshape(-1, len(STAGES))
        self._pending = array("q")
        for column, histogram in enumerate(self._stages.values()):
            histogram.record_all(rows[:, column])
