"""Holds how latency is measured; never how long anything takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from typer.testing import CliRunner

from benchmarks import __main__ as command_line
from benchmarks import record
from benchmarks.latency import WARM_UP_FRAMES, cases, command, compare, document, rerun, worker
from benchmarks.latency.cases import Case, Choice, Plan, chosen
from benchmarks.latency.document import Report
from benchmarks.latency.early_stopping import allowed_above, at_most, samples_needed
from benchmarks.latency.figures import figures, measured
from benchmarks.latency.loops import Together, at_rate, closed, windows
from benchmarks.latency.show import section
from benchmarks.page import page
from benchmarks.statistics import SAMPLES_FOR, percentile
from edge_cnnlstm import BackendError, BundleError, ConfigError, Stream
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.cli import console
from edge_cnnlstm.errors import PoisonError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import ScriptedBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.realtime import OFF
from edge_cnnlstm.spec import HeadSpec, ModelSpec, StatePair, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
SPEC = ModelSpec(
    frame=TensorSpec("frame", (1, 4, 4, 3), "uint8"),
    fit="stretch",
    states=(StatePair("c", "c_next", (1, 1, 1)),),
    outputs=(TensorSpec("logits", (1, 2), "float32"),),
    heads=(HeadSpec("digit", "classify", ("logits",), ("even", "odd")),),
)
GRAPHS = (
    Graph("fp32", "graphs/fp32.onnx", "portable", "fp32", tolerance=1e-4),
    Graph("int8_onnxruntime", "graphs/cpu.onnx", "onnxruntime", "int8", tolerance=1e-4),
    Graph("int8_tensorrt", "graphs/board.onnx", "tensorrt", "int8", tolerance=1e-4),
)
OPTIONS = (
    *("--backend", "onnxruntime", "--rounds", "2", "--steps", "20", "--window", "4", "--rate", "500"),
    *("--seconds", "0.1"),
)
Make = Callable[..., Path]


class CountingBackend(ScriptedBackend):
    """Adds up the brightness it saw since its last reset, counts its steps, and sleeps in one of them if told to."""

    def __init__(self, stall_at: int = 0, stall_s: float = 0.0) -> None:
        super().__init__(SPEC, self._add)
        self.infers = 0
        self.stall_at, self.stall_s = stall_at, stall_s

    def infer(self) -> Arrays:
        self.infers += 1
        if self.infers == self.stall_at:
            time.sleep(self.stall_s)
        return super().infer()

    @staticmethod
    def _add(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        total = np.asarray(state["c"] + pixels.mean() / 100, np.float32)
        return {"logits": np.append(total, 1).reshape(1, 2)}, {"c": total}


@pytest.fixture
def frames() -> list[Pixels]:
    return [np.full((4, 4, 3), 10 * index, np.uint8) for index in range(8)]


@pytest.fixture
def bundle(make_bundle: Make) -> Path:
    return make_bundle(described=GRAPHS)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one run that several tests look at leaves its report."""
    return tmp_path_factory.mktemp("latency") / "out" / "latency.json"


@pytest.fixture
def written(kept: Path, bundle: Path) -> Path:
    """The report of a real run."""
    if not kept.exists():
        done = benchmark(str(bundle), *OPTIONS, "--graph", "fp32", "--graph", "int8_tensorrt", "-o", str(kept))
        assert done.returncode == 0, done.stderr
        assert json.loads(kept.read_text())["command"] in done.stdout
    return kept


