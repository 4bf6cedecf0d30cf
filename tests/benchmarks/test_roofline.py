from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.processes import Turns
from benchmarks.roofline import kernels, peaks, step
from benchmarks.roofline.boards import BOARDS
from benchmarks.roofline.floor import arithmetic, bounds, total
from benchmarks.roofline.instructions import (
    READ_BYTES,
    Loop,
    Multiply,
    load_llvm,
    multiplies,
    multiply_loop,
    read_loop,
)
from benchmarks.roofline.measure import AGAIN, KERNELS, PEAKS, STEP, Plan, measured, results
from benchmarks.roofline.peaks import Peaks, aligned, best, multiplication
from benchmarks.roofline.show import section
from benchmarks.roofline.taken import taken
from benchmarks.roofline.work import Layer, Work, work_of
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.manifest import Manifest
from edge_cnnlstm.errors import BackendError, DependencyError
from edge_cnnlstm.runtime.choice import Candidate
from tests.benchmarks.conftest import untrained

REACH = {"warm_up": 2, "steps": 6}


def graph_of(nodes: list[Any], weights: dict[str, Any], shape: tuple[Any, ...], result: tuple[Any, ...]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "step",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def quantized(name: str, source: str) -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{name}_q"], name=f"/{name}/QuantizeLinear"),
        helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [name], name=f"/{name}/DequantizeLinear"),
    ]


def layer(name: str, macs: int = 1_000, weights: int = 100, activations: int = 10, precision: str = "int8") -> Layer:
    node = f"/{name.replace('.', '/')}/Conv"
    return Layer(name, node, precision, macs, macs, weights, activations, (node, f"{node}_output_0"))


def test_a_grouped_convolution_counts_the_channels_of_one_group() -> None:
    weights = {"w": np.zeros((8, 2, 3, 3), np.float32), "b": np.zeros(8, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["z"], name="/stem/Conv", group=2, pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["z"], ["y"], name="/act/Relu"),
    ]
    work = work_of(graph_of(nodes, weights, ("batch", 4, 5, 6), ("batch", 8, 5, 6)))
    macs, needed = 8 * 30 * 2 * 9, 8 * (5 * 3 - 2) * (6 * 3 - 2) * 2
    names = ("/stem/Conv", "z", "/act/Relu", "y")
    assert work.layers == (Layer("stem", "/stem/Conv", "fp32", macs, needed, 152 * 4, 360 * 4, names),)
    assert work.elementwise_bytes == 2 * 240 * 4
    assert work.working_set == 152 * 4 + 360 * 4


def test_padding_is_not_counted_in_what_must_be_multiplied_with_strides_and_dilations() -> None:
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], name="/stem/Conv", strides=[2, 1], dilations=[1, 2], pads=[1, 2, 1, 2]
    )
    (found,) = work_of(graph_of([node], {"w": np.zeros((1, 1, 3, 3), np.float32)}, (1, 1, 4, 4), (1, 1, 2, 4))).layers
    image = np.pad(np.ones((4, 4)), ((1, 1), (2, 2)))
    inside = sum(image[2 * row : 2 * row + 3, column : column + 5 : 2].sum() for row in range(2) for column in range(4))
    assert (found.macs, found.needed) == (2 * 4 * 9, inside)


def test_a_product_between_integers_is_int8_and_its_bytes_are_the_integers() -> None:
    weights = {
        "scale": np.array(0.1, np.float32), "zero": np.array(0, np.uint8),
        "w_q": np.zeros((16, 4), np.int8), "w_scale": np.array(0.1, np.float32), "w_zero": np.array(0, np.int8),
        "axis": np.array([1]),
    }  # fmt: skip
    nodes = [
        *quantized("a", "x"),
        helper.make_node("Unsqueeze", ["a", "axis"], ["row"], name="/gates/Unsqueeze"),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w"], name="/gates/weight"),
        helper.make_node("MatMul", ["row", "w"], ["z"], name="/gates/MatMul"),
        helper.make_node("Relu", ["z"], ["r"], name="/gates/Relu"),
        *quantized("y", "r"),
    ]
    (found,) = work_of(graph_of(nodes, weights, ("batch", 16), ("batch", 1, 4))).layers
    assert (found.precision, found.macs, found.weights, found.activations) == ("int8", 64, 64, 16 + 4)


