from __future__ import annotations

import itertools
import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.telemetry import Reading, Sample, Telemetry
from edge_cnnlstm.runtime.telemetry import recorder as recorder_module
from edge_cnnlstm.runtime.telemetry.history import History
from edge_cnnlstm.runtime.telemetry.jetson import Jetson
from edge_cnnlstm.runtime.telemetry.linux import Linux
from edge_cnnlstm.runtime.telemetry.sample import merge
from tests.runtime.telemetry.roots import ORIN_JP6, build, change

S = 1_000_000_000
FOREVER_S = 3600.0
PATIENCE_S = 10.0


class Scripted:
    """A source that answers from a script, and says when the script has been read to its end."""

    name = "scripted"

    def __init__(self, *script: Reading | Exception | None, close_error: Exception | None = None) -> None:
        self.script = list(script)
        self.close_error = close_error
        self.reads = 0
        self.closed = 0
        self.done = threading.Event()

    def read(self) -> Reading:
        answer = self.script[min(self.reads, len(self.script) - 1)]
        self.reads += 1
        if self.reads >= len(self.script):
            self.done.set()
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value] # a broken source may give None

    def close(self) -> None:
        self.closed += 1
        if self.close_error:
            raise self.close_error


def counter(count: int) -> Reading:
    return Reading(throttle={"oc3": count})


def finding(source: Scripted) -> dict[str, Callable[[], Scripted]]:
    return {source.name: lambda: source}


def test_the_first_sample_is_taken_at_the_start_and_the_last_at_the_end() -> None:
    source = Scripted(counter(5), counter(9))
    with Telemetry(FOREVER_S, sources=finding(source)) as telemetry:
        assert [sample.throttle for sample in telemetry.samples] == [{"oc3": 5}]
    assert [sample.throttle for sample in telemetry.samples] == [{"oc3": 5}, {"oc3": 9}]
    assert telemetry.reasons == ["oc3 (instantaneous over-current) rose by 4"]
    assert source.closed == 1


def test_samples_go_on_in_between_in_order() -> None:
    source = Scripted(*(counter(5) for _ in range(20)))
    with Telemetry(0.001, sources=finding(source)) as telemetry:
        assert source.done.wait(PATIENCE_S)
    times = [sample.taken_ns for sample in telemetry.samples]
    assert len(times) == source.reads >= 20
    assert times == sorted(times)
    assert telemetry.document()["verdict"] == {"valid": True, "reasons": []}


def test_starting_and_stopping_twice_is_once() -> None:
    source = Scripted(counter(0))
    telemetry = Telemetry(FOREVER_S, sources=finding(source))
    telemetry.stop()
    telemetry.start()
    telemetry.start()
    telemetry.stop()
    telemetry.stop()
    assert (source.reads, source.closed) == (2, 1)


def test_it_can_be_started_again_and_goes_on_where_it_was() -> None:
    source = Scripted(counter(1), counter(1), counter(2), counter(2))
    telemetry = Telemetry(FOREVER_S, sources=finding(source))
    for _ in range(2):
        with telemetry:
            pass
    assert len(telemetry.samples) == 4
    assert telemetry.document()["sources"] == ["scripted"]
    assert telemetry.reasons == ["oc3 (instantaneous over-current) rose by 1"]


def test_an_error_in_the_stream_comes_out_unchanged() -> None:
    with pytest.raises(KeyError), Telemetry(FOREVER_S, sources=finding(Scripted(counter(0)))):
        raise KeyError


def test_a_source_that_fails_is_dropped_with_one_line(caplog: pytest.LogCaptureFixture) -> None:
    broken = Scripted(counter(1), OSError("gone"), close_error=OSError("still gone"))
    broken.name = "broken"
    good = Scripted(*(Reading(clocks_mhz={"cpu": 1}) for _ in range(5)))
    with (
        caplog.at_level(logging.DEBUG, "edge_cnnlstm"),
        Telemetry(0.001, sources={**finding(broken), **finding(good)}) as telemetry,
    ):
        assert good.done.wait(PATIENCE_S)
    assert [record.getMessage() for record in caplog.records] == ["telemetry goes on without broken: gone"]
    assert (broken.reads, broken.closed) == (2, 1)
    document = telemetry.document()
    assert (document["sources"], document["dropped"]) == (["broken", "scripted"], {"broken": "OSError: gone"})
    # Nobody watched the counter to the end, so nobody may call the run valid.
    assert document["verdict"] == {"valid": None, "reasons": []}
    assert document["series"]["throttle"]["oc3"][:3] == [1, None, None]


def test_a_source_that_cannot_even_be_looked_for_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def look() -> None:
        raise RuntimeError("no bus")

    with Telemetry(FOREVER_S, sources={"bad": look, **finding(Scripted(counter(0)))}) as telemetry:
        pass
    assert [record.getMessage() for record in caplog.records] == ["telemetry goes on without bad: no bus"]
    assert telemetry.document()["sources"] == ["scripted"]


def test_a_source_that_answers_nothing_at_all_is_dropped() -> None:
    source = Scripted(counter(0), None)
    with Telemetry(FOREVER_S, sources=finding(source)) as telemetry:
        pass
    assert len(telemetry.samples) == 1


