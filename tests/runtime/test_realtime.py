"""On time: when the next frame is due, waiting for it, and what a loop changes and puts back."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import math
import os
import statistics
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_cnnlstm.runtime import pipeline as pipeline_module
from edge_cnnlstm.runtime import realtime
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import Script
from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.mailbox import Counts
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.realtime import MARGIN_NS, OFF, REMEMBERED, Realtime, Rhythm, sleep_until
from edge_cnnlstm.runtime.sinks.base import Callback
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames
from tests.runtime.doubles import FRAME, MS, PATIENCE, PERIOD, Clock, CountingBackend, film, told
from tests.runtime.test_mailbox import Listed, settled

START = 10**12
WARM_ONLY = Realtime(keep_warm=True, spin_us=0, freeze_collector=False, priority=None)
CALM = Realtime(keep_warm=False, priority=None)


def rhythm_of(*arrivals: int) -> Rhythm:
    rhythm = Rhythm()
    for arrived in arrivals:
        rhythm.heard(arrived)
    return rhythm


def test_a_rhythm_takes_two_frames() -> None:
    assert rhythm_of().next_ns is None
    assert rhythm_of(START).next_ns is None
    assert rhythm_of(START, START).next_ns is None
    assert rhythm_of(START, START + PERIOD).next_ns == START + 2 * PERIOD


def test_a_steady_rhythm_goes_on() -> None:
    assert rhythm_of(*(START + at * PERIOD for at in range(50))).next_ns == START + 50 * PERIOD


@given(st.lists(st.integers(-5 * MS, 5 * MS), min_size=2, max_size=40))
def test_a_jittery_rhythm_is_expected_a_median_interval_after_the_last_frame(jitter: list[int]) -> None:
    arrivals = [START + at * PERIOD + late for at, late in enumerate(jitter)]
    intervals = [after - before for before, after in itertools.pairwise(arrivals)][-REMEMBERED:]
    due = rhythm_of(*arrivals).next_ns
    assert due == arrivals[-1] + round(statistics.median(intervals))


@pytest.mark.parametrize("kind", ["missing", "doubled", "the same instant"])
@pytest.mark.parametrize("at", [2, 5, 8])
def test_one_frame_out_of_step_does_not_change_the_period(kind: str, at: int) -> None:
    arrivals = [START + index * PERIOD for index in range(10)]
    if kind == "missing":
        del arrivals[at]
    else:
        arrivals.insert(at + 1, arrivals[at] + (MS if kind == "doubled" else 0))
    assert rhythm_of(*arrivals).next_ns == START + 10 * PERIOD


def test_a_new_period_is_learnt_within_nine_frames() -> None:
    arrivals = [START + at * PERIOD for at in range(20)]
    arrivals += [arrivals[-1] + at * 2 * PERIOD for at in range(1, REMEMBERED)]
    assert rhythm_of(*arrivals).next_ns == arrivals[-1] + 2 * PERIOD


class Restless(Clock):
    """A clock whose sleeps end too early or too late, and that moves on whenever somebody looks."""

    def __init__(self, factors: list[float]) -> None:
        super().__init__(START)
        self.factors = factors
        self.slept: list[float] = []

    def monotonic_ns(self) -> int:
        self.now += 700
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept.append(seconds)
        self.now += round(seconds * 1e9 * (self.factors.pop() if self.factors else 1.0))


@given(
    st.integers(-50 * MS, 50 * MS),
    st.sampled_from([0, 1, 300_000, 60 * MS]),
    st.lists(st.floats(0.1, 1.5), max_size=6),
)
def test_sleeping_until_an_instant_never_ends_before_it(ahead: int, spin: int, factors: list[float]) -> None:
    clock = Restless(factors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(realtime, "time", SimpleNamespace(monotonic_ns=clock.monotonic_ns, sleep=clock.sleep))
        sleep_until(START + ahead, spin)
    assert clock.now >= START + ahead
    if ahead <= spin:
        assert not clock.slept


def test_the_last_microseconds_are_spent_awake() -> None:
    clock = Restless([])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(realtime, "time", SimpleNamespace(monotonic_ns=clock.monotonic_ns, sleep=clock.sleep))
        sleep_until(START + 10 * MS, 300_000)
    assert clock.slept == [pytest.approx(0.0097, abs=1e-6)]
    assert 0 <= clock.now - (START + 10 * MS) < 2 * 700


@contextlib.contextmanager
def listening() -> Iterator[list[str]]:
    """Note each run of the garbage collector."""
    heard: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        heard.append(phase)

    gc.callbacks.append(note)
    try:
        yield heard
    finally:
        gc.callbacks.remove(note)


def litter() -> None:
    """Make 50,000 cycles that only the collector can free."""
    for _ in range(50_000):
        cycle: list[Any] = []
        cycle.append(cycle)


def test_the_collector_would_run_were_it_not_kept_off() -> None:
    with listening() as heard:
        litter()
    assert heard


@pytest.fixture
def nothing_frozen() -> None:
    gc.unfreeze()  # what spares all tests long collections, and would pass for what a loop froze


@pytest.mark.usefixtures("nothing_frozen")
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt])
def test_the_collector_does_not_run_in_the_loop_and_is_as_before_afterwards(
    enabled: bool, error: type[BaseException] | None
) -> None:
    if not enabled:
        gc.disable()
    try:
        with contextlib.suppress(ZeroDivisionError, KeyboardInterrupt), CALM.loop():
            assert not gc.isenabled()
            assert gc.get_freeze_count() > 0
            with listening() as heard:
                litter()
            if error is not None:
                raise error
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert not heard
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("nothing_frozen")
def test_of_two_loops_the_last_one_lets_the_collector_run_again() -> None:
    first, second = CALM.loop(), CALM.loop()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not gc.isenabled()
    assert gc.get_freeze_count() > 0
    second.__exit__(None, None, None)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_loop_that_does_not_freeze_the_collector_leaves_it_alone() -> None:
    with OFF.loop():
        assert gc.isenabled()


class System:
    """Cores and scheduling as the kernel keeps them, for one thread."""

    def __init__(self, patch: pytest.MonkeyPatch, *, refuses: tuple[str, ...] = ()) -> None:
        self.cpus, self.policy, self.priority = {0, 1, 2, 3}, os.SCHED_OTHER, 0
        calls: dict[str, Callable[..., Any]] = {
            "sched_getaffinity": lambda _: set(self.cpus),
            "sched_setaffinity": self._pin,
            "sched_getscheduler": lambda _: self.policy,
            "sched_getparam": lambda _: os.sched_param(self.priority),
            "sched_setscheduler": self._schedule,
        }
        for name, call in calls.items():
            patch.setattr(os, name, self._refuse if name in refuses else call)

    @property
    def settings(self) -> tuple[set[int], int, int]:
        return self.cpus, self.policy, self.priority

    def _pin(self, _: int, cpus: set[int]) -> None:
        self.cpus = set(cpus)

    def _schedule(self, _: int, policy: int, parameters: os.sched_param) -> None:
        self.policy, self.priority = policy, parameters.sched_priority

    def _refuse(self, *_: object) -> None:
        raise PermissionError(1, "Operation not permitted")


BEFORE = ({0, 1, 2, 3}, os.SCHED_OTHER, 0)
EAGER = Realtime(priority=70, cpus=frozenset({2}))


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_a_loop_has_its_cores_and_its_priority_and_gives_them_back(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    system = System(monkeypatch)
    with contextlib.suppress(ZeroDivisionError), EAGER.loop():
        assert system.settings == ({2}, os.SCHED_FIFO, 70)
        if error is not None:
            raise error
    assert system.settings == BEFORE


def test_a_loop_that_asks_for_nothing_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    system = System(monkeypatch, refuses=("sched_getaffinity", "sched_getscheduler", "sched_getparam"))
    with OFF.loop():
        assert system.settings == BEFORE


SETTERS = ("sched_setaffinity", "sched_setscheduler")
GETTERS = ("sched_getaffinity", "sched_getscheduler", "sched_getparam")


@pytest.mark.parametrize("refuses", [SETTERS, GETTERS, (*SETTERS, *GETTERS)])
def test_what_is_not_permitted_is_said_in_a_line_each_and_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refuses: tuple[str, ...]
) -> None:
    system = System(monkeypatch, refuses=refuses)
    with caplog.at_level(logging.WARNING), EAGER.loop():
        assert system.settings == BEFORE
        assert not gc.isenabled()
    assert system.settings == BEFORE
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "not permitted to use the cores [2]",
        "not permitted to use SCHED_FIFO",
    ]


@pytest.mark.parametrize(
    ("refuses", "expected"),
    [("sched_setaffinity", ({0, 1, 2, 3}, os.SCHED_FIFO, 70)), ("sched_setscheduler", ({2}, os.SCHED_OTHER, 0))],
)
def test_one_that_is_not_permitted_does_not_hinder_the_other(
    monkeypatch: pytest.MonkeyPatch, refuses: str, expected: tuple[set[int], int, int]
) -> None:
    system = System(monkeypatch, refuses=(refuses,))
    with EAGER.loop():
        assert system.settings == expected
    assert system.settings == BEFORE


def test_this_system_grants_cores_and_takes_them_back() -> None:
    before = os.sched_getaffinity(0)
    one = frozenset({min(before)})
    with Realtime(priority=None, cpus=one).loop():
        assert os.sched_getaffinity(0) == one
    assert os.sched_getaffinity(0) == before


def test_cores_that_do_not_exist_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    before = os.sched_getaffinity(0)
    with Realtime(priority=None, cpus=frozenset({1023})).loop():
        assert os.sched_getaffinity(0) == before
    assert len(caplog.records) == 1


def rehearsals(stream: Stream) -> int:
    return stream.backend.rehearsed  # type: ignore[attr-defined,no-any-return]


def test_a_rehearsal_comes_before_each_frame_once_there_is_a_rhythm(
    tiny_spec: ModelSpec, tiny_script: Script, twin: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "MOST_WARM", math.inf)  # frames come as fast as they are rehearsed here
    rehearsed, decided = threading.Semaphore(0), threading.Event()

    class Announcing(CountingBackend):
        def rehearse(self) -> None:
            super().rehearse()
            rehearsed.release()

    def gate(at: int) -> None:
        if at == 1:
            assert decided.wait(PATIENCE)
        elif at > 1:
            assert rehearsed.acquire(timeout=PATIENCE)
            while rehearsed.acquire(blocking=False):  # those that went before it
                pass

    stream = Stream(Announcing(tiny_spec, tiny_script))
    frames = film(tiny_frames(25, seed=1))
    pipeline = Pipeline(Listed(frames, gate), stream, "newest", realtime=WARM_ONLY)
    found = []
    for _, prediction in pipeline:
        found.append(told(prediction))
        decided.set()
    assert found == [told(twin.step(frame)) for frame in frames]
    assert settled(pipeline) == Counts(25, 25, 0)
    assert rehearsals(stream) >= 20
    assert stream.latency.stages["age"].count == 25


@pytest.mark.parametrize(("share", "rehearsed"), [(0.06, 1), (0.07, 0)])
def test_steps_of_which_four_take_a_quarter_of_the_period_are_not_rehearsed(
    clock: Clock, scripted: Stream, share: float, rehearsed: int
) -> None:
    pipeline = Pipeline(Listed([]), scripted, "newest", realtime=WARM_ONLY)
    pipeline._rhythm = rhythm_of(clock.now - 3 * PERIOD, clock.now - 2 * PERIOD)
    pipeline._infer_ns = round(share * PERIOD)
    pipeline._keep_warm()
    assert rehearsals(scripted) == rehearsed
    pipeline.close()


@pytest.mark.parametrize("waiting", [True, False])
def test_nothing_is_rehearsed_while_a_frame_waits(clock: Clock, scripted: Stream, waiting: bool) -> None:
    pipeline = Pipeline(Listed([]), scripted, "newest", realtime=WARM_ONLY)
    pipeline._rhythm = rhythm_of(clock.now - 3 * PERIOD, clock.now - 2 * PERIOD)  # overdue
    if waiting:
        pipeline._mailbox.put(Frame(FRAME, 0, clock.now))
    pipeline._keep_warm()
    assert rehearsals(scripted) == (not waiting)
    pipeline.close()


def test_nothing_is_rehearsed_before_there_is_a_rhythm(scripted: Stream) -> None:
    pipeline = Pipeline(Listed([]), scripted, "newest", realtime=WARM_ONLY)
    pipeline._keep_warm()
    assert rehearsals(scripted) == 0
    pipeline.close()


@pytest.mark.parametrize(("step", "count"), [(MS // 4, 4), (MS // 2, 4), (MS // 10, 12)])
def test_rehearsals_go_on_until_a_margin_before_the_frame_is_due(
    clock: Clock, tiny_spec: ModelSpec, tiny_script: Script, monkeypatch: pytest.MonkeyPatch, step: int, count: int
) -> None:
    begun: list[int] = []

    class Slow(CountingBackend):
        def rehearse(self) -> None:
            begun.append(clock.now)
            clock.now += step

    pipeline = Pipeline(Listed([]), Stream(Slow(tiny_spec, tiny_script)), "newest", realtime=WARM_ONLY)

    def wait(until_ns: int) -> bool:
        clock.now = max(clock.now, until_ns)
        return False

    monkeypatch.setattr(pipeline._mailbox, "wait", wait)
    pipeline._infer_ns = step
    due = clock.now + PERIOD
    pipeline._rhythm = rhythm_of(due - 2 * PERIOD, due - PERIOD)
    pipeline._keep_warm()
    assert len(begun) == count
    assert due - MARGIN_NS - step < begun[-1] + step <= due - MARGIN_NS
    pipeline.close()


@pytest.mark.parametrize("realtime_", [OFF, CALM])
def test_without_keep_warm_nothing_is_rehearsed(scripted: Stream, realtime_: Realtime) -> None:
    assert len(list(Pipeline(Listed(film(tiny_frames(10, seed=1))), scripted, "every", realtime=realtime_))) == 10
    assert rehearsals(scripted) == 0


def test_a_pipeline_keeps_the_collector_off_only_while_it_is_iterated(
    tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    enabled: list[bool] = []

    def noting(*arguments: Any) -> tuple[Arrays, Arrays]:
        enabled.append(gc.isenabled())
        return tiny_script(*arguments)

    stream = Stream(CountingBackend(tiny_spec, noting))
    enabled.clear()
    for _ in Pipeline(Listed(film(tiny_frames(10, seed=1))), stream, "every", realtime=CALM):
        break
    assert enabled == [False]
    assert gc.isenabled()


def test_both_threads_of_a_pipeline_have_the_cores_and_give_them_back(scripted: Stream) -> None:
    before = os.sched_getaffinity(0)
    one = frozenset({min(before)})
    seen: list[set[int]] = []
    source = Listed(film(tiny_frames(3, seed=1)), lambda _: seen.append(os.sched_getaffinity(0)))
    pipeline = Pipeline(source, scripted, "every", realtime=Realtime(keep_warm=False, priority=None, cpus=one))
    pipeline.run(Callback(lambda *_: seen.append(os.sched_getaffinity(0))))
    assert len(seen) == 6
    assert all(cpus == one for cpus in seen)
    assert os.sched_getaffinity(0) == before
