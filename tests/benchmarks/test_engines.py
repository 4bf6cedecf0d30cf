"""Holds how engines are compared: the same network in every form, fair turns, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from benchmarks import processes
from benchmarks.__main__ import app
from benchmarks.engines import cases, command, forms, peer, worker
from benchmarks.engines.cases import Bench, Case, Measured, measure
from benchmarks.engines.fused import with_lstm_operators
from benchmarks.engines.operators import count_operators
from benchmarks.latency import WARM_UP_FRAMES
from benchmarks.processes import Worker
from benchmarks.statistics import SAMPLES_FOR, percentile
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.bundle.golden import dump
from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.errors import BackendError, ConfigError
from edge_cnnlstm.runtime.backends.base import Arrays, advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.scripted import ScriptedBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.proof import deviation
from edge_cnnlstm.training.spec_of import spec_of
from export.graphs import export_step
from export.rollout import OnnxSteps
from tests.benchmarks.conftest import FRAMES, SPEC, frames, resets, step_graph, untrained

Make = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]
CONVOLUTIONS = 5
"""Of the nano preset."""
FP32 = Graph("plain", "graphs/plain.onnx", "portable", "fp32", tolerance=1e-4)
CPU = Graph("cpu", "graphs/cpu.onnx", "onnxruntime", "int8", tolerance=1e-4)
BOARD = Graph("board", "graphs/board.onnx", "tensorrt", "int8", tolerance=1e-4)
HALF = Graph("half", "graphs/half.onnx", "tensorrt", "fp16", tolerance=1e-4)
BASE, OURS = "onnxruntime fp32", "onnxruntime int8"
PEER = f"onnxruntime {forms.PEER}"


def kinds(graph: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in graph.graph.node)


# ---- fused


@pytest.mark.parametrize("layers", [1, 2])
def test_lstm_operators_answer_and_remember_what_the_unrolled_cells_do(layers: int) -> None:
    network = untrained(layers)
    unrolled, spec = export_step(network), spec_of(network)
    seen = np.random.default_rng(1).integers(0, 256, (6, 1, 64, 64, 3), dtype=np.uint8)

    fused = with_lstm_operators(unrolled)

    assert kinds(fused)["LSTM"] == layers
    assert "LSTM" not in kinds(unrolled)
    forgets = np.arange(6) == 3
    found, expected = (OnnxSteps(graph, spec).course(seen, forgets) for graph in (fused, unrolled))
    assert set(found) == {"digit_logits", "target_box", "target_presence", "h_next", "c_next"}
    for name, values in expected.items():
        assert np.ptp(values, axis=0).max() > 1e-3
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6)


def test_a_network_without_cells_has_none_to_fuse() -> None:
    with pytest.raises(ValueError, match="no LSTM cells"):
        with_lstm_operators(export_step(untrained(0)))


# ---- peer


@pytest.fixture(scope="module")
def bundle(nano: Path) -> Bundle:
    return bundle_format.read(nano)


@pytest.fixture(scope="module")
def quantized(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    files, failed = peer.quantize_all(bundle, "fp32", tmp_path_factory.mktemp("quantized"))
    assert not failed
    return files


def test_every_form_runs_in_integers_and_answers_nearly_what_fp32_does(
    bundle: Bundle, quantized: dict[str, Path]
) -> None:
    assert list(quantized) == [form.name for form in peer.FORMS]
    for name, path in quantized.items():
        backend = OnnxRuntimeBackend(path.read_bytes(), bundle.manifest.model)
        found = deviation(backend, bundle.golden, bundle.golden.expected["fp32"])
        assert 0 < found.largest < 0.1, name
        counts = count_operators(path)
        assert (counts["integer_convolutions"], counts["float_convolutions"]) == (CONVOLUTIONS, 0), name


def test_a_form_quantizes_the_products_that_its_name_says(quantized: dict[str, Path]) -> None:
    graphs = {name: kinds(onnx.load(path)) for name, path in quantized.items()}

    assert graphs["convolutions, as integer operators"]["QLinearConv"] == CONVOLUTIONS
    assert graphs["convolutions, gates dynamic"]["MatMulInteger"] == 1
    assert graphs["convolutions, LSTM operators"]["LSTM"] == 1
    dynamic = graphs["convolutions, LSTM operators dynamic"]
    assert (dynamic["DynamicQuantizeLSTM"], dynamic["LSTM"], dynamic["MatMulInteger"]) == (1, 0, 0)
    assert graphs["convolutions, rectifiers left out"]["Relu"] > graphs["convolutions"]["Relu"]
    plain, gates, everything = (
        graphs[name]["QuantizeLinear"]
        for name in (
            "convolutions",
            "convolutions and gates, sums in FP32",
            "convolutions, gates and heads, sums in FP32",
        )
    )
    assert plain < gates < everything


def test_scales_are_those_that_a_form_asks_for(quantized: dict[str, Path]) -> None:
    def largest_scale(name: str) -> int:
        graph = onnx.load(quantized[name]).graph
        sizes = {tensor.name: numpy_helper.to_array(tensor).size for tensor in graph.initializer}
        return max(sizes[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear")

    assert largest_scale("convolutions") > 1
    assert largest_scale("convolutions, one scale a tensor") == 1


def test_a_form_without_anything_to_change_is_listed_with_its_reason(make_bundle: Make, tmp_path: Path) -> None:
    files, failed = peer.quantize_all(bundle_format.read(make_bundle()), "fp32", tmp_path)

    assert set(files) == {form.name for form in peer.FORMS if form.products != "none"}
    assert failed["convolutions"] == "no such operators in this network"
    assert failed["convolutions, LSTM operators"] == "no LSTM cells in this network"
    assert sorted([*files, *failed]) == sorted(form.name for form in peer.FORMS)


def test_calibration_sees_the_memory_that_fp32_has_at_every_step_of_the_rollout(make_bundle: Make) -> None:
    feeds = peer.calibration_feeds(bundle_format.read(make_bundle()), "fp32")

    backend = OnnxRuntimeBackend(step_graph(), SPEC)
    assert len(feeds) == FRAMES
    for number, (feed, pixels, reset) in enumerate(zip(feeds, frames(), resets(), strict=True)):
        if reset:
            backend.state.reset()
        memory = backend.state.snapshot()
        assert np.array_equal(feed["frame"], pixels[None])
        assert np.array_equal(feed["h"], memory["h"])
        assert np.array_equal(feed["c"], memory["c"])
        assert feed["c"].any() == (number > 0 and not reset)
        advance(backend, pixels)


def test_calibration_sees_the_times_of_the_rollout(tiny_dt_bundle: Path) -> None:
    opened = bundle_format.read(tiny_dt_bundle)
    assert opened.golden.dt is not None

    feeds = peer.calibration_feeds(opened, "tiny")

    assert [float(feed["dt"][0, 0]) for feed in feeds] == opened.golden.dt.tolist()
    after = feeds[-1]["c"]
    assert not np.allclose(peer.calibration_feeds(_untold(opened), "tiny")[-1]["c"], after, atol=1e-3)


def _untold(opened: Bundle) -> Bundle:
    """The same, as if no frame had been missed."""
    assert opened.golden.dt is not None
    members = {**opened.members, "golden.npz": dump(replace(opened.golden, dt=np.zeros_like(opened.golden.dt)))}
    return Bundle(opened.manifest, members)


# ---- operators


def test_operators_are_counted_as_onnx_runtime_optimizes_them(
    bundle: Bundle, quantized: dict[str, Path], tmp_path: Path
) -> None:
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(bundle.graph("fp32"))

    assert count_operators(plain) == {
        "integer_convolutions": 0,
        "float_convolutions": CONVOLUTIONS,
        "quantize": 0,
        "dequantize": 0,
    }
    form = quantized["convolutions, as integer operators"]
    written = kinds(onnx.load(form))
    assert count_operators(form) == {
        "integer_convolutions": CONVOLUTIONS,
        "float_convolutions": 0,
        "quantize": written["QuantizeLinear"],
        "dequantize": written["DequantizeLinear"],
    }


# ---- forms


def measured(name: str, *rounds: Sequence[int], source: str = "graph") -> Measured:
    engine, _, form = name.partition(" ")
    return Measured(Case(engine, form, Path(f"{source}.onnx"), source), 0.0, [list(turn) for turn in rounds])


def test_a_bundle_is_compared_as_fp32_int8_twice_and_the_dialect_of_tensorrt(make_bundle: Make, tmp_path: Path) -> None:
    graphs = {graph.name: step_graph(0.1 * number) for number, graph in enumerate((FP32, CPU, BOARD, HALF), start=1)}
    opened = bundle_format.read(make_bundle(graphs, described=(HALF, BOARD, CPU, FP32)))

    cases = forms.bundled(opened, ("onnxruntime", "openvino"), tmp_path)

    assert [(case.name, case.source) for case in cases] == [
        (f"{engine} {form}", source)
        for engine in ("onnxruntime", "openvino")
        for form, source in (
            ("fp32", "plain"),
            ("int8", "cpu"),
            ("int8 control", "cpu"),
            ("TensorRT dialect", "board"),
        )
    ]
    assert all(case.graph.read_bytes() == graphs[case.source] for case in cases)


def test_of_several_graphs_for_tensorrt_each_is_named(make_bundle: Make, tmp_path: Path) -> None:
    other = Graph("other", "graphs/other.onnx", "tensorrt", "int8, 3 of 7 layers", tolerance=1e-4)
    opened = bundle_format.read(make_bundle(described=(FP32, BOARD, other)))

    names = [case.name for case in forms.bundled(opened, ("openvino",), tmp_path)]

    assert names == ["openvino fp32", "openvino TensorRT dialect, board", "openvino TensorRT dialect, other"]


def test_all_cases_make_all_ratios_against_their_goals() -> None:
    times = {"fp32": 40, "int8": 20, "int8 control": 22, forms.PEER: 21, "TensorRT dialect": 80}
    cases = [measured(f"onnxruntime {form}", [time]) for form, time in times.items()]
    cases += [measured(f"openvino {form}", [time // 2]) for form, time in times.items()]

    found = forms.figures(cases, forms.Goals(engine=4.5, ort=1.5), threads=2)

    assert [(figure.name, figure.value, figure.goal, figure.at_most, figure.met) for figure in found] == [
        ("onnxruntime fp32 / openvino int8 (the best engine), 2 threads", 4.0, 4.5, False, False),
        ("onnxruntime fp32 / onnxruntime int8, 2 threads", 2.0, 1.5, False, True),
        ("openvino fp32 / openvino int8, 2 threads", 2.0, None, False, None),
        (f"{OURS} / {PEER}, 2 threads", 20 / 21, 1.02, True, True),
        (f"openvino int8 / openvino {forms.PEER}, 2 threads", 1.0, 1.02, True, True),
        (f"onnxruntime TensorRT dialect / {OURS}, 2 threads", 4.0, None, False, None),
        ("openvino TensorRT dialect / openvino int8, 2 threads", 4.0, None, False, None),
        (f"{OURS} control / {OURS}, 2 threads", 1.1, None, False, None),
        ("openvino int8 control / openvino int8, 2 threads", 1.1, None, False, None),
    ]


def test_our_int8_may_be_two_hundredths_slower_than_the_best_of_others() -> None:
    def met(ours: int) -> bool | None:
        (figure,) = forms.figures([measured(OURS, [ours]), measured(PEER, [1000])], forms.Goals(), threads=1)
        return figure.met

    assert (met(1020), met(1021)) == (True, False)


def test_ratios_of_cases_that_are_missing_are_left_out() -> None:
    def names(*cases: str) -> list[str]:
        return [figure.name for figure in forms.figures([measured(name, [1]) for name in cases], forms.Goals(), 1)]

    assert names(BASE) == []
    assert names(OURS, f"{OURS} control") == [f"{OURS} control / {OURS}, 1 thread"]
    assert names(BASE, "openvino int8") == [f"{BASE} / openvino int8 (the best engine), 1 thread"]


def test_the_peer_is_the_form_that_the_engine_was_fastest_with() -> None:
    tried = [
        measured("onnxruntime u8s8, a", [9, 9, 9], source="a"),
        measured("onnxruntime u8s8, b", [1, 7, 7], [7, 7, 50], source="b"),
        measured("onnxruntime u8s8, c", [1, 1, 1], source="not quantized"),
        measured("openvino u8s8, a", [1, 1, 1], source="a"),
    ]
    files = {"a": Path("a.onnx"), "b": Path("b.onnx")}

    assert forms.fastest(tried, "onnxruntime", files) == Case("onnxruntime", forms.PEER, Path("b.onnx"), "b")
    assert forms.fastest(tried, "openvino", files) == Case("openvino", forms.PEER, Path("a.onnx"), "a")
    assert forms.fastest(tried[2:3], "onnxruntime", files) is None


# ---- worker


def test_a_turn_forgets_warms_up_and_then_times_every_step() -> None:
    counts: list[float] = []

    def script(pixels: Pixels, state: Arrays) -> tuple[Arrays, Arrays]:
        counts.append(float(state["c"].ravel()[0]) + 1)
        memory = np.full((1, 1, 2), counts[-1], np.float32)
        return {"digit_logits": np.zeros((1, 2), np.float32)}, {"h": memory, "c": memory}

    backend = ScriptedBackend(SPEC, script)

    for _ in range(2):
        samples = worker.turn(backend, list(frames()), steps=7)

    assert len(samples) == 7
    assert counts == [*range(1, WARM_UP_FRAMES + 8)] * 2


def test_what_an_engine_prints_is_never_taken_for_an_answer() -> None:
    talk = (
        "import os; from benchmarks.processes import answer; "
        "answer(lambda: [print('from Python', flush=True), os.write(1, b'from C'), {'steps': 1}][-1])"
    )

    done = subprocess.run([sys.executable, "-c", talk], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout == '{"steps": 1}\n'
    assert done.stderr == "from Python\nfrom C"


def test_openvino_is_told_of_missed_frames(tiny_dt_bundle: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is measured where it is installed, and nothing depends on it")
    opened = bundle_format.read(tiny_dt_bundle)

    backend = worker.OpenVinoBackend(opened.graph("tiny"), opened.manifest.model)

    assert deviation(backend, opened.golden, opened.golden.expected["tiny"]).largest < 1e-4
    assert deviation(backend, _untold(opened).golden, opened.golden.expected["tiny"]).largest > 0.01


def test_openvino_answers_and_remembers_what_the_rollout_says(make_bundle: Make) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is measured where it is installed, and nothing depends on it")
    opened = bundle_format.read(make_bundle())

    backend = worker.OpenVinoBackend(opened.graph("fp32"), SPEC)

    assert deviation(backend, opened.golden, opened.golden.expected["fp32"]).largest < 1e-5
    first = advance(backend, frames()[0])["digit_logits"].copy()
    before = backend.state.snapshot()
    second = advance(backend, frames()[1])["digit_logits"].copy()
    backend.state.restore(before)
    assert np.array_equal(advance(backend, frames()[1])["digit_logits"], second)
    backend.state.reset()
    assert np.array_equal(advance(backend, frames()[0])["digit_logits"], first)
    backend.close()


# ---- processes


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[Worker]:
    """Every worker that a test starts; they do not wait for each other's threads to sleep."""
    started: list[Worker] = []

    class Watched(Worker):
        def __init__(self, name: str, module: str, *words: object) -> None:
            super().__init__(name, module, *words)
            started.append(self)

    monkeypatch.setattr(cases, "Worker", Watched)
    monkeypatch.setattr(processes, "SETTLE_S", 0)
    return started