def test_a_machine_without_sources_has_an_empty_document() -> None:
    with Telemetry(0.001, sources={"none": lambda: None}) as telemetry:
        pass
    document = json.loads(json.dumps(telemetry.document(), allow_nan=False))
    assert document["sources"] == document["times_s"] == document["power_mode"] == []
    assert document["started_ns"] is None
    assert document["verdict"] == {"valid": None, "reasons": []}
    assert document["series"]["power_mw"] == {}


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_an_interval_must_be_one(interval: float) -> None:
    with pytest.raises(ConfigError):
        Telemetry(interval)


def test_a_source_that_hangs_holds_up_neither_start_nor_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "PATIENCE_SECONDS", 0.01)
    release = threading.Event()

    class Hanging(Scripted):
        def read(self) -> Reading:
            release.wait()
            return super().read()

    telemetry = Telemetry(FOREVER_S, sources=finding(Hanging(counter(0))))
    telemetry.start()
    assert telemetry.samples == []
    telemetry.stop()
    assert telemetry.document()["verdict"]["valid"] is None
    release.set()
    monkeypatch.undo()
    telemetry.stop()
    assert len(telemetry.samples) == 2


def test_the_document_is_columns_with_none_for_what_is_unknown() -> None:
    telemetry = Telemetry(2.0, sources={})
    telemetry.record(Sample(taken_ns=5 * S, power_mw={"VDD_IN": 7524.00049}, power_mode="15W"))
    telemetry.record(Sample(taken_ns=7 * S + 1, clocks_mhz={"gpu": 0.0}, trips_c={"tj": 99.0}))
    document = json.loads(json.dumps(telemetry.document(), allow_nan=False))
    assert document["times_s"] == [0.0, 2.0]
    assert (document["started_ns"], document["interval_s"], document["samples_taken"]) == (5 * S, 2.0, 2)
    assert document["series"]["power_mw"] == {"VDD_IN": [7524.0, None]}
    assert document["series"]["clocks_mhz"] == {"gpu": [None, 0.0]}
    assert document["power_mode"] == ["15W", None]
    assert document["trips_c"] == {"tj": 99.0}


def test_sources_are_merged_and_the_earlier_is_believed() -> None:
    first = Reading(clocks_mhz={"gpu": 1300}, power_mode="15W", trips_c={"tj": 99})
    second = Reading(clocks_mhz={"gpu": 7, "emc": 3199}, power_mode="25W", throttle={"oc1": 1})
    assert merge(3, [Reading(), first, second]) == Sample(
        taken_ns=3,
        clocks_mhz={"gpu": 1300, "emc": 3199},
        power_mode="15W",
        trips_c={"tj": 99},
        throttle={"oc1": 1},
    )


def test_a_jetson_from_root_to_verdict(tmp_path: Path) -> None:
    root = build(tmp_path, ORIN_JP6)
    sources = {"jetson": lambda: Jetson.find(root), "linux": lambda: Linux.find(root)}
    with Telemetry(FOREVER_S, sources=sources) as telemetry:
        change(root, "sys/class/hwmon/hwmon3/oc1_event_cnt", "2")
    document = telemetry.document()
    assert document["sources"] == ["jetson", "linux"]
    assert document["series"]["clocks_mhz"] == {"cpu": [1728.0, 1728.0], "gpu": [1020.0, 1020.0]}
    assert document["power_mode"] == ["MAXN_SUPER", "MAXN_SUPER"]
    assert document["verdict"] == {"valid": False, "reasons": ["oc1 (under-voltage) rose by 2"]}


def test_memory_is_bounded_over_a_million_samples() -> None:
    history = History(100)
    add: Callable[[Any], None] = history.add  # a million whole samples take seconds to make
    for index in range(1_000_000):
        add(index)
        assert len(history._kept) <= 100
    taken: list[Any] = list(history.samples)
    assert (taken[0], taken[-1], history.count) == (0, 999_999, 1_000_000)
    assert 50 <= len(taken) <= 101
    assert {later - earlier for earlier, later in itertools.pairwise(taken[:-1])} == {2**14}


def test_an_event_outlives_the_samples_that_showed_it() -> None:
    telemetry = Telemetry(sources={}, capacity=8)
    clocks = [1300.0] * 500 + [600.0] * 2 + [1300.0] * 20_000
    for index, clock in enumerate(clocks):
        hot = {"temperatures_c": {"tj": 98.0}, "trips_c": {"tj": 99.0}, "clocks_mhz": {"gpu": clock}}
        telemetry.record(Sample(taken_ns=index * S, throttle={"oc3": int(index == 777)}, **hot))
    assert telemetry.document()["series"]["clocks_mhz"] == {"gpu": [1300.0] * len(telemetry.samples)}
    assert len(telemetry.samples) <= 9
    assert telemetry.reasons == [
        "oc3 (instantaneous over-current) rose by 1",
        "the gpu clock fell from 1300 to 600 MHz while tj was at 98 °C of 99 °C",
    ]


@pytest.mark.parametrize("capacity", [2, 3, 7, 64])
def test_the_history_is_even_at_every_length(capacity: int) -> None:
    history = History(capacity)
    assert history.samples == []
    for count in range(1, 300):
        history.add(Sample(taken_ns=count - 1))
        taken = [sample.taken_ns for sample in history.samples]
        gaps = {later - earlier for earlier, later in itertools.pairwise(taken[:-1])}
        assert len(taken) <= capacity + 1
        assert (taken[0], taken[-1], history.count) == (0, count - 1, count)
        assert len(gaps) <= 1
        assert count > capacity or taken == list(range(count))
