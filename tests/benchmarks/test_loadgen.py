from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.loadgen import accuracy, overhead, run, scenario, summary
from benchmarks.loadgen.command import loadgen, words
from benchmarks.loadgen.figures import figures
from benchmarks.loadgen.library import Library
from benchmarks.loadgen.package import load_loadgen
from benchmarks.loadgen.plan import Plan
from benchmarks.loadgen.scenario import SCENARIOS, Rehearsal, settings
from benchmarks.loadgen.show import section
from benchmarks.loadgen.system import OneCamera, Queued, System, drive, open_camera
from benchmarks.processes import Turns
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError, ConfigError, DataError, DependencyError
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.optional import is_installed
from edge_cnnlstm.runtime.prediction import Prediction

FRAMES, STREAMS = 42, 3
needs_loadgen = pytest.mark.skipif(
    platform.machine() != "x86_64" and not is_installed("mlperf_loadgen"),
    reason="MLPerf publishes wheels of LoadGen for x86-64 alone",
)


@pytest.fixture
def plan(make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A run over a tiny bundle that lasts a moment."""
    monkeypatch.setattr(scenario, "REHEARSAL_NS", 20_000_000)
    return Plan(str(make_bundle()), "onnxruntime", "fp32", streams=STREAMS, frames=FRAMES, seconds=0.1, load=0.1)


@pytest.fixture
def library(plan: Plan) -> Library:
    return Library(bundle_format.read(Path(plan.bundle)).golden.frames, plan.frames)


@needs_loadgen
@pytest.mark.parametrize("name", SCENARIOS)
def test_what_loadgen_logged_is_what_a_lone_stream_answers(plan: Plan, name: str, tmp_path: Path) -> None:
    answer = run.main(plan.word(), name, str(tmp_path))
    assert answer["accuracy"] == {"answers": FRAMES, "unlike": 0, "largest_difference": 0}
    assert (tmp_path / name / "performance" / "run_1" / "mlperf_log_detail.txt").stat().st_size > 0
    said = answer["summary"]
    assert said["conditions"]["Min duration satisfied"]
    assert said["parameters"]["min_duration"] == "100"
    assert said["errors"] == 0
    if name != "Server":  # whose bound depends on the machine
        assert said["valid"]
        assert set(said["conditions"].values()) == {True}


@needs_loadgen
def test_an_answer_from_another_memory_is_found(plan: Plan, library: Library, tmp_path: Path) -> None:
    run.main(plan.word(), "SingleStream", str(tmp_path))
    file = tmp_path / "SingleStream" / "accuracy" / accuracy.FILE
    logged = json.loads(file.read_text())
    others = [each["qsl_idx"] for each in reversed(logged)]
    file.write_text(json.dumps([each | {"qsl_idx": other} for each, other in zip(logged, others, strict=True)]))
    found = accuracy.compare(plan, library, 1, file.parent)
    assert found["unlike"] > FRAMES / 2
    assert found["largest_difference"] > 0


@needs_loadgen
@pytest.mark.parametrize("kind", [System, Queued])
def test_a_step_that_fails_ends_the_run_with_its_error(
    plan: Plan, library: Library, kind: type[System], tmp_path: Path
) -> None:
    class Failing(OneCamera):
        left = 5

        def step(self, frames: Sequence[Pixels]) -> Sequence[Prediction]:
            self.left -= 1
            if self.left < 0:
                raise BackendError("an engine that gave up", expected="an answer", fix="none")
            return super().step(frames)

    package, whole = load_loadgen(), open_camera(plan)
    system = kind(package, Failing(whole.stream), library)
    chosen = settings(package, SCENARIOS["SingleStream"], plan, Rehearsal(100_000, 1e5, 1), accuracy=True)
    with pytest.raises(BackendError, match="gave up"):
        drive(package, system, library, chosen, tmp_path)
    assert system.queries == FRAMES
    whole.close()


@needs_loadgen
def test_settings_are_mlperfs_but_for_what_it_leaves_to_the_submitter(plan: Plan) -> None:
    rehearsal = Rehearsal(fastest_ns=500_000, mean_ns=1e6, steps=9)

    def chosen(name: str) -> Any:
        return settings(load_loadgen(), SCENARIOS[name], replace(plan, load=0.25), rehearsal, accuracy=False)

    single, multi, server, offline = map(chosen, SCENARIOS)
    assert (single.single_stream_target_latency_percentile, single.qsl_rng_seed) == (0.9, 2085463073848966840)
    assert (multi.min_query_count, multi.multi_stream_samples_per_query) == (662, STREAMS)
    assert (server.server_target_qps, server.server_target_latency_percentile) == (250, 0.99)
    assert (offline.min_query_count, offline.offline_expected_qps) == (FRAMES, 1.25 * STREAMS * 2000)
    assert {each.min_duration_ms for each in (single, multi, server, offline)} == {100}


@needs_loadgen
@pytest.mark.parametrize("name", [overhead.LOADGEN, overhead.PLAIN])
def test_both_sides_of_the_comparison_step_as_often(plan: Plan, name: str) -> None:
    ready, turn = overhead.opened(plan.word(), name)
    assert ready == {"backend": "onnxruntime", "graph": "fp32"}
    for _ in range(2):
        found = turn({"steps": 70})
        assert found["steps"] == 70
        assert found["p50_ns"] > 0


def test_loadgen_is_compared_with_the_plain_loop_of_its_round() -> None:
    p50 = {overhead.LOADGEN: (20, 30, 60), overhead.PLAIN: (10, 20, 40), overhead.CONTROL: (10, 20, 60)}
    answers = {name: [{"p50_ns": each, "steps": 100} for each in rounds] for name, rounds in p50.items()}
    over, control = overhead.figures(Turns(answers, [], {}, {}))
    assert (over.value, over.samples, over.goal) == (1.5, 300, None)
    assert control.value == 1


@pytest.mark.slow
@needs_loadgen
def test_a_report_shows_what_loadgen_said_and_names_no_folder(
    make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loadgen(
        make_bundle(),
        scenarios=["SingleStream"],
        seconds=0.2,
        graph="fp32",
        backend="onnxruntime",
        frames=FRAMES,
        rounds=1,
        steps=30,
        destination=tmp_path / "report.json",
        logs=tmp_path / "logs",
    )
    text = (tmp_path / "report.json").read_text()
    assert str(tmp_path) not in text + capsys.readouterr().out
    report = json.loads(text)
    kept = tmp_path / "logs" / "SingleStream" / "performance" / "run_1" / summary.FILE
    assert report["scenarios"]["SingleStream"]["summary_text"] == kept.read_text()
    said = {ratio["name"]: ratio for ratio in report["ratios"]}
    assert said["SingleStream VALID, 1 = yes"]["met"]
    assert said["SingleStream in LoadGen ÷ plain loop, p50"]["samples"] == 30
    shown = section(report)
    assert shown.tables[0].rows[0][:2] == ("SingleStream", "VALID")
    assert any("MLPerf's own is 600 s (--seconds 600)" in note for note in shown.notes)


def test_the_library_has_the_golden_frames_first_and_no_frame_twice(library: Library) -> None:
    library.load(range(FRAMES))
    golden = library._golden
    assert all(np.array_equal(library.frames[number], pixels) for number, pixels in enumerate(golden))
    assert len({pixels.tobytes() for pixels in library.frames.values()}) == FRAMES
    library.unload([0, 0, 1])
    assert sorted(library.frames) == list(range(2, FRAMES))


INVALID = """\
SUT name : PySUT
Scenario : Server
Mode     : PerformanceOnly
Completed samples per second    : 729.27
Result is : INVALID
  Performance constraints satisfied : NO
  Min duration satisfied : Yes
  Min queries satisfied : Yes
  Early stopping satisfied: NO
Recommendations:
 * Reduce target QPS to improve latency.
Early Stopping Result:
 * Run unsuccessful.
 * Processed 5837 queries.
 * Would need to run at least 412411 more queries,
 with the run being successful if every additional
 query were under latency.

================================================
Additional Stats
================================================
Scheduled samples per second : 729.38
Min latency (ns)                : 758952
50.00 percentile latency (ns)   : 317883514
99.90 percentile latency (ns)   : 1486203716

================================================
Test Parameters Used
================================================
samples_per_query : 1
target_latency (ns): 33333333

1 ERROR encountered. See detailed log.
"""


def test_a_summary_says_why_a_run_is_invalid() -> None:
    said = summary.parse(INVALID)
    assert not said.valid
    assert (said.headline, said.result) == ("Completed samples per second", 729.27)
    assert [name for name, met in said.conditions.items() if not met] == [
        "Performance constraints satisfied",
        "Early stopping satisfied",
    ]
    assert said.advice == ["Reduce target QPS to improve latency."]
    assert said.early_stopping[2].startswith("Would need to run at least 412411 more queries, with the run being")
    assert said.percentiles_ns == {"p50": 317883514, "p99_9": 1486203716}
    assert said.parameters == {"samples_per_query": "1", "target_latency": "33333333"}
    assert said.errors == 1


def test_a_summary_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="without a result"):
        summary.parse("No warnings encountered during test.")


def test_figures_want_valid_runs_and_exact_answers_but_from_a_batch() -> None:
    said = {
        "valid": False,
        "result": 700.0,
        "estimates_ns": {},
        "percentiles_ns": {"p99": 40_000_000},
        "parameters": {"samples_per_query": "1"},
    }
    checked = {"answers": 9, "unlike": 1, "largest_difference": 1e-5}
    server = {"summary": said, "queries": 500, "streams": 1, "accuracy": checked}
    offline = {
        "summary": said | {"valid": True, "parameters": {"samples_per_query": "24576"}},
        "queries": 1,
        "streams": 8,
        "accuracy": checked,
    }
    found = {figure.name: figure for figure in figures({"Server": server, "Offline": offline}, tolerance=1e-4)}
    assert {name: figure.met for name, figure in found.items() if figure.goal is not None} == {
        "Server VALID, 1 = yes": False,
        "Offline VALID, 1 = yes": True,
        "Server p99 from the scheduled time, ms": False,
        "Server, largest difference from Stream.step": False,
        "Offline, largest difference from Stream.step": True,
    }
    assert found["Offline, samples a second"].samples == 24576


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    with pytest.raises(DependencyError, match="pip install mlcommons-loadgen"):
        loadgen(Path("never.edge"))


@needs_loadgen
def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(ConfigError, match="scenario 'Camera'"):
        loadgen(Path("never.edge"), scenarios=["Camera"])


def test_the_words_that_repeat_a_run_name_no_folder() -> None:
    said = words(Plan("/secret/m.edge", graph="int8", seconds=600), ("Server",), 7, 300, 0)
    assert " ".join(map(str, said)) == (
        "--scenario Server --backend auto --graph int8 --threads 1 --streams 8 --frames 1024 --seconds 600 "
        "--load 0.5 --rounds 7 --steps 300 --seed 0"
    )
