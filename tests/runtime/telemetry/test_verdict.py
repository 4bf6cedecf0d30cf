from __future__ import annotations

from typing import Any

import pytest

from edge_cnnlstm.runtime.telemetry.counters import Rises, rise
from edge_cnnlstm.runtime.telemetry.sample import Sample
from edge_cnnlstm.runtime.telemetry.verdict import Judge, throttled

S = 1_000_000_000


def samples(*fields: dict[str, Any]) -> list[Sample]:
    return [Sample(taken_ns=index * S, **values) for index, values in enumerate(fields)]


def counts(*values: int | None, name: str = "oc3") -> list[Sample]:
    return samples(*({} if value is None else {"throttle": {name: value}} for value in values))


def clocks(*pairs: tuple[float | None, float], unit: str = "gpu", zone: str = "tj", trip: float = 99) -> list[Sample]:
    return samples(
        *(
            {
                "clocks_mhz": {} if clock is None else {unit: clock},
                "temperatures_c": {zone: celsius},
                "trips_c": {zone: trip},
            }
            for clock, celsius in pairs
        )
    )


def valid(taken: list[Sample]) -> bool | None:
    judge = Judge()
    for sample in taken:
        judge.add(sample)
    return judge.valid


def test_counters_that_stand_still_are_valid_however_high_they_are() -> None:
    assert throttled(counts(27390, 27390, 27390)) == []
    assert valid(counts(27390, 27390)) is True


@pytest.mark.parametrize("name", ["oc1", "oc2", "oc3", "core_throttle", "hw_thermal_slowdown", "oc9"])
def test_a_counter_that_rises_is_seen_at_once(name: str) -> None:
    (reason,) = throttled(counts(27390, 27391, name=name))
    assert reason.startswith(f"{name} (")
    assert reason.endswith("rose by 1")
    assert valid(counts(0, 1, name=name)) is False


def test_a_rise_is_not_forgotten() -> None:
    assert throttled(counts(5, 5, 7, 7, 7, 8)) == ["oc3 (instantaneous over-current) rose by 3"]
    assert throttled(counts(5, 7, 0, 0)) == ["oc3 (instantaneous over-current) rose by 2"]


def test_a_counter_that_began_again_is_no_event_but_what_follows_is() -> None:
    assert throttled(counts(27390, 0, 0)) == []
    assert throttled(counts(27390, 3, 3)) == []
    assert throttled(counts(27390, 0, 2)) == ["oc3 (instantaneous over-current) rose by 2"]


def test_a_counter_that_wraps_counts_on() -> None:
    assert throttled(counts(2**32 - 2, 1)) == ["oc3 (instantaneous over-current) rose by 3"]


def test_a_counter_that_is_unknown_for_a_while_is_compared_with_its_last_value() -> None:
    assert throttled(counts(5, None, None, 5)) == []
    assert throttled(counts(5, None, 6)) == ["oc3 (instantaneous over-current) rose by 1"]
    assert throttled(counts(None, 6, 6)) == []


@pytest.mark.parametrize(
    "taken", [counts(), counts(None, None), counts(5), counts(5, 5, None), clocks((1300, 50), (1300, 50))]
)
def test_what_nobody_watched_is_not_called_valid(taken: list[Sample]) -> None:
    assert throttled(taken) == []
    assert valid(taken) is None


def test_a_clock_that_falls_in_the_heat_is_flagged_within_two_samples() -> None:
    taken = clocks((306, 60), (1300, 90), (1300, 97), (600, 98.5), (600, 98.5))
    assert throttled(taken[:4]) == []
    assert throttled(taken) == ["the gpu clock fell from 1300 to 600 MHz while tj was at 98.5 °C of 99 °C"]


@pytest.mark.parametrize(
    "taken",
    [
        clocks((1300, 60), (306, 60), (306, 60), (306, 60)),  # idle and cool
        clocks((1300, 93.9), (306, 93.9), (306, 93.9)),  # not near enough
        clocks((1300, 98), (1100, 98), (1100, 98)),  # hot, but still fast
        clocks((1300, 98), (600, 98), (1300, 98), (600, 98)),  # never twice in a row
        clocks((1300, 98), (None, 98), (None, 98)),  # the clock is unknown
        clocks((600, 98), (600, 98), (1300, 98)),  # slow from the start, then fast
        clocks((1300, 80), (300, 80), (300, 80), zone="nvme", trip=80),  # a hot disk slows no GPU
        clocks((1300, 98), (300, 98), (300, 98), unit="memory"),
    ],
)
def test_ordinary_changes_of_speed_are_not_throttling(taken: list[Sample]) -> None:
    assert throttled(taken) == []


def test_an_unknown_clock_in_between_does_not_hide_a_fallen_one() -> None:
    taken = clocks((1728, 99), (800, 99), (None, 99), (800, 99), unit="cpu", zone="cpu")
    assert throttled(taken) == ["the cpu clock fell from 1728 to 800 MHz while cpu was at 99 °C of 99 °C"]


def test_a_zone_whose_temperature_is_unknown_explains_nothing() -> None:
    fields = [{"clocks_mhz": {"gpu": clock}, "trips_c": {"tj": 99.0}} for clock in (1300, 300, 300)]
    assert throttled(samples(*fields)) == []


@pytest.mark.parametrize(
    ("before", "now", "events"),
    [(0, 0, 0), (5, 9, 4), (9, 5, 0), (2**32 - 1, 0, 1), (2**31, 5, 0), (2**40, 5, 0), (2**64, 2**64 + 1, 1)],
)
def test_a_rise_is_never_negative(before: int, now: int, events: int) -> None:
    assert rise(before, now) == events


def test_rises_add_up_over_counters() -> None:
    rises = Rises()
    for values in ({"a": 10, "b": 3}, {"a": 12}, {"a": 12, "b": 4}, {"a": 0, "b": 4}, {"a": 1, "c": 99}):
        rises.add(values)
    assert (rises.by_name, rises.total) == ({"a": 3, "b": 1, "c": 0}, 4)
