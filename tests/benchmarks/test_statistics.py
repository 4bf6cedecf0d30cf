"""Holds what samples are said to say."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.statistics import SAMPLES_FOR, dependable, interval, percentile


def test_a_percentile_is_the_smallest_sample_that_so_many_do_not_exceed() -> None:
    samples = list(range(1, 101))
    assert [percentile(samples, percent) for percent in (1, 50, 99, 99.9, 100)] == [1, 50, 99, 100, 100]


def test_fewer_than_six_rounds_have_no_interval_and_seven_their_whole_range() -> None:
    rounds = [3.0, 1.0, 2.0, 5.0, 4.0]
    assert interval(rounds) is None
    assert interval([*rounds, 6.0]) == (1, 6)
    assert interval([*rounds, 6.0, 0.0]) == (0, 6)


def test_many_rounds_lose_their_extremes() -> None:
    # Of 20 values the sixth and the fifteenth enclose the median at 95.9 %, the seventh and fourteenth at 88.5 % only.
    assert interval([float(value) for value in range(1, 21)]) == (6, 15)


@pytest.mark.parametrize("count", [7, 20])
def test_the_interval_holds_the_median_as_often_as_it_says(count: int) -> None:
    draw = np.random.default_rng(0)
    found = [interval(draw.exponential(size=count).tolist()) for _ in range(2_000)]
    held = [low <= np.log(2) <= high for low, high in filter(None, found)]
    assert len(held) == 2_000
    assert 0.945 < np.mean(held) <= 1


def test_a_tail_needs_the_samples_of_its_early_stopping() -> None:
    assert dependable([0], "p50")
    for tail, least in SAMPLES_FOR.items():
        assert dependable([0] * least, tail)
        assert not dependable([0] * (least - 1), tail)
