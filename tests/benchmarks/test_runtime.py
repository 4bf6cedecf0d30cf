from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import processes
from benchmarks.runtime import cold, command, eight, overhead, paced, release, retained, soak
from benchmarks.runtime.figures import figures
from edge_cnnlstm.errors import BackendError, ConfigError
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.stream import Stream

PACED = {"p50_us": 100.0, "p99_us": 300.0, "core_share": 0.02, "samples": 150}


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


def test_ours_is_held_against_the_best_peer_round_by_round() -> None:
    rounds = {
        "closed": [PACED | {"p50_us": 50.0}] * 6,
        "paced ours": [PACED | {"p50_us": value} for value in (60.0, 90.0, 80.0, 80.0, 80.0, 80.0)],
        "paced untuned": [PACED | {"p50_us": 400.0}] * 6,
        "paced peer onnxruntime fp32": [PACED | {"p50_us": 900.0}] * 6,
        "paced peer openvino fp32": [PACED | {"p50_us": value} for value in (300.0, 300.0, 400.0, 400.0, 400.0, 400.0)],
    }
    found = named(rounds)
    best = found["ours paced ÷ best peer paced (openvino fp32), p50"]
    assert (best.value, best.low, best.high) == (0.2, 0.2, 0.3)
    assert best.met
    assert found["paced ÷ closed loop, p50"].value == 1.6
    assert not found["paced ÷ closed loop, p50"].met
    assert found["paced untuned ÷ closed loop, p50"].goal is None


def test_throughput_and_cold_start_want_much_and_lateness_little() -> None:
    rounds = {
        "8 streams on 1 thread": [{"ratio": 2.5, "samples": 5}],
        "cold ours": [{"seconds": 0.5, "bytes": 50}],
        "cold torch": [{"seconds": 2.0, "bytes": 500}],
        "soak": [
            {"late": 0, "dropped": 1, "produced": 600, "seconds": 20, "collector_pause_ms": 0.0, "grown_bytes": 5e5}
        ],
    }
    met = {name: figure.met for name, figure in named(rounds).items()}
    assert met == {
        "8 streams on 1 thread: batched ÷ in turn, throughput": True,
        "torch ÷ ours, time from start to the first answer": False,
        "torch ÷ ours, memory to the first answer": True,
        "frames late or dropped in 20 s at 30 Hz": False,
        "longest collector pause, ms": True,
        "growth of resident memory meanwhile, MB": True,
    }


def test_what_was_not_measured_has_no_figure() -> None:
    assert figures({}) == []


def test_measurements_take_turns_in_both_directions_and_the_long_ones_one_turn_only() -> None:
    order: list[str] = []

    def measurement(name: str) -> dict[str, Any]:
        order.append(name)
        return {}

    names = ("overhead", "closed", "soak")
    found = command._measure({name: lambda name=name: measurement(name) for name in names}, 3)  # type: ignore[misc]
    assert order == ["overhead", "closed", "soak", "closed", "overhead", "overhead", "closed"]
    assert {name: len(answers) for name, answers in found.items()} == {"overhead": 3, "closed": 3, "soak": 1}


def test_the_command_that_repeats_a_run_names_no_folder() -> None:
    words = command.words(("cold", "soak"), Path("/secret/checkpoint"), 3, 120)
    assert " ".join(words) == "--suite cold --suite soak --checkpoint checkpoint --rounds 3 --soak 120"


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


@pytest.mark.parametrize("kind", ["closed", "ours", "untuned", "peer"])
def test_every_pace_times_every_frame_after_the_warm_up(
    tiny_bundle: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paced, "RATE", 1000.0)
    monkeypatch.setattr(paced, "CLOSED_TIMES", 1)
    frames = 200  # a fifth of a second, of which a busy machine gives us a part
    found = paced.main(str(tiny_bundle), kind, "onnxruntime", "tiny", str(frames))
    dropped = frames - found["samples"]
    assert dropped == 0 or (kind in ("ours", "untuned") and 0 < dropped < frames)
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