def test_the_command_keeps_every_sample_of_every_loop(written: Path) -> None:
    report = json.loads(written.read_text())
    assert (report["schema_version"], report["suite"]) == (2, "latency")
    assert report["command"] == (
        "python -m benchmarks latency tiny.edge --backend onnxruntime --graph fp32 --graph int8_tensorrt --threads 1 "
        "--batch 1 --loop closed --loop window --loop open --loop untuned "
        "--rounds 2 --steps 20 --window 4 --rate 500.0 --seconds 0.1 --seed 0"
    )
    assert str(written.parents[2]) not in written.read_text()
    names = ["onnxruntime fp32", "onnxruntime int8_tensorrt", "onnxruntime fp32, control"]
    assert [case["name"] for case in report["cases"]] == names
    for case in report["cases"]:
        assert {name: list(map(len, loop["samples_ns"])) for name, loop in case["loops"].items()} == {
            "closed": [20, 20],
            "window": [2, 2],
            "open": [50, 50],
            "untuned": [50, 50],
        }
        closed_loop = case["loops"]["closed"]
        samples = [sample for turn in closed_loop["samples_ns"] for sample in turn]
        assert closed_loop["percentiles"]["p50"]["us"] == percentile(samples, 50) / 1e3
        assert set(closed_loop["stages"]) == {"wait", "fit", "infer", "decode", "age"}
        assert case["loops"]["window"]["stages"] == {}
        assert case["loops"]["open"]["scheduler"] in ("SCHED_FIFO", "SCHED_OTHER")
    assert len(report["order"]) == 2 * 4
    assert all(sorted(turn["cases"]) == sorted(names) for turn in report["order"])
    assert [row["name"] for row in report["ratios"]][-1] == (
        "onnxruntime fp32, control ÷ onnxruntime fp32: open, untuned, p50"
    )
    assert report["skipped"] == {}


def test_a_percentile_from_too_few_samples_says_how_many_it_needs(written: Path) -> None:
    report = json.loads(written.read_text())
    loop = report["cases"][0]["loops"]["closed"]
    assert loop["percentiles"]["p99"] == {"us": None, "needed": 2_010, "at_most_us": None, "at_most_needs": 662}
    assert {"needs 2,010", "needs 20,140", "needs 662", "needs 6,636"} <= set(cells(report))


def test_a_section_is_made_from_the_json_alone(written: Path) -> None:
    report = json.loads(written.read_text())
    shown = section(report, drawn=False)
    assert [table.title for table in shown.tables] == ["Figures", "Response", "With 99 % confidence", "Stages"]
    assert shown.pictures == []
    notes = " ".join(shown.notes)
    assert "int8_tensorrt is written for TensorRT" in notes
    assert "500 frames a second" in notes
    drawn = page("Latency", [report])
    assert drawn.count("data:image/png") == 3
    assert report["command"] in drawn


def test_the_default_plan_has_enough_samples_for_a_p99_in_every_loop_of_frames() -> None:
    plan = Plan()
    for loop in ("closed", "open", "untuned"):
        assert plan.rounds * plan.request(loop)["steps"] >= SAMPLES_FOR["p99"]


def test_every_round_has_every_loop_once_in_an_order_of_its_own() -> None:
    plan = Plan(rounds=7, seed=1)
    rounds = [plan.agenda()[start : start + 4] for start in range(0, 28, 4)]
    assert all(sorted(loops) == sorted(plan.loops) for loops in rounds)
    assert len({tuple(loops) for loops in rounds}) > 1
    assert plan.agenda() == plan.agenda()
    assert plan.agenda() != replace(plan, seed=2).agenda()


@pytest.mark.parametrize(
    ("percent", "above", "needed"),
    [(90, 1, 64), (99, 1, 662), (99.9, 1, 6_636), (90, 10, 197), (99, 10, 2_010), (99.9, 10, 20_140)],
)
def test_a_percentile_needs_the_samples_that_loadgen_asks_for(percent: float, above: int, needed: int) -> None:
    assert samples_needed(percent, above) == needed
    assert allowed_above(percent, needed) == above
    assert allowed_above(percent, needed - 1) == above - 1


def test_what_the_runtime_calls_dependable_is_ten_above() -> None:
    assert {"p99": samples_needed(99, 10), "p99_9": samples_needed(99.9, 10)} == SAMPLES_FOR


@pytest.mark.parametrize(("queries", "discarded"), [(2_048, 172), (2_116, 178), (2_145, 181)])
def test_as_many_of_the_slowest_are_discarded_as_in_loadgens_published_summaries(queries: int, discarded: int) -> None:
    assert allowed_above(90, queries) - 1 == discarded
    assert at_most(range(queries), 90) == queries - 1 - discarded


