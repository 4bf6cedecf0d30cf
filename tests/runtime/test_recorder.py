"""The whole record of a run against a plain re-computation, frame by frame."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_cnnlstm.runtime import latency
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.histogram import RELATIVE_ERROR, Histogram, summarise
from edge_cnnlstm.runtime.latency import BATCH, IDLE_NS, MOST_LOST, LatencyRecorder, Timings
from edge_cnnlstm.runtime.stream import WARM_UP_STEPS, Stream
from edge_cnnlstm.spec import ModelSpec, StateRules
from tests.conftest import tiny_frames
from tests.runtime.doubles import FRAME, MS, PERIOD, Clock, Thread

DEADLINE = 33 * MS


@dataclass(frozen=True)
class Row:
    """One frame, as `record` takes it."""

    captured: int
    timings: Timings
    lost: int = 0
    idle: int = 0

    @property
    def decided(self) -> int:
        return self.captured + self.timings.age


def row(captured: int, age: int, *, lost: int = 0, idle: int = 0, infer: int = 1) -> Row:
    return Row(captured, Timings(max(0, age - infer - 2), 1, infer, 1, age), lost, idle)


def histogram_of(values: Iterable[int]) -> Histogram:
    histogram = Histogram()
    histogram.record(*values)
    return histogram


def facts(histogram: Histogram) -> tuple[object, ...]:
    return histogram.buckets(), histogram.count, histogram.total, histogram.maximum


@dataclass
class Plain:
    """What a recorder should say of these rows, without any of its cleverness."""

    rows: list[Row]
    response: list[int] = field(default_factory=list)
    longest: int = 0

    def __post_init__(self) -> None:
        burst = before = 0
        for each in self.rows:
            burst = burst + 1 if each.timings.age > DEADLINE else 0
            self.longest = max(self.longest, burst)
            self.response.append(each.timings.age)
            shown = min(each.lost, MOST_LOST)
            for step in range(1, shown + 1):
                share = step / (shown + 1)
                self.response.append(int(each.decided - before - share * (each.captured - before)))
            before = each.captured

    def agrees_with(self, found: LatencyRecorder) -> None:
        ages = [each.timings.age for each in self.rows]
        for name in Timings._fields:
            expected = histogram_of(getattr(each.timings, name) for each in self.rows)
            assert facts(found.stages[name]) == facts(expected), name
            assert found.summary()[name] == summarise(expected)
        assert facts(found.response) == facts(histogram_of(self.response))
        assert facts(found.jitter) == facts(histogram_of(abs(b - a) for a, b in itertools.pairwise(ages)))
        assert facts(found.first_after_idle) == facts(
            histogram_of(each.timings.age for each in self.rows if each.idle >= IDLE_NS)
        )
        assert found.deadline_misses == sum(age > DEADLINE for age in ages)
        assert found.longest_miss_burst == self.longest
        assert found.lost == sum(each.lost for each in self.rows)
        span = self.rows[-1].decided - self.rows[0].decided if self.rows else 0
        assert found.fps == (pytest.approx((len(self.rows) - 1) / span * 1e9) if span > 0 else None)
        document = found.timeline.document()
        assert sum(document["frames"]) == len(self.rows)
        assert sum(document["late"]) == found.deadline_misses
        assert sum(document["lost"]) == found.lost
        if ages:
            assert max(document["max_age_ms"]) == pytest.approx(max(ages) / 1e6, abs=1e-4)


@st.composite
def runs(draw: st.DrawFn) -> list[Row]:
    """Frames in the order of their decisions; captures may go back, as a seek makes them."""
    decided = 10**12
    found: list[Row] = []
    steps = st.tuples(
        st.sampled_from([0, 1, MS, PERIOD, PERIOD, 3 * PERIOD, 1500 * MS]),
        st.sampled_from([0, 1, 2 * MS, DEADLINE, DEADLINE + 1, 40 * MS, 900 * MS]),
        st.sampled_from([0, 0, 0, 1, 2, 7, MOST_LOST + 1]),
        st.sampled_from([0, 0, PERIOD, IDLE_NS - 1, IDLE_NS, 3 * IDLE_NS]),
    )
    for apart, age, lost, idle in draw(st.lists(steps, max_size=40)):
        decided += apart
        captured = decided - age
        found.append(row(captured, age, lost=lost if found and captured >= found[-1].captured else 0, idle=idle))
    return found


@given(runs(), st.sampled_from([1, 2, 3, 8, BATCH]), st.sets(st.integers(0, 39)))
def test_a_record_agrees_with_a_plain_recomputation_in_batches_of_any_size_whenever_it_is_read(
    rows: list[Row], batch: int, reads: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "BATCH", batch)
        recorder = LatencyRecorder(DEADLINE)
        for at, each in enumerate(rows):
            recorder.record(each.captured, each.timings, each.lost, each.idle)
            if at in reads:
                assert recorder.stages["age"].count == at + 1
            recorder.tidy()
        Plain(rows).agrees_with(recorder)


@pytest.mark.parametrize("count", [1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH, 2 * BATCH + 500])
def test_a_long_run_agrees_with_a_plain_recomputation_across_the_batches_of_1024(count: int) -> None:
    generator = np.random.default_rng(count)
    captures = 10**12 + np.cumsum(generator.integers(1, 2 * PERIOD, count))
    ages = generator.integers(0, 2 * DEADLINE, count)
    captures = np.maximum.accumulate(captures + ages) - ages
    rows = [
        row(int(captured), int(age), lost=int(at > 0 and captured > captures[at - 1] and generator.random() < 0.1) * 3)
        for at, (captured, age) in enumerate(zip(captures, ages, strict=True))
    ]
    recorder = LatencyRecorder(DEADLINE)
    for each in rows:
        recorder.record(each.captured, each.timings, each.lost, each.idle)
    Plain(rows).agrees_with(recorder)


def test_a_burst_of_misses_goes_on_across_the_batches() -> None:
    recorder = LatencyRecorder(DEADLINE)
    late = range(BATCH - 5, 2 * BATCH + 7)
    for at in range(3 * BATCH):
        recorder.record(10**12 + at * PERIOD, row(0, DEADLINE + (at in late)).timings)
    assert recorder.deadline_misses == recorder.longest_miss_burst == BATCH + 12


@given(st.lists(st.integers(-(2**62), 2**63 - 1), max_size=60))
def test_many_values_at_once_count_as_they_do_one_by_one(values: list[int]) -> None:
    together = Histogram()
    together.record_all(np.array(values, np.int64))
    assert facts(together) == facts(histogram_of(values))


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=60), st.integers(0, 1000))
def test_no_percentile_is_below_the_true_value_nor_more_than_its_error_above(values: list[int], permille: int) -> None:
    histogram = histogram_of(values)
    rank = max(1, -(-len(values) * permille // 1000))
    true = sorted(values)[rank - 1]
    found = histogram.percentile(permille / 10)
    assert float(true) <= found <= true * (1 + RELATIVE_ERROR) + 1


def test_fifty_thousand_records_are_all_counted_while_another_thread_reads() -> None:
    recorder = LatencyRecorder(DEADLINE)
    done = threading.Event()

    def reading() -> int:
        looks = seen = 0
        while not done.is_set():
            count = recorder.stages["age"].count
            assert count >= seen
            seen, looks = count, looks + 1
            assert recorder.deadline_misses <= 50_000
            recorder.summary(), recorder.timeline.document(), recorder.response.percentile(99)
        return looks

    reader = Thread(reading, "reader")
    for at in range(50_000):
        recorder.record(10**12 + at * MS, row(0, DEADLINE + at % 2, infer=7).timings, at % 5 == 4, 0)
        if at % 100 == 0:
            recorder.tidy()
    done.set()
    assert reader.result()
    assert {histogram.count for histogram in recorder.stages.values()} == {50_000}
    assert recorder.deadline_misses == 25_000
    assert recorder.longest_miss_burst == 1
    assert recorder.lost == 10_000
    assert recorder.response.count == 60_000
    assert recorder.jitter.count == 49_999
    assert recorder.stages["infer"].total == 50_000 * 7
    assert sum(recorder.timeline.document()["frames"]) == 50_000


def test_a_stall_of_200_ms_that_swallows_frames_shows_in_the_response_and_nowhere_else(
    clock: Clock, tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    steps = 0

    def script(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        nonlocal steps
        clock.now += (200 if steps == WARM_UP_STEPS + 100 else 2) * MS
        steps += 1
        return tiny_script(pixels, state)

    stream = Stream(ScriptedBackend(tiny_spec, script))
    period, count, start = 10**9 // 30, 300, clock.now
    newest = -1
    while newest < count - 1:
        clock.now = max(clock.now, start + (newest + 1) * period)
        newest = min(count - 1, (clock.now - start) // period)  # what `newest` would have waiting
        stream.step(Frame(FRAME, newest, start + newest * period))
    record = stream.latency
    assert record.lost == 5
    assert record.stages["age"].count == count - 5
    assert record.response.count == count
    assert record.response.percentile(99) > 100 * MS
    assert record.stages["infer"].percentile(99) < 3 * MS
    assert record.stages["age"].percentile(99) < 40 * MS
    assert record.response.maximum == record.stages["age"].maximum == 200 * MS
    assert not stream.resets


def test_lost_frames_are_the_gaps_in_one_sources_numbers(clock: Clock, scripted: Stream) -> None:
    def step(index: int, source: str = "camera") -> int:
        clock.now += PERIOD
        scripted.step(Frame(FRAME, index, clock.now, source=source))
        return scripted.latency.lost

    assert [step(index) for index in (5, 6, 9, 10)] == [0, 0, 2, 2]
    assert step(4) == 2  # a seek
    assert step(6) == 3
    assert step(100, "another") == 3
    assert step(103, "another") == 5
    scripted.reset()
    assert step(105, "another") == 6
    scripted.restore(scripted.snapshot())
    assert step(200, "another") == 6
    clock.now += PERIOD
    scripted.step(FRAME)
    assert step(203, "another") == 7


def test_a_frame_from_before_the_last_is_a_seek_and_nothing_is_lost(clock: Clock, scripted: Stream) -> None:
    scripted.step(Frame(FRAME, 0, clock.now))
    assert scripted.step(Frame(FRAME, 20, clock.now - 1)).reset_reason == "seek"
    assert scripted.latency.lost == 0


def test_the_first_frame_after_a_second_of_nothing_is_on_record_of_its_own(
    clock: Clock, tiny_spec: ModelSpec, tiny_script: Script
) -> None:
    stream = Stream(ScriptedBackend(tiny_spec, tiny_script), rules=StateRules(gap_ms=None))
    for index, (pause, age) in enumerate([(0, 1), (999, 2), (1000, 4), (1, 8), (5000, 16)]):
        clock.now += pause * MS
        stream.step(Frame(FRAME, index, clock.now - age))
    assert [(edge, count) for edge, count in stream.latency.first_after_idle.buckets()] == [(4, 1), (16, 1)]
    assert facts(stream.latency.jitter) == facts(histogram_of([1, 2, 4, 8]))


def test_decisions_a_second_come_from_the_intervals_between_them() -> None:
    recorder = LatencyRecorder()
    assert recorder.fps is None
    recorder.record(10**12, row(0, 5 * MS).timings)
    assert recorder.fps is None
    for at in range(1, 31):
        recorder.record(10**12 + at * 50 * MS, row(0, 5 * MS).timings)
    assert recorder.fps == pytest.approx(20)


def test_two_decisions_at_one_instant_have_no_rate() -> None:
    recorder = LatencyRecorder()
    for _ in range(2):
        recorder.record(10**12, row(0, MS).timings)
    assert recorder.fps is None


def test_predictions_carry_the_times_that_are_on_record(scripted: Stream) -> None:
    found = [scripted.step(pixels).timings for pixels in tiny_frames(40, seed=1)]
    for name in Timings._fields:
        assert facts(scripted.latency.stages[name]) == facts(histogram_of(getattr(each, name) for each in found))


def test_what_a_reader_got_stays_as_it_was_while_frames_go_on() -> None:
    recorder = LatencyRecorder(DEADLINE)
    recorder.record(10**12, row(0, MS).timings)
    histograms = [*recorder.stages.values(), recorder.response, recorder.jitter, recorder.first_after_idle]
    timeline = recorder.timeline
    before, document = [facts(histogram) for histogram in histograms], timeline.document()
    for at in range(1, BATCH + 10):
        recorder.record(10**12 + at * PERIOD, row(0, 40 * MS).timings, 1, IDLE_NS)
    assert recorder.deadline_misses == BATCH + 9
    assert [facts(histogram) for histogram in histograms] == before
    assert timeline.document() == document
