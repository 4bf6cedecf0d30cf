"""Holds how latency is measured; never how long anything takes."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks.latency import Case, Mode, Plan, compare, percentile, ratios, rerun, run, take_turns
from edge_cnnlstm import BackendError, BundleError, Prediction, Stream
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.cli import console
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.scripted import ScriptedBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import HeadSpec, ModelSpec, StatePair, TensorSpec

ROOT = Path(__file__).resolve().parents[2]
SPEC = ModelSpec(
    frame=TensorSpec("frame", (1, 4, 4, 3), "uint8"),
    fit="stretch",
    states=(StatePair("c", "c_next", (1, 1, 1)),),
    outputs=(TensorSpec("logits", (1, 2), "float32"),),
    heads=(HeadSpec("digit", "classify", ("logits",), ("even", "odd")),),
)
Make = Callable[..., Path]


class CountingBackend(ScriptedBackend):
    """Adds up the brightness it saw since its last reset, and counts its steps."""

    def __init__(self) -> None:
        super().__init__(SPEC, self._add)
        self.infers = 0

    def infer(self) -> Arrays:
        self.infers += 1
        return super().infer()

    @staticmethod
    def _add(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        total = np.asarray(state["c"] + pixels.mean() / 100, np.float32)
        return {"logits": np.append(total, 1).reshape(1, 2)}, {"c": total}


@pytest.fixture
def frames() -> list[Pixels]:
    return [np.full((4, 4, 3), 10 * index, np.uint8) for index in range(8)]


def test_the_command_keeps_every_sample(make_bundle: Make, tmp_path: Path) -> None:
    bundle, destination = make_bundle(), tmp_path / "out" / "latency.json"
    options = ("--rounds", "3", "--steps", "20", "--window", "4", "--output", str(destination))
    done = benchmark("latency", str(bundle), *options)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "closed loop" in done.stdout
    assert "A camera" in done.stdout
    assert "int8 is written for TensorRT" in " ".join(done.stdout.split())
    assert done.stdout.index("window/streaming") < done.stdout.index("Time per new frame")
    report = json.loads(destination.read_text())
    assert report["schema_version"] == 1
    assert report["command"] == (
        "python -m benchmarks latency tiny.edge --rounds 3 --steps 20 --window 4 --threads 1 --seed 0"
    )
    assert report["command"] in done.stdout
    assert str(tmp_path) not in destination.read_text()
    assert report["loop"] == "closed"
    assert report["plan"]["window_steps"] == 2
    assert {case["name"]: case["samples"] for case in report["cases"]} == {
        "fp32 streaming": 60,
        "fp32 window": 6,
        "int8 streaming": 60,
        "int8 window": 6,
        "fp32 control": 60,
    }
    for case in report["cases"]:
        assert [len(turn) for turn in case["samples_ns"]] == [case["samples"] // 3] * 3
        assert case["p99_us"] == percentile(chain(*case["samples_ns"]), 99) / 1e3
        assert not case["enough_for_p99"]
    assert [(ratio["name"], ratio["samples"]) for ratio in report["ratios"]] == [
        ("fp32 window/streaming p50", 6),
        ("int8 window/streaming p50", 6),
        ("int8/fp32 streaming p50", 60),
        ("int8/fp32 streaming p99", 60),
        ("fp32 control/streaming p50", 60),
        ("fp32 control/streaming p99", 60),
    ]
    assert all(set(ratio) == {"name", "value", "low", "high", "samples"} for ratio in report["ratios"])
    assert all(ratio["low"] <= ratio["value"] <= ratio["high"] for ratio in report["ratios"])
    assert set(report["machine"]) >= {"cpu", "cores", "memory_bytes", "governor", "load_before", "load_after"}
    assert set(report["versions"]) == {"python", "numpy", "onnxruntime", "edge-cnnlstm"}
    assert report["skipped"] == {}


def test_the_default_plan_has_enough_samples_for_a_p99() -> None:
    assert Plan().rounds * Plan().steps >= 2_010


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


def test_a_plan_runs_exactly_its_warm_up_and_its_steps(make_bundle: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = rerun

    def counting(stream: Stream, window: list[Pixels]) -> Prediction:
        seen.append(len(window))
        return original(stream, window)

    monkeypatch.setattr("benchmarks.latency.rerun", counting)
    result = run(bundle_format.read(make_bundle()), Plan(rounds=2, steps=30, window=5), silent)
    (warm_up,) = {case.warm_up for case in result.cases if case.mode == "window"}
    assert warm_up * 5 >= 32
    assert seen == [5] * (2 * 2 * (warm_up + 3))
    assert all(case.warm_up == 32 for case in result.cases if case.mode != "window")


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        (range(1, 101), 50, 50),
        (range(1, 101), 99, 99),
        (range(100, 0, -1), 99, 99),
        (range(1, 2_101), 99, 2_079),
        ([3, 1, 2], 50, 2),
        ([7], 99, 7),
        ([1, 9], 50, 1),
    ],
)
def test_a_percentile_is_the_smallest_sample_that_so_many_do_not_exceed(
    samples: list[int], percent: float, expected: int
) -> None:
    assert percentile(samples, percent) == expected


def test_a_ratio_is_the_median_round_and_the_range_of_all() -> None:
    slow = case("streaming", rounds=[[20, 20, 20], [90, 90, 90], [30, 30, 30]])
    fast = case("streaming", rounds=[[10, 10, 99], [10, 10, 99], [10, 10, 99]])
    found = compare("slow/fast", slow, fast, 50)
    assert (found.value, found.low, found.high, found.samples) == (3, 2, 9, 9)


def test_the_weaker_side_counts_the_samples() -> None:
    window, streaming = case("window", rounds=[[16], [32]]), case("streaming", rounds=[[1, 1], [2, 2]])
    assert compare("window/streaming", window, streaming, 50).samples == 2


def test_the_control_is_compared_with_the_graph_it_repeats() -> None:
    cases = [case("streaming", [[2]]), case("window", [[32]]), case("control", [[3]])]
    assert {ratio.name: ratio.value for ratio in ratios(cases)} == {
        "fp32 window/streaming p50": 16,
        "fp32 control/streaming p50": 1.5,
        "fp32 control/streaming p99": 1.5,
    }


def test_every_round_has_every_case_once_in_an_order_of_its_own(frames: list[Pixels]) -> None:
    def orders(seed: int) -> list[list[str]]:
        cases = [case("streaming", name=f"g{index}", frames=frames) for index in range(5)]
        return take_turns(cases, rounds=7, seed=seed, advance=lambda: None)

    drawn = orders(seed=0)
    assert len(drawn) == 7
    assert {tuple(sorted(order)) for order in drawn} == {tuple(f"g{index} streaming" for index in range(5))}
    assert len({tuple(order) for order in drawn}) > 1
    assert orders(seed=0) == drawn
    assert orders(seed=1) != drawn


def test_the_clock_runs_without_garbage_collector_and_without_warm_up(frames: list[Pixels]) -> None:
    collecting: list[bool] = []
    measured = case("streaming", frames=frames, warm_up=3)
    step = measured.call

    def spy(pixels: Pixels) -> Prediction:
        collecting.append(gc.isenabled())
        return step(pixels)

    spied = Case(measured.graph, "streaming", measured.stream, spy, frames, warm_up=3)
    take_turns([spied], rounds=2, seed=0, advance=lambda: None)
    assert collecting == [False] * 2 * len(frames)
    assert [len(turn) for turn in spied.rounds] == [len(frames) - 3] * 2
    assert gc.isenabled()


def test_the_collector_is_back_after_a_failed_step(frames: list[Pixels]) -> None:
    wrong = [*frames, np.zeros((2, 2, 3), np.uint8)]
    with pytest.raises(Exception, match="a frame of uint8"):
        take_turns([case("streaming", frames=wrong)], rounds=1, seed=0, advance=lambda: None)
    assert gc.isenabled()


def test_a_graph_that_onnx_runtime_refuses_is_skipped_with_its_reason(make_bundle: Make) -> None:
    result = run(bundle_format.read(make_bundle({"int8": b"not a graph"})), Plan(rounds=1, steps=2), silent)
    assert [case.name for case in result.cases] == ["fp32 streaming", "fp32 window", "fp32 control"]
    assert "refused" in result.skipped["int8"]


def test_without_any_graph_there_is_nothing_to_measure(make_bundle: Make) -> None:
    bundle = bundle_format.read(make_bundle({"fp32": b"not a graph", "int8": b"not a graph"}))
    with pytest.raises(BackendError, match="no graph that ONNX Runtime runs"):
        run(bundle, Plan(rounds=1, steps=1), silent)


def test_a_graph_that_answers_something_else_is_not_measured(make_bundle: Make) -> None:
    with pytest.raises(BackendError, match="strays from the golden rollout"):
        run(bundle_format.read(make_bundle(error=0.1)), Plan(rounds=1, steps=1), silent)


def test_a_damaged_bundle_is_one_message_and_exit_code_1(make_bundle: Make) -> None:
    path = make_bundle()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = benchmark("latency", str(path))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_a_missing_bundle_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "absent.edge"
    with pytest.raises(BundleError):
        command_line.latency(path)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "latency", str(path)])
    with pytest.raises(SystemExit) as left:
        console.run(command_line.app)
    assert left.value.code == 1
    assert "absent.edge" in capsys.readouterr().err


def test_benchmarks_know_bundles_and_streams_and_nothing_of_training() -> None:
    loaded = "import sys, benchmarks.__main__; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "benchmarks" in done.stdout.split()
    assert not {"torch", "onnx", "export", "jetson"} & set(done.stdout.split())


def case(
    mode: Mode,
    rounds: list[list[int]] | None = None,
    name: str = "fp32",
    frames: list[Pixels] | None = None,
    warm_up: int = 0,
) -> Case:
    stream = Stream(CountingBackend())
    graph = Graph(name, f"graphs/{name}.onnx", "portable", "fp32", tolerance=1.0)
    return Case(graph, mode, stream, stream.step, frames or [], warm_up, rounds or [])


def silent(turns: int) -> Callable[[], None]:
    assert turns > 0
    return lambda: None


def benchmark(*arguments: str) -> subprocess.CompletedProcess[str]:
    command: list[Any] = [sys.executable, "-W", "error", "-m", "benchmarks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