@pytest.mark.parametrize("percent", [50, 90, 99])
def test_so_many_above_are_allowed_as_chance_shows_in_one_run_of_a_hundred_at_most(percent: float) -> None:
    for samples in range(1, 3_000, 37):
        allowed = allowed_above(percent, samples)
        chance = scipy.stats.binom(samples, 1 - percent / 100)
        assert chance.cdf(allowed) <= 0.01 < chance.cdf(allowed + 1)
        assert (at_most(range(samples), percent) is None) == (allowed < 1)


def test_a_window_forgets_then_runs_every_frame_and_answers_as_a_stream_would(frames: list[Pixels]) -> None:
    backend = CountingBackend()
    stream = Stream(backend)
    for pixels in frames:
        carried = stream.step(pixels)
    backend.infers = 0
    again = rerun(stream, frames)
    assert (backend.infers, stream.resets["window"]) == (len(frames), 1)
    assert np.array_equal(again.scores, carried.scores)
    assert not np.array_equal(rerun(stream, frames[-3:]).scores, carried.scores)


def test_a_turn_runs_exactly_its_warm_up_and_its_steps(frames: list[Pixels]) -> None:
    backend = CountingBackend()
    stream = Stream(backend)
    backend.infers = 0
    timed = closed(stream, frames, 30)
    assert backend.infers == WARM_UP_FRAMES + 30
    assert {name: len(spent) for name, spent in timed.stages_ns.items()} == dict.fromkeys(
        ("wait", "fit", "infer", "decode", "age"), 30
    )
    backend.infers = 0
    assert len(windows(stream, frames, 3, length=5).samples_ns) == 3
    assert backend.infers == 5 * (7 + 3)
    assert WARM_UP_FRAMES <= 5 * 7


def test_a_stage_ends_before_the_sample_that_it_is_part_of(frames: list[Pixels]) -> None:
    timed = closed(Stream(CountingBackend()), frames, 20)
    assert all(age <= sample for age, sample in zip(timed.stages_ns["age"], timed.samples_ns, strict=True))


def test_a_stall_shows_in_every_frame_that_it_delays_and_none_is_left_out(frames: list[Pixels]) -> None:
    stalled, stall_s, rate = 10, 0.2, 100
    backend = CountingBackend(stall_s=stall_s)
    stream = Stream(backend)
    backend.stall_at = backend.infers + WARM_UP_FRAMES + stalled + 1
    timed, _ = at_rate(stream, frames, 40, rate, OFF)
    assert len(timed.samples_ns) == 40
    for behind in range(round(stall_s * rate)):
        assert timed.samples_ns[stalled + behind] >= (stall_s - behind / rate) * 1e9
        # A part of the same delay is in other stages.
        assert timed.stages_ns["wait"][stalled + behind + 1] >= (stall_s - (behind + 1.1) / rate) * 1e9


def test_a_frame_without_an_answer_makes_an_open_loop_fail(frames: list[Pixels]) -> None:
    class Failing(CountingBackend):
        def infer(self) -> Arrays:
            if self.stall_at and self.infers == self.stall_at:
                self.infers += 1
                raise PoisonError("NaN", expected="numbers", fix="none")
            return super().infer()

    backend = Failing()
    stream = Stream(backend)
    backend.stall_at = backend.infers + WARM_UP_FRAMES + 3
    with pytest.raises(BackendError, match="9 answers to 10 frames"):
        at_rate(stream, frames, 10, 500, OFF)


def test_a_group_is_timed_as_one_step_and_answers_for_each_of_its_cameras(make_bundle: Make) -> None:
    _, turn = worker.opened(str(make_bundle()), "onnxruntime", "fp32", "1", "2")
    assert isinstance(turn.args[0], Together)
    for loop, expected in (("closed", 12), ("window", 12), ("open", 24), ("untuned", 24), ("closed", 12)):
        found = turn({"loop": loop, "steps": 12, "window": 4, "rate": 500})
        assert len(found["samples_ns"]) == expected, loop


def test_a_worker_that_cannot_open_its_graph_says_why(make_bundle: Make) -> None:
    with pytest.raises(BackendError, match="strays from the golden rollout"):
        worker.opened(str(make_bundle(error=0.1)), "onnxruntime", "fp32", "1", "1")


