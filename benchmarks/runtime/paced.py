"""One frame every 33 ms, as a camera sends them; `peers` has other engines beside it.

Every sample is one whole answer: uint8 frame in, label out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle, islice, pairwise
from typing import Any

from benchmarks.latency import WARM_UP_FRAMES
from benchmarks.processes import Cost, answer
from benchmarks.statistics import percentile
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.opening import open_stream
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.realtime import OFF, Realtime
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.stream import Stream

RATE = 30.0
Answer = Callable[[Pixels], object]
Spans = list[tuple[int, int]]
"""When each answer was begun, and when it was there, in monotonic ns."""
CLOSED_TIMES = 4
"""A closed loop has so many times the frames: it is over in no time."""


def main(path: str, kind: str, backend: str, graph: str, frames: str) -> dict[str, Any]:
    """Answer so many frames, and return p50 and p99 in µs, the intervals between answers in ns, and the share of a core
    that it all cost.

    `closed` is our step back to back, `ours` the pipeline with everything that `--realtime` switches on, and
    `untuned` the pipeline without.
    """
    bundle, count = bundle_format.read(path), int(frames)
    with open_stream(path, backend=backend, graph=graph) as stream:
        if kind == "closed":
            spans, share = _closed(bundle, stream.step, count * CLOSED_TIMES)
        else:
            spans, share = _streamed(bundle, stream, count, Realtime() if kind == "ours" else OFF)
    counted = spans[WARM_UP_FRAMES:]
    samples = [ended - begun for begun, ended in counted]
    return {
        "p50_us": percentile(samples, 50) / 1e3,
        "p99_us": percentile(samples, 99) / 1e3,
        "intervals_ns": [later - earlier for (_, earlier), (_, later) in pairwise(counted)],
        "core_share": share,
        "samples": len(samples),
    }


def _frames(bundle: Bundle, count: int) -> list[Pixels]:
    return list(islice(cycle(bundle.golden.frames), WARM_UP_FRAMES + count))


def _closed(bundle: Bundle, step: Answer, count: int) -> tuple[Spans, float]:
    spans, cost = Spans(), Cost()
    for pixels in _frames(bundle, count):
        begun = time.monotonic_ns()
        step(pixels)
        spans.append((begun, time.monotonic_ns()))
    return spans, cost.share()


def _streamed(bundle: Bundle, stream: Stream, count: int, realtime: Realtime) -> tuple[Spans, float]:
    timed = TimedStream(stream)
    source = ArraySource(_frames(bundle, count), rate=RATE, spin_us=realtime.spin_us)
    cost = Cost()
    Pipeline(source, timed, "newest", realtime=realtime).run()  # type: ignore[arg-type]  # it is a stream in all that is used
    return timed.spans, cost.share()


class TimedStream:
    """A stream whose steps are timed from outside, everything that they do included."""

    def __init__(self, stream: Stream) -> None:
        self.spans = Spans()
        self.latency, self.rehearse = stream.latency, stream.rehearse
        self._step = stream.step

    def step(self, frame: Frame) -> Prediction:
        begun = time.monotonic_ns()
        prediction = self._step(frame)
        self.spans.append((begun, time.monotonic_ns()))
        return prediction


if __name__ == "__main__":
    answer(main)
