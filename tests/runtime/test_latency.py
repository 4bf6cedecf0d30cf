from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import Script, ScriptedBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.histogram import RELATIVE_ERROR, Histogram, Summary
from edge_cnnlstm.runtime.latency import LatencyRecorder, Timings
from edge_cnnlstm.runtime.sources.array import ArraySource
from edge_cnnlstm.runtime.stream import WARM_UP_STEPS, Stream
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames
from tests.runtime.doubles import MS, Clock

HOUR = 3600 * 1000 * MS


def filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("count", [1, 2, 10, 999, 1000, 5000])
def test_percentiles_agree_with_the_sorted_values_on_heavy_tails(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    values = (generator.pareto(1.1, count) * MS + generator.integers(0, 300, count)).astype(np.int64)
    histogram = filled(values.tolist())
    ordered = np.sort(values).tolist()
    for percent in ("0", "1", "25", "50", "90", "99", "99.9", "100"):
        # The exact rank: in floating point, 99.9 % of 1,000 is already a hair above 999.
        true = ordered[max(1, math.ceil(count * Fraction(percent) / 100)) - 1]
        assert true <= histogram.percentile(float(percent)) <= true * (1 + RELATIVE_ERROR), percent


def test_small_values_are_exact() -> None:
    histogram = filled(list(range(256)))
    assert [histogram.percentile(100 * (value + 1) / 256) for value in range(256)] == list(range(256))


@pytest.mark.parametrize("power", range(1, 62))
def test_every_power_of_two_and_its_neighbours_are_within_the_error(power: int) -> None:
    for value in (2**power - 1, 2**power, 2**power + 1, 3 * 2 ** (power - 1)):
        histogram = filled([value, 2**62])
        assert value <= histogram.percentile(50) <= value * (1 + RELATIVE_ERROR)


def test_buckets_touch_and_never_overlap() -> None:
    edges = [edge for edge, _ in filled(list(range(5000))).buckets()]
    assert edges == sorted(set(edges))
    counts = dict(filled(list(range(5000))).buckets())
    assert sum(counts.values()) == 5000
    covered = -1
    for edge, count in counts.items():
        inside = min(edge, 4999) - covered
        assert count == inside
        covered = edge


def test_the_maximum_is_exact_and_bounds_the_percentiles() -> None:
    histogram = filled([7 * HOUR + 123_456_789, 5])
    assert histogram.maximum == 7 * HOUR + 123_456_789
    assert histogram.percentile(100) == histogram.maximum
    assert histogram.percentile(99.9) == histogram.maximum
    assert histogram.percentile(50) == 5


def test_totals_and_counts_are_exact() -> None:
    values = [0, 1, 255, 256, 257, 10**9, 48 * HOUR]
    histogram = filled(values)
    assert (histogram.count, histogram.total) == (len(values), sum(values))


def test_an_empty_histogram_knows_nothing() -> None:
    histogram = Histogram()
    assert math.isnan(histogram.percentile(50))
    assert histogram.buckets() == []
    assert (histogram.count, histogram.maximum) == (0, 0)


def test_zero_and_negative_values_count_as_zero() -> None:
    histogram = filled([0, -5, 0])
    assert histogram.buckets() == [(0, 3)]
    assert histogram.percentile(99) == 0
    assert histogram.total == 0


def test_centuries_fit() -> None:
    assert filled([2**63 - 1]).percentile(50) == float(2**63 - 1)


def timings(age: int) -> Timings:
    return Timings(wait=age - 3, fit=1, infer=1, decode=1, age=age)


def test_misses_and_their_longest_burst_are_counted() -> None:
    recorder = LatencyRecorder(deadline_ns=33 * MS)
    for age in (10, 34, 35, 33, 40, 41, 42, 1, 50):
        recorder.record(0, timings(age * MS))
    assert recorder.deadline_misses == 6
    assert recorder.longest_miss_burst == 3


def test_the_deadline_itself_is_in_time() -> None:
    recorder = LatencyRecorder(deadline_ns=33 * MS)
    recorder.record(0, timings(33 * MS))
    assert recorder.deadline_misses == 0
    recorder.record(0, timings(33 * MS + 1))
    assert recorder.deadline_misses == 1


def test_without_a_deadline_nothing_is_missed() -> None:
    recorder = LatencyRecorder()
    recorder.record(0, timings(HOUR))
    assert (recorder.deadline_misses, recorder.longest_miss_burst) == (0, 0)


def test_the_summary_is_in_milliseconds() -> None:
    recorder = LatencyRecorder()
    for age in (1, 2, 3, 4):
        recorder.record(0, Timings(wait=0, fit=0, infer=age * MS, decode=0, age=age * MS))
    infer = recorder.summary()["infer"]
    assert infer.p50 == pytest.approx(2, rel=RELATIVE_ERROR)
    assert (infer.max, infer.mean) == (4.0, 2.5)
    assert infer.p99 == infer.p99_9 == 4.0


def test_the_summary_of_nothing_is_nothing() -> None:
    assert LatencyRecorder().summary() == dict.fromkeys((*Timings._fields, "response"), Summary())
    assert Summary().p50 is None


def test_a_stall_ages_every_frame_that_it_delayed(clock: Clock, tiny_spec: ModelSpec, tiny_script: Script) -> None:
    steps = 0

    def script(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        nonlocal steps
        clock.now += (200 if steps == WARM_UP_STEPS + 10 else 2) * MS
        steps += 1
        return tiny_script(pixels, state)

    stream = Stream(ScriptedBackend(tiny_spec, script), deadline_ms=1000 / 30)
    source = ArraySource(list(tiny_frames(30, seed=1)), rate=30)
    start = 0
    ages: list[float] = []
    for frame in source:
        start = frame.captured_ns if frame.index == 0 else start
        assert frame.captured_ns == start + round(frame.index * 1e9 / 30)
        ages.append(stream.step(frame).timings.age / MS)

    free, expected = 0.0, []
    for index in range(30):
        due = index * 1000 / 30
        free = max(due, free) + (200 if index == 10 else 2)
        expected.append(free - due)
    assert ages == pytest.approx(expected, abs=0.001)
    late = sum(age > 1000 / 30 for age in expected)
    assert late >= 5
    assert stream.latency.deadline_misses == stream.latency.longest_miss_burst == late
    assert stream.latency.stages["infer"].percentile(90) < 3 * MS  # what a closed loop would have reported
    assert stream.latency.stages["age"].percentile(90) > 100 * MS
