"""A run of any length in the same memory, and nothing that happened in it is left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_cnnlstm.runtime.timeline import BINS, FIRST_WIDTH_NS, Timeline
from tests.runtime.doubles import MS

START = 10**12
LISTS = ("start_s", "frames", "mean_age_ms", "max_age_ms", "late", "lost")


def add(timeline: Timeline, decided: NDArray[np.int64], age: int = MS, *, late: bool = False, lost: int = 0) -> None:
    each = np.ones(len(decided), np.int64)
    timeline.add(decided, age * each, np.full(len(decided), late), lost * each)


def total_age_ms(document: dict[str, Any]) -> float:
    return float(np.dot(document["frames"], document["mean_age_ms"]))


@given(
    st.lists(st.lists(st.integers(0, 40 * 10**9), min_size=1, max_size=8), min_size=1, max_size=30),
    st.data(),
)
def test_totals_survive_any_number_of_halvings(batches: list[list[int]], data: st.DataObject) -> None:
    timeline, now = Timeline(), START
    frames = late = lost = oldest = 0
    ages = 0
    for pauses in batches:
        decided = now + np.cumsum(pauses)
        now = int(decided[-1])
        rows = st.lists(st.tuples(st.integers(0, 10**10), st.booleans(), st.integers(0, 9)))
        values = data.draw(st.just([]) if not pauses else rows.filter(lambda rows: len(rows) >= 1))
        values = (values * len(pauses))[: len(pauses)]
        old, slow, gone = (np.array(column) for column in zip(*values, strict=True))
        timeline.add(decided, old.astype(np.int64), slow.astype(np.bool_), gone.astype(np.int64))
        frames, late, lost = frames + len(pauses), late + int(slow.sum()), lost + int(gone.sum())
        ages, oldest = ages + int(old.sum()), max(oldest, int(old.max()))
    document = timeline.document()
    assert {len(document[name]) for name in LISTS} == {len(document["frames"])}
    assert (sum(document["frames"]), sum(document["late"]), sum(document["lost"])) == (frames, late, lost)
    assert max(document["max_age_ms"]) == pytest.approx(oldest / 1e6, abs=1e-4)
    assert total_age_ms(document) == pytest.approx(ages / 1e6, abs=1e-4 * frames)
    assert document["start_s"] == sorted(set(document["start_s"]))
    width = document["width_s"]
    assert timeline.start_ns == START + batches[0][0]
    assert (now - timeline.start_ns) / 1e9 < BINS * width
    assert np.log2(width / (FIRST_WIDTH_NS / 1e9)) % 1 == 0


def test_a_minute_is_told_in_tenths_of_a_second_and_an_hour_in_ten_seconds_or_so() -> None:
    timeline = Timeline()
    for second in range(59):
        add(timeline, START + second * 10**9 + np.arange(30) * (10**9 // 30))
    assert timeline.document()["width_s"] == 0.1
    for second in range(59, 3600):
        add(timeline, START + second * 10**9 + np.arange(30) * (10**9 // 30))
    document = timeline.document()
    assert document["width_s"] == 6.4
    assert sum(document["frames"]) == 3600 * 30
    assert max(document["frames"]) in (192, 193)


def test_what_happened_stays_in_its_stretch() -> None:
    timeline = Timeline()
    add(timeline, np.array([START]))
    add(timeline, np.array([START + 30 * 10**9]), 50 * MS, late=True, lost=3)
    add(timeline, np.array([START + 100 * 10**9]))
    document = timeline.document()
    at = document["late"].index(1)
    assert document["start_s"][at] <= 30 < document["start_s"][at] + document["width_s"]
    assert (document["max_age_ms"][at], document["mean_age_ms"][at], document["lost"][at]) == (50.0, 50.0, 3)
    assert document["frames"] == [1, 1, 1]


def test_a_first_frame_by_a_wrong_clock_does_not_make_the_run_one_stretch() -> None:
    timeline = Timeline()
    add(timeline, np.array([START]), 10 * 365 * 86400 * 10**9)
    add(timeline, START + np.arange(1, 30) * 10**9)
    assert timeline.document()["width_s"] == 0.1
    assert len(timeline.document()["frames"]) == 30


def test_ages_by_a_wrong_clock_do_not_overflow() -> None:
    timeline = Timeline()
    add(timeline, np.full(1000, START), 10 * 365 * 86400 * 10**9)
    assert timeline.document()["mean_age_ms"] == [pytest.approx(10 * 365 * 86400 * 1e3)]


def test_memory_is_constant() -> None:
    timeline = Timeline()

    def held() -> int:
        return sum(value.nbytes for value in vars(timeline).values() if isinstance(value, np.ndarray))

    before = held()
    for day in range(400):
        add(timeline, np.array([START + day * 86400 * 10**9]))
        assert held() == before
    assert len(timeline.document()["frames"]) <= BINS


def test_nothing_happened_in_no_time() -> None:
    document = Timeline().document()
    assert all(document[name] == [] for name in LISTS)