def test_a_product_with_integer_weights_alone_is_not_int8() -> None:
    weights = {"w_q": np.zeros((16, 4), np.int8), "w_scale": np.array(0.1, np.float32), "w_zero": np.array(0, np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"], name="/head/MatMul"),
    ]
    (found,) = work_of(graph_of(nodes, weights, ("batch", 16), ("batch", 4))).layers
    assert (found.precision, found.weights, found.activations) == ("fp32", 64, (16 + 4) * 4)


def test_an_integer_convolution_of_onnx_runtime_counts_as_int8() -> None:
    weights = {
        "scale": np.array(0.1, np.float32), "zero": np.array(0, np.uint8),
        "w": np.zeros((8, 4, 1, 1), np.int8), "w_zero": np.array(0, np.int8), "b": np.zeros(8, np.int32),
    }  # fmt: skip
    given = ["x_q", "scale", "zero", "w", "scale", "w_zero", "scale", "zero", "b"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x_q"]),
        helper.make_node("QLinearConv", given, ["z_q"], name="/stem/Conv_quant"),
        helper.make_node("DequantizeLinear", ["z_q", "scale", "zero"], ["y"]),
    ]
    (found,) = work_of(graph_of(nodes, weights, (1, 4, 5, 5), (1, 8, 5, 5))).layers
    assert (found.precision, found.macs, found.weights) == ("int8", 8 * 25 * 4, 32 + 8 * 4)
    assert found.activations == 100 + 200


def test_the_graphs_of_a_bundle_do_as_much_as_the_exporter_counts_in_the_network(nano: Path) -> None:
    from export.cost import layer_costs

    bundle = bundle_format.read(nano)
    counted = sum(cost.macs for cost in layer_costs(untrained(layers=1)).values())
    assert {work_of(bundle.graph(graph.name)).macs for graph in bundle.manifest.graphs} == {counted}


@pytest.mark.parametrize("each", multiplies(), ids=lambda each: f"{each.name}-{each.bits}")
def test_a_peaks_loop_really_multiplies_and_adds_into_every_register(each: Multiply) -> None:
    run, sums = multiplication(each, Loop(multiply_loop(each)), times=5)
    run()
    once = each.sums_of(*each.operands())
    assert once.any()
    np.testing.assert_array_equal(sums, np.broadcast_to(5 * once, sums.shape))


def test_the_reading_loop_reads_every_byte_as_often_as_it_says() -> None:
    data, sums = aligned(3 * READ_BYTES), np.zeros(16, np.int32)
    data[:] = np.random.default_rng(0).integers(0, 256, data.size)
    Loop(read_loop())(data.ctypes.data, sums.ctypes.data, data.size, 2)
    np.testing.assert_array_equal(sums, 2 * data.view(np.int32).reshape(-1, 16).sum(0, dtype=np.int32))


def test_peaks_are_finite_on_one_thread_and_on_two() -> None:
    for threads in ("1", "2"):
        found = best([peaks.main(threads, "0")[1]({})])
        assert set(found.macs) == {"fp32", "int8"}
        rates = [*found.macs.values(), *(rate for _, rate in found.read)]
        assert np.isfinite(rates).all()
        assert min(rates) > 0


def test_a_missing_compiler_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llvmlite.binding", None)
    with pytest.raises(DependencyError, match="pip install llvmlite"):
        load_llvm()


def test_the_best_of_all_turns_is_the_peak() -> None:
    def turn(*rates: float) -> dict[str, Any]:
        multiply = [{"precision": "fp32", "macs_per_second": rates[0]}, {"precision": "int8", "macs_per_second": 1.0}]
        return {"multiply": multiply, "read": [[10, rates[1]], [100, rates[2]]]}

    assert best([turn(3, 8, 1), turn(4, 7, 2)]) == Peaks({"fp32": 4, "int8": 1}, ((10, 8), (100, 2)))


def test_a_working_set_between_two_sizes_is_read_as_fast_as_the_smaller() -> None:
    found = Peaks({}, ((10, 8.0), (100, 2.0)))
    assert [found.bandwidth(size) for size in (1, 10, 99, 100, 1_000)] == [8, 8, 8, 2, 2]


def test_a_layer_is_bound_by_its_arithmetic_or_its_bytes_whichever_takes_longer() -> None:
    machine = Peaks({"int8": 1_000.0, "fp32": 500.0}, ((0, 1_000.0), (100, 100.0), (10_000, 10.0)))
    work = Work((layer("a", macs=2_000, weights=100, activations=50), layer("b", 10, 400, 50, "fp32")), 0)
    warm, cold = bounds(work, machine), bounds(work, machine, cold=True)
    assert [(each.compute, each.memory) for each in warm] == [(2, 1.05), (0.02, 4.05)]
    assert (arithmetic(warm), total(warm)) == (2.02, 2 + 4.05)
    assert total(cold) == 10.05 + 40.05


def test_a_board_predicts_only_what_its_figures_cover_and_reads_weights_from_memory() -> None:
    orin = next(board for board in BOARDS if board.name.startswith("AGX Orin"))
    int8, plain = Work((layer("a", 85_000_000, 1_000_000),), 0), Work((layer("a", precision="fp32"),), 0)
    assert (orin.predicts(int8), orin.predicts(plain)) == (True, False)
    (found,) = orin.bounds(int8)
    assert found.compute == pytest.approx(2e-6)
    assert found.memory == pytest.approx(1e6 / 204.8e9)


def test_kernels_find_their_layer_by_what_an_engine_leaves_of_its_name() -> None:
    layers = [layer("stage_1"), layer("stage_1_more"), layer("gates")]

    def kernel(name: str, kind: str, us: float, *made_of: str) -> dict[str, Any]:
        return {"name": name, "kind": kind, "us": us, "made_of": list(made_of)}

    found = taken(
        layers,
        [
            kernel("/stage_1/Conv_token_4", "QLinearConv", 5),
            kernel("/stage_1_more/Conv_output_0_nchwc", "Conv", 7),
            kernel("Multiply_12", "FullyConnected jit_gemm_I8", 2, "Multiply_12", "/gates/Conv/WithoutBiases"),
            kernel("/gates/Conv_f32_u8", "Reorder jit", 1),
            kernel("/unknown/MatMul", "MatMul", 3),
        ],
    )
    assert found.layers == {"stage_1": 5, "stage_1_more": 7, "gates": 2}
    assert found.kinds["gates"] == "FullyConnected jit_gemm_I8"
    assert (found.other, found.kernels) == (4, 18)


def test_onnx_runtimes_profile_loses_its_warm_up_and_its_own_cost() -> None:
    def events(name: str, *durations: float) -> list[dict[str, Any]]:
        return [
            {"cat": "Node", "name": f"{name}_kernel_time", "dur": each, "args": {"op_name": "Conv"}}
            for each in durations
        ]

    other = [{"cat": "Session", "name": "model_run", "dur": 99}]
    found = kernels.onnxruntime_kernels([*other, *events("a", 900, 10, 12, 14, 400), *events("b", 9, 4, 4, 4, 4)], 1)
    assert found["profiler_us"] == 4
    assert [(each["name"], each["us"]) for each in found["kernels"]] == [("a", 13 - 4), ("b", 0)]


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_each_layer_of_a_network_is_found_among_an_engines_kernels(nano: Path, engine: str) -> None:
    bundle = bundle_format.read(nano)
    work = work_of(bundle.graph("int8_onnxruntime"))
    turn = kernels.main(str(nano), "int8_onnxruntime", engine, "1")[1](REACH)
    found = taken(work.layers, turn["kernels"])
    assert set(found.kinds) == {each.name for each in work.layers}


def test_a_report_says_floors_and_steps_and_that_boards_are_a_prediction(nano: Path) -> None:
    bundle = bundle_format.read(nano)
    report = conditions() | results(*turns_of(nano, bundle.manifest))
    first, *_ = report["ratios"]
    assert (first["name"], first["goal"], first["at_most"]) == ("onnxruntime fp32: step / compute floor", 3, True)
    shown = section(report)
    *_, boards = shown.tables
    assert boards.caption.startswith("PREDICTION. Nothing here was run on a Jetson.")
    assert [row[0] for row in boards.rows] == [board.name for board in BOARDS]
    assert {picture.png[:4] for picture in shown.pictures} == {b"\x89PNG"}
    for graph in report["graphs"]:
        assert (graph["floors_us"] is None) == (graph["name"] == "int8_tensorrt")


def test_an_engine_that_was_chosen_and_then_refuses_ends_the_benchmark(nano: Path) -> None:
    graphs, cases, works, turns = turns_of(nano, bundle_format.read(nano).manifest)
    gone = {name: answers for name, answers in turns.answers.items() if not name.endswith(KERNELS)}
    with pytest.raises(BackendError, match="no room"):
        results(graphs, cases, works, Turns(gone, turns.order, {}, {"onnxruntime fp32 kernels": "no room"}))


@pytest.mark.slow
def test_peaks_steps_and_kernels_take_turns_in_processes_of_their_own(nano: Path) -> None:
    finished: list[str] = []
    report = measured(nano, Plan(rounds=1, steps=5), lambda _: finished.append)
    assert set(report["order"][0]) == set(finished)
    assert {name.rsplit(" ", 1)[-1] for name in finished} == {"peaks", "step", "again", "kernels"}
    assert report["missing"] == {}
    assert {case["graph"] for case in report["cases"]} >= {"fp32"}


def turns_of(path: Path, manifest: Manifest) -> tuple[Any, list[Candidate], dict[str, Work], Turns]:
    """Take one turn of each part, in this process."""
    bundle, case = bundle_format.read(path), Candidate("onnxruntime", manifest.graph("fp32"))
    words = (str(path), "fp32", "onnxruntime", "1")
    answers = {
        PEAKS: [peaks.main("1", "0")[1]({})],
        f"{case.name} {STEP}": [step.main(*words)[1](REACH)],
        f"{case.name} {AGAIN}": [step.main(*words)[1](REACH)],
        f"{case.name} {KERNELS}": [kernels.main(*words)[1](REACH)],
    }
    works = {graph.name: work_of(bundle.graph(graph.name)) for graph in manifest.graphs}
    return manifest.graphs, [case], works, Turns(answers, [list(answers)], {}, {})


def conditions() -> dict[str, Any]:
    return {"plan": {"rounds": 1, "steps": 6, "threads": 1, "seed": 0, "warm_up_steps": 2}}
