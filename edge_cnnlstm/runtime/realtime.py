"""On time: what a loop does so that the moment at which a frame comes finds it awake. Each setting states its cost."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

log = logging.getLogger(__name__)

MARGIN_NS = 100_000
"""A rehearsal ends so long before the frame is due; what comes after a longer pause is cold again."""
WARM_NS, WARM_STEPS = 1_200_000, 4
"""Rehearsals go on for so long, and for so many steps: one alone wakes neither the caches nor the clock of a core."""
MOST_WARM = 0.25
"""Share of the period that they may take: SCHED_FIFO must leave the core to others, too."""
REMEMBERED = 9
"""Intervals between frames whose median is the period."""


@dataclass(frozen=True, slots=True)
class Realtime:
    """What a pipeline does to be on time.

    `keep_warm`: throw-away steps just before a frame is due, since one that comes after a pause runs on cold caches and
    slow clocks; it costs 1.2 ms of a core a frame, 4 % at 30 Hz, or four steps if these take longer. `spin_us`: the
    last microseconds before a scheduled instant are spent looking at the clock rather than asleep, and of a processor
    core. `freeze_collector`: the garbage collector does not run in the loop; cyclic garbage made there stays until the
    loop ends. `priority`: SCHED_FIFO 1..99 for the loop's threads, which then go before everything else on their cores.
    `cpus`: the cores that they may use. What the system does not permit is logged, in a line each, and left out.
    """

    keep_warm: bool = True
    spin_us: int = 300
    freeze_collector: bool = True
    priority: int | None = 50
    cpus: frozenset[int] | None = None

    @contextlib.contextmanager
    def loop(self) -> Iterator[None]:
        """Apply to the calling thread, and undo at the end."""
        with self.thread(), _COLLECTOR.kept_off() if self.freeze_collector else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def thread(self) -> Iterator[None]:
        """Give the calling thread its cores and its priority, and take them back at the end."""
        with contextlib.ExitStack() as undo:
            if self.cpus is not None:
                undo.callback(_permitted(f"the cores {sorted(self.cpus)}", partial(_pin, self.cpus)))
            if self.priority is not None:
                undo.callback(_permitted("SCHED_FIFO", partial(_prioritise, self.priority)))
            yield


OFF = Realtime(keep_warm=False, spin_us=0, freeze_collector=False, priority=None)


class Rhythm:
    """Predicts when the next frame comes: a period, the median of the last ones, after the last."""

    def __init__(self) -> None:
        self._last_ns: int | None = None
        self._intervals: deque[int] = deque(maxlen=REMEMBERED)

    def heard(self, arrived_ns: int) -> None:
        """Note the arrival of a frame, in monotonic ns."""
        if self._last_ns is not None and arrived_ns > self._last_ns:
            self._intervals.append(arrived_ns - self._last_ns)
        self._last_ns = arrived_ns

    @property
    def next_ns(self) -> int | None:
        """When the next frame is due; None before there were two."""
        if self._last_ns is None or not self._intervals:
            return None
        return self._last_ns + self.period_ns

    @property
    def period_ns(self) -> int:
        """The time from frame to frame, 0 before there were two."""
        return round(statistics.median(self._intervals)) if self._intervals else 0


def sleep_until(due_ns: int, spin_ns: int = 0) -> None:
    """Return at an instant of the monotonic clock, or at once when it is past; spin through the last `spin_ns`.

    Sleeping alone ends 50 to 200 µs late.
    """
    while (left := due_ns - spin_ns - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)
    while time.monotonic_ns() < due_ns:
        pass


class _Collector:
    """The cyclic garbage collector, kept off while any loop runs: with a million live objects it takes 0.2 s.

    It is the whole process's: of several loops the first one switches it off, and the last one on again.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # collecting may end a loop that somebody abandoned
        self._loops = 0
        self._was_enabled = True

    @contextlib.contextmanager
    def kept_off(self) -> Iterator[None]:
        with self._lock:
            self._loops += 1
            if self._loops == 1:
                self._was_enabled = gc.isenabled()
                gc.collect()
                gc.freeze()
                gc.disable()
        try:
            yield
        finally:
            with self._lock:
                self._loops -= 1
                if not self._loops:
                    gc.unfreeze()
                    if self._was_enabled:
                        gc.enable()


_COLLECTOR = _Collector()


def _pin(cpus: frozenset[int]) -> Callable[[], None]:
    """Give the calling thread these cores; return how to undo it."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    return partial(os.sched_setaffinity, 0, before)


def _prioritise(priority: int) -> Callable[[], None]:
    """Let the calling thread go first; return how to undo it."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    return partial(os.sched_setscheduler, 0, policy, parameters)


def _permitted(what: str, change: Callable[[], Callable[[], None]]) -> Callable[[], None]:
    """Change a setting and return how to undo it; where that is not permitted, say so and change nothing."""
    try:
        return change()
    except (OSError, ValueError) as error:
        log.warning("not permitted to use %s (%s): going on without", what, error)
        return lambda: None