def test_by_default_it_measures_what_auto_takes_and_what_onnx_runtime_is_meant_to_run(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = bundle_format.read(bundle).manifest
    monkeypatch.setattr(cases, "_taken", lambda path, threads: ("openvino", "fp32"))
    assert [case.name for case in chosen(bundle, manifest, Choice())] == [
        "openvino fp32",
        "onnxruntime fp32",
        "onnxruntime int8_onnxruntime",
        "onnxruntime fp32, control",
    ]
    monkeypatch.setattr(cases, "_taken", lambda path, threads: ("onnxruntime", "int8_onnxruntime"))
    assert [case.name for case in chosen(bundle, manifest, Choice())] == [
        "onnxruntime int8_onnxruntime",
        "onnxruntime fp32",
        "onnxruntime fp32, control",
    ]


def test_backends_graphs_threads_and_batches_are_all_combined(bundle: Path) -> None:
    manifest = bundle_format.read(bundle).manifest
    names = [case.name for case in chosen(bundle, manifest, Choice(["openvino"], (), (1, 2), (1, 8)))]
    assert len(names) == 2 * 2 * 2 + 1
    assert {"openvino fp32", "openvino int8_onnxruntime, 2 threads, 8 streams"} <= set(names)
    named = chosen(bundle, manifest, Choice(["onnxruntime"], ["int8_tensorrt"]))
    assert [case.name for case in named] == ["onnxruntime int8_tensorrt", "onnxruntime int8_tensorrt, control"]
    everywhere = {case.backend for case in chosen(bundle, manifest, Choice((), ["fp32"]))}
    assert {"onnxruntime", "openvino"} <= everywhere


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--backend", "magic"), "backend 'magic'"),
        (("--graph", "magic"), "no graph 'magic'"),
        (("--loop", "magic"), "loop 'magic'"),
        (("--compare", "absent.json"), "absent.json"),
    ],
)
def test_what_does_not_exist_is_refused_before_anything_is_measured(
    bundle: Path, words: Sequence[str], message: str
) -> None:
    found = CliRunner().invoke(command_line.app, ["latency", str(bundle), *words])
    assert isinstance(found.exception, (ConfigError, BundleError))
    assert message in found.exception.found


def test_a_graph_that_is_refused_is_missing_with_its_reason(make_bundle: Make) -> None:
    path = make_bundle({"int8": b"not a graph"})
    parts = command.results(path, some(path, "fp32", "int8"), Plan(("closed",), rounds=1, steps=2))
    assert [case["name"] for case in parts["cases"]] == ["onnxruntime fp32"]
    assert "refused" in parts["skipped"]["onnxruntime int8"]


def test_without_any_graph_there_is_nothing_to_measure(make_bundle: Make) -> None:
    path = make_bundle({"fp32": b"not a graph"})
    with pytest.raises(BackendError, match=r"no case that runs: onnxruntime fp32: .*refused"):
        command.results(path, some(path, "fp32"), Plan(("closed",), rounds=1, steps=1))


