"""Half a second in which nothing moves: how long until answers are on time again, and what is lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from typing import Any

from benchmarks.processes import answer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.opening import open_stream
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.stream import Stream

RATE = 30.0
FRAMES = 45
STALLED = 15
"""The frame at which the stall begins: by then the pipeline knows the rhythm of its source."""
STALL_S = 0.5
IN_A_ROW = 5
"""Answers that must be on time before a stream counts as recovered: one may be by chance."""
STALLS = ("step", "source")
POLICIES = ("newest", "every")


def main(path: str, backend: str, graph: str, stalls: str, policy: str) -> dict[str, Any]:
    """Stall the `step` or the `source` once; what each answer's age was, and when, in ms since the stall's end.

    `recovery_ms` is from the stall's end to the first of a row of answers that are all there within their frame's
    period, None if there was none. A frame's age counts from when it was due. `dropped` never got an answer.
    """
    frames = bundle_format.read(path).golden.frames
    stall, realtime = Stall(), Realtime()
    with open_stream(path, backend=backend, graph=graph) as stream:
        images: Iterable[Pixels] = islice(cycle(frames), FRAMES)
        source = ArraySource(
            stall.before(images) if stalls == "source" else images, rate=RATE, spin_us=realtime.spin_us
        )
        stalling = StallingStream(stream, stall) if stalls == "step" else stream
        pipeline = Pipeline(source, stalling, policy, realtime=realtime)  # type: ignore[arg-type]  # it is a stream in all that is used
        answers = [
            ((frame.captured_ns + prediction.timings.age - stall.ended_ns) / 1e6, prediction.timings.age / 1e6)
            for frame, prediction in list(pipeline)
        ]
    return {
        "recovery_ms": recovery_ms(answers, 1000 / RATE),
        "dropped": pipeline.counts.dropped,
        "answers": answers,
        "samples": len(answers),
    }


def recovery_ms(answers: list[tuple[float, float]], period_ms: float) -> float | None:
    """Return when the first of a row of answers on time came, of (ms since the stall's end, age in ms) each."""
    after = [(since, age) for since, age in answers if since >= 0]
    for first in range(len(after) - IN_A_ROW + 1):
        if all(age <= period_ms for _, age in after[first : first + IN_A_ROW]):
            return after[first][0]
    return None


class Stall:
    """Holds up whoever comes to it with the frame at which it begins. `ended_ns` is when it let go."""

    def __init__(self) -> None:
        self.ended_ns = 0

    def hold(self, index: int) -> None:
        """Sleep if this is the frame."""
        if index == STALLED:
            time.sleep(STALL_S)
            self.ended_ns = time.monotonic_ns()

    def before(self, images: Iterable[Pixels]) -> Iterator[Pixels]:
        """Hand images on, one of them late."""
        for index, image in enumerate(images):
            self.hold(index)
            yield image


class StallingStream:
    """A stream whose step is held up once; frames count from the source's first."""

    def __init__(self, stream: Stream, stall: Stall) -> None:
        self.latency, self.rehearse = stream.latency, stream.rehearse
        self._step, self._stall = stream.step, stall

    def step(self, frame: Frame) -> Prediction:
        self._stall.hold(frame.index)
        return self._step(frame)


if __name__ == "__main__":
    answer(main)
