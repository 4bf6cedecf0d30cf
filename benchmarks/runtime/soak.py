"""A camera at 30 Hz for a long time, beside a million live Python objects: what is late, and what stays behind."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any

from benchmarks.processes import Cost, answer, resident_bytes
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.opening import open_stream
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.runtime.sources.array import ArraySource

RATE = 30.0
OBJECTS = 1_000_000
SETTLED = 300
"""Frames after which everything is allocated that ever will be."""


def main(path: str, backend: str, graph: str, seconds: str) -> dict[str, Any]:
    """Stream, and count late and dropped frames, collector pauses in ms, and the growth of resident memory in bytes."""
    crowd = [{"at": [number]} for number in range(OBJECTS // 2)]
    pauses = Pauses()
    gc.callbacks.append(pauses)
    frames = bundle_format.read(path).golden.frames
    with open_stream(path, backend=backend, graph=graph, deadline_ms=1000 / RATE) as stream:
        source = ArraySource(_first(cycle(frames), round(float(seconds) * RATE)), rate=RATE, spin_us=Realtime().spin_us)
        pipeline = Pipeline(source, stream, "newest", realtime=Realtime())
        grown, cost = 0, Cost()
        for frame, _ in pipeline:
            if frame.index == SETTLED:
                grown, cost = resident_bytes(), Cost()
                pauses.longest_ns = 0
        share, grown = cost.share(), resident_bytes() - grown
        latency, counts = stream.latency, pipeline.counts
    return {
        "produced": counts.produced,
        "dropped": counts.dropped,
        "late": latency.deadline_misses,
        "age_ms": {f"p{tail:g}": latency.stages["age"].percentile(tail) / 1e6 for tail in (50, 99, 99.9, 100)},
        "response_ms": {f"p{tail:g}": latency.response.percentile(tail) / 1e6 for tail in (99, 99.9, 100)},
        "lost_at_s": _when(latency.timeline.document(), "lost"),
        "late_at_s": _when(latency.timeline.document(), "late"),
        "collector_pause_ms": pauses.longest_ns / 1e6,
        "collections": pauses.count,
        "grown_bytes": grown,
        "core_share": share,
        "objects": 2 * len(crowd),
        "seconds": float(seconds),
    }


def _when(timeline: dict[str, Any], what: str) -> dict[str, int]:
    """Return how many there were in the stretches that began so many seconds after the first answer."""
    found = zip(timeline["start_s"], timeline[what], strict=True)
    return {f"{start:g}": count for start, count in found if count}


class Pauses:
    """Hears of every collection, and keeps the longest."""

    def __init__(self) -> None:
        self.longest_ns = self.count = 0
        self._begun = 0

    def __call__(self, phase: str, _: dict[str, int]) -> None:
        """Note that a collection starts or stops."""
        if phase == "start":
            self._begun = time.monotonic_ns()
        else:
            self.count += 1
            self.longest_ns = max(self.longest_ns, time.monotonic_ns() - self._begun)


def _first(frames: Iterator[Pixels], count: int) -> Iterator[Pixels]:
    for _ in range(count):
        yield next(frames)


if __name__ == "__main__":
    answer(main)