def test_a_run_in_which_the_machine_throttled_is_printed_and_fails(
    written: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Throttled(record.Telemetry):
        @property
        def reasons(self) -> list[str]:
            return ["package_throttle rose by 3"]

        def document(self) -> dict[str, Any]:
            return super().document() | {"verdict": {"valid": False, "reasons": self.reasons}}

    kept = tmp_path / "hot.json"
    monkeypatch.setattr(record, "Telemetry", Throttled)
    repeat(written, monkeypatch)
    found = CliRunner().invoke(command_line.app, ["latency", str(bundle), "--backend", "onnxruntime", "-o", str(kept)])
    assert found.exit_code == 1
    assert json.loads(kept.read_text())["valid"] is False
    assert json.loads(kept.read_text())["reasons"] == ["package_throttle rose by 3"]


def test_the_figures_are_taken_within_rounds_and_the_control_comes_last() -> None:
    graph = Graph("fp32", "graphs/fp32.onnx", "portable", "fp32", tolerance=1.0)
    ours, other = Case("onnxruntime", graph), Case("openvino", graph)
    control = replace(ours, control=True)
    plan = Plan(rounds=6)
    took = ((ours, (10, 160, 12, 20)), (other, (5, 65, 10, 10)), (control, (11, 150, 12, 20)))
    found = {}
    for case, times in took:
        answers = {
            loop: [{"samples_ns": [time_us * 1_000 * slow] * 400, "stages_ns": {}} for slow in (1, 2, 1, 9, 1, 1)]
            for loop, time_us in zip(plan.loops, times, strict=True)
        }
        found[case.name] = measured(case, answers, plan)
    values = {figure.name: figure.value for figure in figures([ours, other, control], found, window=16)}
    assert values["onnxruntime fp32: window of 16 ÷ step, p50"] == 16
    assert values["openvino fp32: open, tuned ÷ closed, p50"] == 2
    assert values["openvino fp32 ÷ onnxruntime fp32: closed, p50"] == 0.5
    assert values["onnxruntime fp32: closed, p99 ÷ p50 of all rounds"] == 9
    assert list(values)[-4:] == [
        f"onnxruntime fp32, control ÷ onnxruntime fp32: {loop}, p50"
        for loop in ("closed", "closed, window", "open, tuned", "open, untuned")
    ]


@pytest.mark.parametrize("rounds", [(5, 5), (7, 7), (6, 9), (12, 10)])
def test_an_interval_leaves_out_one_when_mann_and_whitney_reject(rounds: tuple[int, int]) -> None:
    draw = np.random.default_rng(3)
    rejected = 0
    for shift in np.linspace(1, 2, 60):
        old, new = (draw.lognormal(0, 0.2, count) for count in rounds)
        new *= shift
        found = compare.interval(old.tolist(), new.tolist())
        assert found is not None
        reject = scipy.stats.mannwhitneyu(old, new, method="exact").pvalue <= compare.LEVEL
        assert reject == (not found[0] <= 1 <= found[1])
        rejected += reject
    assert 0 < rejected < 60


def test_two_runs_of_the_same_thing_have_nothing_that_moved() -> None:
    found = compare.compared(run_of(1.0), run_of(1.0, seed=1))
    assert (found.moved, found.compared, found.untold, found.differences) == ([], 4, [], [])


def test_what_moved_beyond_noise_is_named_with_its_interval() -> None:
    found = compare.compared(run_of(1.0), run_of(1.5, seed=1, loop="open"))
    (change,) = found.moved
    assert (change.case, change.loop) == ("onnxruntime fp32", "open")
    assert change.low < change.ratio < change.high
    assert change.low > 1 > 1 / change.noise


def test_only_what_moved_is_shown_of_a_comparison(written: Path) -> None:
    found = compare.compared(run_of(1.0), run_of(1.5, seed=1, loop="open"))
    report = json.loads(written.read_text()) | {"comparison": found.model_dump()}
    first = section(report, drawn=False).tables[0]
    assert first.columns[0] == "what moved, of 4"
    assert [row[0] for row in first.rows] == ["onnxruntime fp32, open, tuned"]


def test_what_moved_less_than_a_control_that_is_the_same_thing_did_not_move() -> None:
    assert compare.compared(run_of(1.0), run_of(1.1, seed=1)).moved
    assert not compare.compared(run_of(1.0), run_of(1.1, seed=1, control=1.2)).moved
    assert not compare.compared(run_of(1.0, control=0.8), run_of(1.1, seed=1)).moved


def test_of_too_few_rounds_nothing_is_told() -> None:
    found = compare.compared(run_of(1.0, rounds=4), run_of(3.0, rounds=4))
    assert not found.moved
    assert "onnxruntime fp32, closed" in found.untold


def test_another_bundle_machine_version_or_rate_is_said_first_and_another_task_is_not_compared(
    written: Path,
) -> None:
    old, new = run_of(1.0), run_of(1.0)
    new.bundle.sha256, new.machine.cpu, new.versions["numpy"], new.plan.rate = "other", "Orin", "3", 60
    found = compare.compared(old, new)
    assert [said.partition(":")[0] for said in found.differences] == [
        "another bundle",
        "another machine",
        "another version",
        "another rate",
    ]
    assert found.compared == 2
    report = json.loads(written.read_text()) | {"comparison": found.model_dump()}
    first, second = section(report, drawn=False).tables[:2]
    assert [cell for (cell,) in first.rows] == found.differences
    assert second.rows == [("nothing moved beyond noise, of 2 compared",)]


def test_the_command_says_what_moved_since_an_older_run(
    written: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "new.json"
    repeat(written, monkeypatch)
    words = ["latency", str(bundle), "--backend", "onnxruntime", "--compare", str(written), "-o", str(kept)]
    assert CliRunner().invoke(command_line.app, words).exit_code == 0
    comparison = json.loads(kept.read_text())["comparison"]
    assert comparison["moved"] == []
    assert "onnxruntime fp32, closed" in comparison["untold"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "no result"),
        ("[]", "no result"),
        ('{"schema_version": 1, "suite": "latency"}', "schema version 1"),
        ('{"schema_version": 2, "suite": "runtime"}', "no latency report: suite"),
    ],
)
def test_a_file_that_is_no_such_report_is_refused(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=found):
        document.read(path)


