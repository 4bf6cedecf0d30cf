from __future__ import annotations

import gc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import processes
from benchmarks.runtime import cold, command, eight, overhead, paced, recovery, release, retained, show, soak
from benchmarks.runtime.figures import figures
from benchmarks.runtime.slope import slope
from edge_cnnlstm.errors import BackendError, ConfigError
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.stream import Stream

PACED = {"p50_us": 100.0, "p99_us": 300.0, "core_share": 0.02, "samples": 150} | {
    "intervals_ns": [33_000_000, 34_000_000] * 75
}


def named(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {figure.name: figure for figure in figures(rounds)}


def test_a_figure_is_the_median_round_and_its_interval_that_of_seven() -> None:
    answers = [
        {"bare_us": {"p50": 2, "p99": 4}, "step_us": {"p50": 2 + over, "p99": 30}, "copy_us": {"p50": 1}, "samples": 10}
        for over in (9, 5, 30, 9, 9, 9, 9)
    ]
    found = named({"overhead": answers})["step − bare engine call, p50, µs"]
    assert (found.value, found.low, found.high, found.samples) == (9, 5, 30, 70)
    assert found.met


def test_a_pace_is_held_against_the_closed_loop_round_by_round() -> None:
    rounds = {
        "closed": [PACED | {"p50_us": 50.0}] * 6,
        "closed again": [PACED | {"p50_us": 51.0}] * 6,
        "paced ours": [PACED | {"p50_us": value} for value in (60.0, 90.0, 80.0, 80.0, 80.0, 80.0)],
        "paced untuned": [PACED | {"p50_us": 400.0}] * 6,
    }
    found = named(rounds)
    pace = found["paced ÷ closed loop, p50"]
    assert (pace.low, pace.high) == (1.2, 1.8)
    assert found["paced ÷ closed loop, p50"].value == 1.6
    assert found["control: closed loop ÷ itself, p50"].value == 1.02
    assert not found["paced ÷ closed loop, p50"].met
    assert found["paced untuned ÷ closed loop, p50"].goal is None


def test_throughput_and_cold_start_want_much_and_lateness_little() -> None:
    rounds = {
        "8 streams on 1 thread": [{"ratio": 2.5, "samples": 5}],
        "cold ours": [{"seconds": 0.5, "cpu_seconds": 0.4, "bytes": 50}],
        "cold floor": [{"seconds": 0.25, "cpu_seconds": 0.2, "bytes": 40}],
        "cold torch": [{"seconds": 2.0, "cpu_seconds": 1.6, "bytes": 500}],
        "soak": [
            {"late": 0, "dropped": 1, "produced": 600, "seconds": 20, "collector_pause_ms": 0.0, "grown_bytes": 5e5}
            | {"resident": {"seconds": [0.0], "bytes": [1]}, "ages": {"start_s": [0.0], "mean_age_ms": [1.0]}}
        ],
    }
    met = {name: figure.met for name, figure in named(rounds).items() if figure.goal is not None}
    assert met == {
        "8 streams on 1 thread: batched ÷ in turn, throughput": True,
        "torch ÷ ours, time from start to the first answer": False,
        "torch ÷ ours, memory to the first answer": True,
        "frames late or dropped in 20 s at 30 Hz": False,
        "longest collector pause, ms": True,
        "growth of resident memory meanwhile, MB": True,
    }


def test_a_cold_start_is_held_against_torch_and_both_against_what_nobody_can_do_without() -> None:
    started = {"ours": (0.5, 80), "floor": (0.25, 60), "torch": (2.0, 240)}
    rounds = {
        f"cold {name}": [{"seconds": seconds, "cpu_seconds": seconds, "bytes": size}]
        for name, (seconds, size) in started.items()
    }
    found = named(rounds)
    assert found["torch ÷ ours, memory to the first answer"].value == 3
    assert found["torch ÷ floor, time from start to the first answer"].value == 8
    assert found["ours ÷ floor, processor time to the first answer"].goal is None
    assert "torch ÷ ours, memory to the first answer" not in named({"cold ours": rounds["cold ours"]})


def test_jitter_is_the_spread_within_a_round_and_its_p99_needs_two_thousand_intervals() -> None:
    names = ("closed", "closed again", "paced ours", "paced untuned")
    found = named(dict.fromkeys(names, [PACED] * 14))
    assert found["interval between decisions, paced ours, standard deviation, µs"].value == 500
    assert found["interval between decisions, paced ours, p99, ms"].value == 34
    assert found["interval between decisions, paced ours, p99, ms"].samples == 2_100
    assert not any(", p99, ms" in name for name in named({name: [PACED] for name in names}))


def test_a_slope_is_that_of_the_line_and_certain_only_if_nothing_strays() -> None:
    seconds = [0.5 * at for at in range(60)]
    exact = slope(seconds, [7 + 2 * at for at in seconds])
    assert exact is not None
    assert exact.low == pytest.approx(exact.per_minute) == pytest.approx(120)
    noise = np.random.default_rng(0).normal(0, 5, (200, len(seconds)))
    strayed = [found for each in noise if (found := slope(seconds, [2 * at for at in seconds] + each))]
    assert 0.9 <= sum(found.low <= 120 <= found.high for found in strayed) / 200 <= 0.99
    assert slope(seconds[:29], seconds[:29]) is None


def test_a_stream_has_recovered_when_answers_stay_on_time() -> None:
    late, by_chance, stays = (-1.0, 40.0), (1.0, 10.0), [(30.0 + at, 20.0) for at in range(recovery.IN_A_ROW)]
    assert recovery.recovery_ms([late, by_chance, (2.0, 50.0), *stays], 33.3) == 30
    assert recovery.recovery_ms([late, by_chance, (2.0, 50.0), *stays[:-1]], 33.3) is None
    never = {"recovery_ms": None, "dropped": 3, "samples": 9}
    found = named({"recovery step newest": [never, never | {"recovery_ms": 5.0}]})
    assert found["rounds that did not recover from a 500 ms stall of the step, newest"].value == 1
    assert found["frames dropped in a 500 ms stall of the step, newest"].samples == 18


@pytest.mark.parametrize(("stalls", "policy"), [("step", "newest"), ("source", "every")])
def test_a_stall_ages_what_waits_for_it_and_only_the_newest_policy_drops(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, stalls: str, policy: str
) -> None:
    monkeypatch.setattr(recovery, "RATE", 100.0)
    monkeypatch.setattr(recovery, "STALL_S", 0.1)
    found = recovery.main(str(tiny_bundle), "onnxruntime", "tiny", stalls, policy)
    assert found["samples"] + found["dropped"] == recovery.FRAMES
    assert max(age for _, age in found["answers"]) >= 90
    assert (found["dropped"] > 0) == (policy == "newest")


def test_the_section_draws_what_was_measured() -> None:
    answers = [{"answers": [(-30.0, 1.0), (0.5, 501.0), (30.0, 1.0)]}]
    soaked = {"resident": {"seconds": [0.0, 0.5], "bytes": [1, 5000]}}
    drawn = show.pictures({"recovery step newest": answers, "recovery source every": answers, "soak": [soaked]})
    assert [picture.png[:4] for picture in drawn] == [b"\x89PNG"] * 2
    assert show.pictures({"overhead": []}) == []


def test_what_was_not_measured_has_no_figure() -> None:
    assert figures({}) == []


def test_measurements_take_turns_in_an_order_drawn_each_round_and_the_long_ones_one_turn_only() -> None:
    taken: list[str] = []

    def measurement(name: str) -> dict[str, Any]:
        taken.append(name)
        return {}

    names = ("overhead", "closed", "cold ours", "soak")
    asked: Any = {name: partial(measurement, name) for name in names}
    found, order = command._measure(asked, 8, seed=0)
    assert taken == [name for one_round in order for name in one_round]
    assert {name: len(answers) for name, answers in found.items()} == dict.fromkeys(names, 8) | {"soak": 1}
    assert len({tuple(one_round) for one_round in order[1:]}) > 1
    assert command._measure(asked, 8, seed=0)[1] == order


def test_the_command_that_repeats_a_run_names_no_folder() -> None:
    words = command.words(("cold", "soak"), Path("/secret/checkpoint"), 3, 120, seed=0)
    assert " ".join(words) == "--suite cold --suite soak --checkpoint checkpoint --rounds 3 --soak 120 --seed 0"


def test_an_unknown_suite_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="suite 'warmth'"):
        command.runtime(tiny_bundle, suites=["warmth"])


