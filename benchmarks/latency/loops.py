"""The loops that a frame is timed in. Nothing but the call and the clock runs while it is.

Closed: a frame follows the last answer at once. Open: frames come when they are due, whatever became of those before
them, and each one's response counts from then. Of a loop that only asks when it is ready, a stall spoils one sample;
here it delays, and shows in, all the frames that came meanwhile (github.com/giltene/wrk2).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any, Protocol, TypeVar

from edge_cnnlstm.errors import BackendError, PoisonError
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.cameras import Cameras
from edge_cnnlstm.runtime.device_times import DeviceTimes
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.group import Member, StreamGroup
from edge_cnnlstm.runtime.latency import Timings
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.stream import Stream

WARM_UP_FRAMES = 32
"""Answered at the start of every turn, and not counted."""
Given = TypeVar("Given", bound=Any)
Answers = Iterator[tuple[Frame, Prediction]]


class Steps(Protocol):
    """What a closed loop asks of a stream."""

    backend: Backend

    def reset(self, reason: str) -> None: ...

    def step(self, frame: Pixels) -> Prediction: ...


class Together:
    """A group whose streams all get the same frames, and whose answer is the first one's: a stream in all but name."""

    def __init__(self, group: StreamGroup) -> None:
        self.backend = group.backend
        self._group = group
        self._members: list[Member] = []

    def reset(self, reason: str) -> None:
        if not self._members:
            self._members = [self._group.join() for _ in range(self.backend.spec.batch)]
        for member in self._members:
            self._group.reset(member, reason)

    def step(self, frame: Pixels) -> Prediction:
        found = self._group.step(dict.fromkeys(self._members, frame))[self._members[0]]
        if isinstance(found, PoisonError):
            raise found
        return found

    def paced(self, images: Sequence[Pixels], rate: float, realtime: Realtime) -> Answers:
        """Answer the frames of as many cameras as there are streams."""
        while self._members:
            self._group.leave(self._members.pop())
        sources = {
            f"camera {number}": ArraySource(images, rate=rate, spin_us=realtime.spin_us)
            for number in range(self.backend.spec.batch)
        }
        for answers in Cameras(sources, self._group, "every", realtime=realtime):
            yield from answers.values()


class Timed:
    """What a turn took: `samples_ns`, and how each of them was spent, in `stages_ns`, by the stage's name."""

    def __init__(self, backend: Backend) -> None:
        self.samples_ns: list[int] = []
        self._timings: list[Timings] = []
        self._backend = backend

    def warm(self) -> None:
        """Forget what the GPU's clock said of the warm-up."""
        if getattr(self._backend, "device_times", None) is not None:
            self._backend.device_times = DeviceTimes()  # type: ignore[attr-defined]  # the line above says that it has them

    def add(self, sample_ns: int, prediction: Prediction) -> None:
        """Count one answer."""
        self.samples_ns.append(sample_ns)
        self._timings.append(prediction.timings)

    @property
    def stages_ns(self) -> dict[str, list[int]]:
        """Return the host's stages and, on a GPU, its copies up and down, which are part of the host's `infer`."""
        stages = {
            name: list(column) for name, column in zip(Timings._fields, zip(*self._timings, strict=True), strict=True)
        }
        device = getattr(self._backend, "device_times", None)
        if device is not None:
            copies = {name: device.stages[name].buckets() for name in ("upload", "download")}
            stages |= {name: [edge for edge, count in found for _ in range(count)] for name, found in copies.items()}
        return stages


def closed(stream: Steps, frames: Sequence[Pixels], steps: int) -> Timed:
    """Time so many steps, back to back, memory carried from each to the next."""
    return _back_to_back(stream, stream.step, list(islice(cycle(frames), WARM_UP_FRAMES + steps)), WARM_UP_FRAMES)


def windows(stream: Steps, frames: Sequence[Pixels], steps: int, length: int) -> Timed:
    """Time so many answers from the last `length` frames, which carry no memory from each to the next."""
    warm_up = -(-WARM_UP_FRAMES // length)
    given = [list(islice(cycle(frames), last, last + length)) for last in range(warm_up + steps)]
    return _back_to_back(stream, lambda window: rerun(stream, window), given, warm_up)


def rerun(stream: Steps, window: Sequence[Pixels]) -> Prediction:
    """Answer a window's last frame as one must without carried memory: forget, run every frame, decode once."""
    stream.reset("window")
    for pixels in window[:-1]:
        advance(stream.backend, pixels)
    return stream.step(window[-1])


def at_rate(
    stream: Stream | Together, frames: Sequence[Pixels], steps: int, rate: float, realtime: Realtime
) -> tuple[Timed, str]:
    """Time the responses to so many frames of each camera from the instants at which they were due.

    No frame is left out: one that finds the stream busy waits. Returns the scheduling policy that the loop ran under,
    too. Raises BackendError when an answer is missing.
    """
    stream.reset("turn")
    timed, policy, begun = Timed(stream.backend), -1, False
    for frame, prediction in _answers(stream, list(islice(cycle(frames), WARM_UP_FRAMES + steps)), rate, realtime):
        answered = time.monotonic_ns()
        if frame.index >= WARM_UP_FRAMES:
            timed.add(answered - frame.captured_ns, prediction)
        elif not begun and frame.index == WARM_UP_FRAMES - 1:
            begun, policy = True, os.sched_getscheduler(0)
            timed.warm()
    expected = steps * stream.backend.spec.batch
    if len(timed.samples_ns) != expected:
        raise BackendError(
            f"{len(timed.samples_ns)} answers to {expected} frames",
            expected="an answer to every one: latency without the frames that got none would flatter",
            fix="run the bundle with `edge-cnnlstm run`, which says what became of each frame",
        )
    return timed, "SCHED_FIFO" if policy == os.SCHED_FIFO else "SCHED_OTHER"


def _answers(stream: Stream | Together, images: Sequence[Pixels], rate: float, realtime: Realtime) -> Answers:
    if isinstance(stream, Together):
        return stream.paced(images, rate, realtime)
    source = ArraySource(images, rate=rate, spin_us=realtime.spin_us)
    return iter(Pipeline(source, stream, "every", realtime=realtime))


def _back_to_back(stream: Steps, call: Callable[[Given], Prediction], given: Sequence[Given], warm_up: int) -> Timed:
    clock, timed = time.monotonic_ns, Timed(stream.backend)
    stream.reset("turn")
    for argument in given[:warm_up]:
        call(argument)
    timed.warm()
    for argument in given[warm_up:]:
        begun = clock()
        prediction = call(argument)
        timed.add(clock() - begun, prediction)
    return timed
