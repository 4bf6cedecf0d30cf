"""Honest time: where each millisecond between the shutter and the decision went.

All times are monotonic nanoseconds. A frame's age counts from its capture, or from the instant at which it was
scheduled when a recording is replayed at a rate: a stall then ages every frame that it delayed. Frames that a stall
swallowed have no age; `response` counts them all the same, each until the first decision after it. Leaving them out is
the error known as coordinated omission (github.com/giltene/wrk2).
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.runtime.histogram import Histogram, Summary, summarise
from edge_cnnlstm.runtime.timeline import Timeline

T = TypeVar("T")
IDLE_NS = 1_000_000_000
"""A frame that no other came before for so long is the first after idling: engines and clocks have gone to sleep."""
MOST_LOST = 4096
"""Of more frames lost in one gap, no more are put into the histogram: they would all be in the same bucket or so."""


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


FIELDS = ("captured", *Timings._fields, "lost", "idle")
CAPTURED, AGE, LOST, IDLE = (FIELDS.index(name) for name in ("captured", "age", "lost", "idle"))
BATCH = 1024
"""Frames that are put into the histograms together, so that a step pays microseconds for its record."""


class LatencyRecorder:
    """Collects the timings of a stream, and counts the frames that came too late; constant memory.

    `deadline_ns` is the age by which a prediction must be there; None counts no misses. `stages` has a histogram for
    each of `Timings`; `response`, the age of every frame at the first decision that was made after it, lost frames
    included; `jitter`, by how much an age differs from the one before it (RFC 3393); `first_after_idle`, the ages of
    frames that no other came before for a second. `timeline` is the whole run. `clock_faults` counts frames that say
    they were captured in the future: they count as captured on arrival. Any thread may read; what it gets is its own.
    """

    def __init__(self, deadline_ns: int | None = None) -> None:
        self.deadline_ns = deadline_ns
        self.clock_faults = 0
        self._lock = threading.Lock()
        self._pending = array("q")
        self._stages = {name: Histogram() for name in Timings._fields}
        self._response, self._jitter, self._first_after_idle = Histogram(), Histogram(), Histogram()
        self._timeline = Timeline()
        self._misses = self._longest_burst = self._burst = self._lost = 0
        self._first_decision = self._last_decision = self._last_age = self._last_capture = 0

    def record(self, captured_ns: int, timings: Timings, lost: int = 0, idle_ns: int = 0) -> None:
        """Add one frame: when it was captured, its timings, the frames that were lost just before it, and for how long
        no frame had come.
        """
        with self._lock:
            pending = self._pending
            pending.extend((captured_ns, *timings, lost, idle_ns))
            if len(pending) >= BATCH * len(FIELDS):
                self._fold()

    @property
    def stages(self) -> dict[str, Histogram]:
        return self._settled(lambda: self._stages)

    @property
    def response(self) -> Histogram:
        return self._settled(lambda: self._response)

    @property
    def jitter(self) -> Histogram:
        return self._settled(lambda: self._jitter)

    @property
    def first_after_idle(self) -> Histogram:
        return self._settled(lambda: self._first_after_idle)

    @property
    def timeline(self) -> Timeline:
        return self._settled(lambda: self._timeline)

    @property
    def deadline_misses(self) -> int:
        """Frames whose decision came too late; what never got one of its own is counted as lost."""
        return self._settled(lambda: self._misses)

    @property
    def longest_miss_burst(self) -> int:
        """The most such frames in a row."""
        return self._settled(lambda: self._longest_burst)

    @property
    def lost(self) -> int:
        """Frames that were captured, by the gaps in the frames' numbers, and never reached the stream."""
        return self._settled(lambda: self._lost)

    @property
    def fps(self) -> float | None:
        """Decisions a second, from the intervals between them; None before there are two."""
        count, span = self._settled(lambda: (self._stages["age"].count, self._last_decision - self._first_decision))
        return (count - 1) / span * 1e9 if count > 1 and span > 0 else None

    def summary(self) -> dict[str, Summary]:
        """Return the percentiles of each stage, and of `response`, in milliseconds."""
        return {name: summarise(histogram) for name, histogram in {**self.stages, "response": self.response}.items()}

    def tidy(self) -> None:
        """Do in a quiet moment, if it is due soon, what a step would have to do: it takes half a millisecond."""
        if len(self._pending) >= BATCH * len(FIELDS) // 2:
            with self._lock:
                self._fold()

    def _settled(self, part: Callable[[], T]) -> T:
        """Return a part of the record, every frame counted, that no other thread changes any more."""
        with self._lock:
            self._fold()
            return deepcopy(part())

    def _fold(self) -> None:
        """Move what is pending into the histograms."""
        if not self._pending:
            return
        rows = np.array(self._pending, np.int64).reshape(-1, len(FIELDS))
        self._pending = array("q")
        ages, lost = rows[:, AGE], rows[:, LOST]
        decided = rows[:, CAPTURED] + ages
        first = not self._first_decision
        for at, histogram in enumerate(self._stages.values(), start=1):
            histogram.record_all(rows[:, at])
        self._jitter.record_all(np.abs(np.diff(ages if first else np.concatenate(([self._last_age], ages)))))
        self._first_after_idle.record_all(ages[rows[:, IDLE] >= IDLE_NS])
        self._response.record_all(ages)
        for at in np.flatnonzero(lost).tolist():
            before = int(rows[at - 1, CAPTURED]) if at else self._last_capture
            self._response.record_all(_lost_ages(before, int(rows[at, CAPTURED]), int(decided[at]), int(lost[at])))
        late = np.zeros(len(ages), np.bool_) if self.deadline_ns is None else ages > self.deadline_ns
        self._count_misses(late)
        self._lost += int(lost.sum())
        self._timeline.add(decided, ages, late, lost)
        self._first_decision = self._first_decision or int(decided[0])
        self._last_decision, self._last_age, self._last_capture = int(decided[-1]), int(ages[-1]), int(rows[-1, 0])

    def _count_misses(self, late: NDArray[np.bool_]) -> None:
        for missed in late if late.any() else late[:1]:
            self._burst = self._burst + 1 if missed else 0
            self._longest_burst = max(self._longest_burst, self._burst)
        self._misses += int(late.sum())


def _lost_ages(before: int, captured: int, decided: int, lost: int) -> NDArray[np.int64]:
    """Return the ages, at the decision, of frames lost between two captures: they came in even steps."""
    shown = min(lost, MOST_LOST)
    steps = np.arange(1, shown + 1) / (shown + 1)
    return (decided - before - steps * (captured - before)).astype(np.int64)