@pytest.fixture
def bench(make_bundle: Make) -> Bench:
    return Bench(make_bundle(), "fp32", threads=1)


def case_of(graph: bytes, folder: Path, name: str) -> Case:
    path = folder / f"{name}.onnx"
    path.write_bytes(graph)
    return Case("onnxruntime", name, path, name)


def mortal_graph(age: int) -> bytes:
    """A step that looks its age up in a table of so many, and fails when it is older."""
    model = onnx.load_from_string(step_graph())
    nodes = [node for node in model.graph.node if "h_next" not in {*node.input, *node.output}]
    nodes[-1:-1] = [
        helper.make_node("Add", ["h", "one"], ["h_next"]),
        helper.make_node("ReduceMax", ["h"], ["age"]),
        helper.make_node("Cast", ["age"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["ages", "index"], ["nothing"]),
        helper.make_node("Add", ["h_next", "nothing"], ["answer"]),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    constants = {"one": np.array(1, np.float32), "ages": np.zeros(age, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return bytes(model.SerializeToString())


def silent(turns: int) -> Callable[[str], None]:
    return lambda name: None


def gone(workers: Sequence[Worker]) -> bool:
    return all(worker._process.returncode is not None for worker in workers)


def test_every_case_has_one_turn_a_round_in_an_order_drawn_anew(
    bench: Bench, workers: list[Worker], tmp_path: Path
) -> None:
    cases = [case_of(step_graph(), tmp_path, name) for name in ("a", "b", "c")]
    turns: list[int | str] = []

    def started(count: int) -> Callable[[str], None]:
        turns.append(count)
        return turns.append

    found, order, refused = measure(cases, bench, 6, 5, seed=0, started=started)

    assert turns == [18, *chain(*order)]
    assert not refused
    assert [one.case for one in found] == cases
    for one in found:
        assert [len(turn) for turn in one.rounds] == [5] * 6
        assert len(one.waiting_cpu_s) == 6
        assert one.deviation == pytest.approx(0, abs=1e-6)
    assert len(order) == 6
    assert all(sorted(names) == [case.name for case in cases] for names in order)
    assert len({tuple(names) for names in order}) > 1
    again, other = (measure(cases, bench, 6, 1, seed, silent)[1] for seed in (0, 1))
    assert again == order
    assert other != order
    assert gone(workers)


def test_a_graph_that_cannot_run_is_reported_by_its_reason_and_the_others_go_on(
    bench: Bench, workers: list[Worker], tmp_path: Path
) -> None:
    cases = [
        case_of(b"not a graph", tmp_path, "broken"),
        case_of(step_graph(), tmp_path, "plain"),
        Case("onnxruntime", "absent", tmp_path / "absent.onnx", "absent"),
    ]

    found, order, refused = measure(cases, bench, 2, 3, 0, silent)

    assert [one.case.form for one in found] == ["plain"]
    assert order == [["onnxruntime plain"]] * 2
    assert set(refused) == {"onnxruntime broken", "onnxruntime absent"}
    assert "refused the graph" in refused["onnxruntime broken"]
    assert "exit code 1: FileNotFoundError" in refused["onnxruntime absent"]
    assert gone(workers)


def test_the_dialect_of_tensorrt_runs_as_written_and_has_no_optimized_operators(
    nano: Path, workers: list[Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "find_spec", without("openvino"))
    monkeypatch.setattr(peer, "FORMS", ())

    report = command.run(bundle_format.read(nano), nano, command.Plan((1,), rounds=1, steps=2), tmp_path)

    found = {case["name"]: case["deviation"] for case in report["cases"]}
    assert list(found) == [BASE, OURS, f"{OURS} control", "onnxruntime TensorRT dialect"]
    assert found[BASE] < 1e-5
    assert 0 < found[OURS] < 0.1
    assert 0 < found["onnxruntime TensorRT dialect"] < 0.1
    assert set(report["operators"]) == {"fp32", "int8_onnxruntime"}
    ours = report["operators"]["int8_onnxruntime"]
    assert (ours["integer_convolutions"], ours["float_convolutions"]) == (CONVOLUTIONS, 0)


def test_deviation_is_relative_to_what_fp32_answers_and_none_when_it_is_not_finite(
    bench: Bench, workers: list[Worker], tmp_path: Path
) -> None:
    opened = bundle_format.read(bench.bundle)
    cases = [case_of(step_graph(fade), tmp_path, str(fade)) for fade in (0.4, float("nan"))]

    (astray, spoilt), _, _ = measure(cases, bench, 1, 1, 0, silent)

    expected = deviation(OnnxRuntimeBackend(step_graph(0.4), SPEC), opened.golden, opened.golden.expected["fp32"])
    assert astray.deviation == pytest.approx(expected.output)
    assert expected.output > 1e-3
    assert spoilt.deviation is None


def test_a_process_that_is_killed_is_named_with_its_signal_and_none_is_left(
    bench: Bench, workers: list[Worker], tmp_path: Path
) -> None:
    cases = [case_of(step_graph(), tmp_path, name) for name in ("a", "b")]

    def kill_the_second(turns: int) -> Callable[[str], None]:
        return lambda name: os.kill(workers[1]._process.pid, signal.SIGKILL)

    with pytest.raises(BackendError, match="the process of onnxruntime b ended with SIGKILL: it said nothing"):
        measure(cases, bench, 3, 1, 0, kill_the_second)

    assert len(workers) == 2
    assert gone(workers)


def test_a_process_that_fails_is_named_with_its_exit_code_and_what_it_said_last(
    bench: Bench, workers: list[Worker], tmp_path: Path
) -> None:
    cases = [case_of(step_graph(), tmp_path, "plain"), case_of(mortal_graph(WARM_UP_FRAMES + 4), tmp_path, "mortal")]

    with pytest.raises(
        BackendError, match=r"of onnxruntime mortal ended with exit code 1: ONNX Runtime failed during a step: .*Gather"
    ):
        measure(cases, bench, 1, 9, 0, silent)

    assert gone(workers)


def test_none_is_left_when_the_measuring_itself_is_interrupted(
    bench: Bench, workers: list[Worker], tmp_path: Path
) -> None:
    def interrupted(turns: int) -> Callable[[str], None]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure([case_of(step_graph(), tmp_path, name) for name in ("a", "b")], bench, 1, 1, 0, interrupted)

    assert len(workers) == 2
    assert gone(workers)


# ---- command


def without(*packages: str) -> Callable[[str], Any]:
    return lambda name: None if name in packages else find_spec(name)


def test_a_run_keeps_every_sample_and_says_what_it_skipped(
    make_bundle: Make, workers: list[Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "find_spec", without("openvino"))
    monkeypatch.setattr(command, "QUICK_ROUNDS", 1)
    graphs = {CPU.name: step_graph(0.45), BOARD.name: b"not a graph"}
    path, destination = make_bundle(graphs, described=(FP32, CPU, BOARD)), tmp_path / "out" / "engines.json"
    options = ["--threads", "1", "--rounds", "3", "--steps", "10", "--goal-ort", "0.001", "-o", str(destination)]

    done = CliRunner().invoke(app, ["engines", str(path), *options], catch_exceptions=False)

    assert done.exit_code == 0
    report = json.loads(destination.read_text())
    assert report["schema_version"] == 2
    assert report["command"] == (
        "python -m benchmarks engines tiny.edge --threads 1 --rounds 3 --steps 10 --seed 0 --goal-ort 0.001"
    )
    assert report["command"] in done.stdout
    assert str(tmp_path) not in destination.read_text()
    assert report["loop"] == "closed"
    assert report["plan"]["warm_up_steps"] == WARM_UP_FRAMES
    assert report["plan"]["quick_steps"] == 2
    names = [BASE, OURS, f"{OURS} control", PEER]
    assert [case["name"] for case in report["cases"]] == names
    for case in report["cases"]:
        assert [len(turn) for turn in case["samples_ns"]] == [10] * 3
        assert (case["samples"], case["threads"], case["enough_for_p99"]) == (30, 1, False)
        assert case["p50_us"] == percentile(chain(*case["samples_ns"]), 50) / 1e3
        assert case["p99_us"] == percentile(chain(*case["samples_ns"]), 99) / 1e3
        assert len(case["waiting_cpu_s"]) == 3
    assert [case["deviation"] > 1e-4 for case in report["cases"][:3]] == [False, True, True]
    assert [(ratio["name"], ratio["goal"]) for ratio in report["ratios"]] == [
        (f"{BASE} / {OURS} (the best engine), 1 thread", None),
        (f"{BASE} / {OURS}, 1 thread", 0.001),
        (f"{OURS} / {PEER}, 1 thread", 1.02),
        (f"{OURS} control / {OURS}, 1 thread", None),
    ]
    assert report["ratios"][1]["met"]
    assert all(ratio["low"] is None for ratio in report["ratios"])  # three rounds have no interval
    assert [sorted(order) for order in report["order"]["1"]] == [sorted(names)] * 3
    assert report["skipped"]["openvino"] == "pip install openvino"
    assert "refused the graph" in report["skipped"]["onnxruntime TensorRT dialect, 1 thread"]
    assert "missing openvino: pip install openvino" in done.stderr
    forms_tried = {tried["name"].removeprefix("onnxruntime u8s8, ") for tried in report["tried"]}
    assert forms_tried | set(report["not_quantized"]) == {form.name for form in peer.FORMS}
    assert report["cases"][3]["graph"] in forms_tried
    assert set(report["operators"]) == {"plain", "cpu", report["cases"][3]["graph"]}
    assert {"cpu", "cores", "memory_bytes", "load_before", "load_after"} <= set(report["machine"])
    assert {"python", "numpy", "onnxruntime", "onnx", "edge-cnnlstm"} <= set(report["versions"])
    assert "too few to trust a p99" in " ".join(done.stdout.split())
    assert gone(workers)


def test_without_onnx_the_peer_is_skipped_and_every_thread_count_measured(
    make_bundle: Make, workers: list[Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "find_spec", without("openvino"))
    monkeypatch.setattr(command, "find_spec", without("onnx"))
    path = make_bundle(described=(FP32, CPU))

    report = command.run(bundle_format.read(path), path, command.Plan((1, 2), rounds=1, steps=2), tmp_path)

    assert [(case["name"], case["threads"]) for case in report["cases"]] == [
        (name, threads) for threads in (1, 2) for name in (BASE, OURS, f"{OURS} control")
    ]
    assert report["skipped"]["peer"] == "pip install onnx"
    assert (report["tried"], report["operators"]) == ([], {})
    assert list(report["order"]) == ["1", "2"]


def test_without_any_graph_that_runs_there_is_nothing_to_show(
    make_bundle: Make, workers: list[Worker], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forms, "find_spec", without("openvino"))
    monkeypatch.setattr(command, "find_spec", without("onnx"))
    path = make_bundle({"plain": b"not a graph"}, described=(FP32,))

    with pytest.raises(BackendError, match=r"no engine ran any graph: .*refused the graph"):
        command.run(bundle_format.read(path), path, command.Plan((1,), rounds=1, steps=1), tmp_path)


def test_a_bundle_without_fp32_is_refused(make_bundle: Make) -> None:
    done = CliRunner().invoke(app, ["engines", str(make_bundle(described=(CPU,)))])

    assert isinstance(done.exception, ConfigError)


def test_a_seed_below_zero_is_refused_before_anything_is_measured(make_bundle: Make) -> None:
    assert CliRunner().invoke(app, ["engines", str(make_bundle()), "--seed", "-1"]).exit_code == 2


def test_the_printed_command_spells_out_every_option() -> None:
    plan = command.Plan((1, 4), 5, 20, 3, forms.Goals(2.0, 1.5))

    assert " ".join(command.words(plan)) == (
        "--threads 1 --threads 4 --rounds 5 --steps 20 --seed 3 --goal-engine 2.0 --goal-ort 1.5"
    )


def test_the_default_plan_has_enough_samples_for_a_p99() -> None:
    assert command.Plan().rounds * command.Plan().steps >= SAMPLES_FOR["p99"]


@pytest.mark.slow
def test_a_real_bundle_runs_in_every_engine_that_is_installed(exported: Path, tmp_path: Path) -> None:
    destination = tmp_path / "engines.json"
    options = ["--threads", "1", "--rounds", "1", "--steps", "5", "-o", str(destination)]

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", "engines", str(exported), *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr
    report = json.loads(destination.read_text())
    assert report["not_quantized"] == {}
    refused = [tried["name"] for tried in report["tried"] if "refused" in tried]
    assert not any(name.startswith("onnxruntime") for name in refused)
    found = {case["name"]: case for case in report["cases"]}
    for engine in forms.installed_engines():
        assert {f"{engine} {form}" for form in ("fp32", "int8", "int8 control", "TensorRT dialect", forms.PEER)} <= set(
            found
        )
        assert found[f"{engine} fp32"]["deviation"] < 1e-3
        assert found[f"{engine} int8"]["deviation"] < 0.2
    ours = report["operators"][found[OURS]["graph"]]
    assert (ours["integer_convolutions"], ours["float_convolutions"]) == (CONVOLUTIONS, 0)
