"""Our own cases: the stream that `edge_cnnlstm.open` returns, uint8 frame in and label out, all of it in Python."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from math import ceil
from pathlib import Path

from benchmarks.latency import rerun
from benchmarks.peers.accuracy import Rollout, label_head
from benchmarks.peers.loops import RATE, WARM_UP_FRAMES, back_to_back, frames_for
from benchmarks.processes import Message
from edge_cnnlstm.bundle.golden import Arrays, Golden
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.opening import open_stream
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.proof import Deviation, deviation
from edge_cnnlstm.runtime.realtime import OFF, Realtime
from edge_cnnlstm.runtime.sources.array import ArraySource

WINDOW_FRAMES = 16
"""Frames that are run again for each new one where no memory is carried."""
OURS, AGAIN, WINDOW, UNTUNED = "ours", "ours, again", f"window of {WINDOW_FRAMES}", "ours, untuned"
"""The cases' names; the second is the first once more, and the difference of both is noise."""
CLOSED, PACED = (OURS, AGAIN, WINDOW), (OURS, AGAIN, UNTUNED)
"""Those that each loop has."""


class Ours:
    """A stream on the graph and the engine that `auto` chose for this machine, on time by all that there is for it."""

    realtime = Realtime()

    def __init__(self, bundle: Path, backend: str, graph: str, threads: int) -> None:
        self._stream = open_stream(bundle, backend=backend, graph=graph, threads=threads)

    def deviation(self, golden: Golden, expected: Arrays) -> Deviation:
        """Return how far it strays from FP32's course over the golden rollout."""
        return deviation(self._stream.backend, golden, expected)

    def labels(self, rollout: Rollout) -> list[int]:
        """Return the number of the label of each frame, memory carried throughout."""
        self._stream.reset("rollout")
        labels = label_head(self._stream.spec).labels
        period_ns = round(1e9 / RATE)
        return [
            labels.index(self._stream.step(Frame(pixels, index, (index + 1) * period_ns)).label)
            for index, (pixels, _) in enumerate(rollout.steps())
        ]

    def closed(self, golden: Sequence[Pixels], steps: int) -> Message:
        """Time whole steps, back to back."""
        self._stream.reset("turn")
        return {"whole_ns": back_to_back(self._stream.step, frames_for(golden, steps))}

    def paced(self, golden: Sequence[Pixels], frames: int) -> Message:
        """Time answers from the instant each frame was due; none is left out, and a late one makes the next one wait.

        `first_in_line` says if it ran under SCHED_FIFO, which the system may not permit.
        """
        self._stream.reset("turn")
        source = ArraySource(frames_for(golden, frames), rate=RATE, spin_us=self.realtime.spin_us)
        pipeline = Pipeline(source, self._stream, "every", realtime=self.realtime)
        samples, scheduler = [], os.SCHED_OTHER
        for frame, _ in pipeline:
            samples.append(time.monotonic_ns() - frame.captured_ns)
            scheduler = os.sched_getscheduler(0)
        return {"paced_ns": samples[WARM_UP_FRAMES:], "first_in_line": scheduler == os.SCHED_FIFO}


class Window(Ours):
    """The same answer without carried memory: forget, run the last frames again, decode once."""

    def closed(self, golden: Sequence[Pixels], steps: int) -> Message:
        """Time whole windows, a tenth as many as steps were asked for: each costs as many steps as it has frames."""
        warm_up, count = ceil(WARM_UP_FRAMES / WINDOW_FRAMES), ceil(steps / 10)
        windows = [list(islice(cycle(golden), last, last + WINDOW_FRAMES)) for last in range(warm_up + count)]
        return {"whole_ns": back_to_back(partial(rerun, self._stream), windows, warm_up)}


class Untuned(Ours):
    """The same without what `--realtime` switches on: asleep between frames, as peers are."""

    realtime = OFF


OWN: dict[str, type[Ours]] = {OURS: Ours, AGAIN: Ours, WINDOW: Window, UNTUNED: Untuned}