def test_the_network_of_eight_numbers_remembers() -> None:
    stream = Stream(OnnxRuntimeBackend(eight.graph(), eight.SPEC))
    pixels = np.full((1, 1, 3), 4, np.uint8)
    assert [stream.step(pixels).classification.logits[0] for _ in range(3)] == [4, 6, 7]


def test_overhead_answers_with_both_sides_and_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "CALLS", 20)
    monkeypatch.setattr(overhead, "TURNS", 2)
    found = overhead.main()
    assert found["samples"] == 40
    assert all(0 < found[side]["p50"] <= found[side]["p99"] for side in ("bare_us", "step_us", "copy_us"))


def test_a_release_is_never_early() -> None:
    found = release.main("spun", "25")
    assert found["samples"] == 25
    assert 0 <= found["p50"] <= found["p99"] <= found["p99_9"] <= found["p100"]


@pytest.mark.parametrize("kind", ["closed", "ours", "untuned"])
def test_every_pace_times_every_frame_after_the_warm_up(
    tiny_bundle: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced, "RATE", 200.0)
    monkeypatch.setattr(paced, "CLOSED_TIMES", 1)
    frames = 200  # a fifth of a second, of which a busy machine gives us a part
    found = paced.main(str(tiny_bundle), kind, "onnxruntime", "tiny", str(frames))
    dropped = frames - found["samples"]
    assert dropped == 0 or (kind != "closed" and 0 < dropped < frames)
    assert found["core_share"] > 0


def test_a_soak_counts_every_frame_and_hears_the_collector(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "RATE", 500.0)
    monkeypatch.setattr(soak, "OBJECTS", 1000)
    before = list(gc.callbacks)
    found = soak.main(str(tiny_bundle), "onnxruntime", "tiny", "0.8")
    gc.callbacks[:] = before
    assert found["produced"] == 400
    assert found["objects"] == 1000
    assert found["collector_pause_ms"] == 0  # none while it streamed
    assert found["collections"] >= 1  # the one before


def test_nothing_is_retained(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = retained.main(str(tiny_bundle), "onnxruntime", "tiny", "100")
    assert found["samples"] == 100
    assert abs(found["retained_bytes_a_frame"]) < 1


def test_a_process_answers_with_json_and_a_failure_with_its_last_words() -> None:
    assert processes.run("benchmarks.runtime.release", "slept", 3)["samples"] == 3
    with pytest.raises(BackendError, match="release slept x ended with exit code 1: ValueError"):
        processes.run("benchmarks.runtime.release", "slept", "x")


def test_a_cold_start_is_timed_from_outside() -> None:
    found = cold.start("import sys; sys.exit(0)")
    assert found["seconds"] > 0
    assert found["bytes"] > 1_000_000
    with pytest.raises(RuntimeError, match="status"):
        cold.start("import sys; sys.exit(3)")