@pytest.mark.parametrize("damaged", [True, False])
def test_a_bundle_that_is_damaged_or_missing_is_one_message_and_exit_code_1(
    bundle: Path, damaged: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if damaged:
        data = bytearray(bundle.read_bytes())
        data[len(data) // 2] ^= 1
        bundle.write_bytes(data)
    else:
        bundle.unlink()
    monkeypatch.setattr(sys, "argv", ["benchmarks", "latency", str(bundle)])
    with pytest.raises(SystemExit) as left:
        console.run(command_line.app)
    assert left.value.code == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert damaged or "tiny.edge" in said.err
    assert not said.out


def test_benchmarks_know_bundles_and_streams_and_nothing_of_training() -> None:
    loaded = "import sys, benchmarks.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "benchmarks" in done.stdout.split()
    assert not {"torch", "onnx", "export", "jetson", "scipy", "matplotlib"} & set(done.stdout.split())


def run_of(factor: float, *, seed: int = 0, loop: str | None = None, control: float = 1.0, rounds: int = 7) -> Report:
    """Return a report of one case and its control, rounds scattering by 2 %: slower in one loop, or all."""
    draw = np.random.default_rng(seed)
    graph = Graph("fp32", "graphs/fp32.onnx", "portable", "fp32", tolerance=1.0)
    plan = Plan(rounds=rounds)
    found = []
    for case, slower in ((Case("onnxruntime", graph), 1.0), (Case("onnxruntime", graph, control=True), control)):
        answers = {
            name: [
                {"samples_ns": [round(1e6 * times * slower * draw.normal(1, 0.02))] * 3, "stages_ns": {}}
                for _ in range(rounds)
            ]
            for name in plan.loops
            for times in [factor if loop in (None, name) else 1.0]
        }
        found.append(measured(case, answers, plan).model_dump())
    return document.parse(
        {
            "schema_version": 2,
            "suite": "latency",
            "started": "2026-11-27T00:00:00+00:00",
            "bundle": {"name": "tiny", "sha256": "0" * 64},
            "machine": {"cpu": None, "architecture": "x86_64", "cores": 2, "memory_bytes": 1, "governor": None},
            "versions": {"numpy": "2"},
            "plan": {**plan_of(plan), "warm_up_frames": WARM_UP_FRAMES},
            "cases": found,
        }
    )


def repeat(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command find again what an earlier run measured."""
    report = json.loads(written.read_text())
    parts = {name: report[name] for name in ("plan", "ratios", "cases", "order", "skipped", "disturbances")}
    monkeypatch.setattr(command, "results", lambda path, cases, plan: parts)


def plan_of(plan: Plan) -> dict[str, Any]:
    names = ("loops", "rounds", "steps", "window", "rate", "seconds", "seed")
    return {name: getattr(plan, name) for name in names}


def some(path: Path, *graphs: str) -> list[Case]:
    manifest = bundle_format.read(path).manifest
    return [Case("onnxruntime", manifest.graph(name)) for name in graphs]


def cells(report: dict[str, Any]) -> list[str]:
    return [cell for table in section(report, drawn=False).tables for row in table.rows for cell in row]


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    words: list[Any] = [sys.executable, "-W", "error", "-m", "benchmarks", "latency", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
