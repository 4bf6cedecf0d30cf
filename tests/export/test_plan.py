from __future__ import annotations

from dataclasses import replace

import pytest

from edge_cnnlstm.bundle.manifest import Candidate, Dialect
from edge_cnnlstm.errors import ConfigError, ExportError
from export.cost import Board, LayerCost, cost_of
from export.pipeline import _shipped
from export.plan import choose
from export.precisions import Precision, candidates

LAYERS = ("backbone.a", "backbone.b", "cells.0.gates_x", "cells.0.gates_h")
PRECISIONS = candidates(LAYERS)


def row(name: str, lost: float = 0.0, measured: float | None = None, estimated: float | None = None) -> Candidate:
    return Candidate(name, PRECISIONS[name].description, {"digit": 0.9 - lost}, lost, 1000, measured, estimated)


ROWS = {
    "fp32": row("fp32", 0.0, 200, 60),
    "fp16_tensorrt": row("fp16_tensorrt", 0.0001, None, 40),
    "mixed_tensorrt": row("mixed_tensorrt", 0.002, None, 30),
    "int8_tensorrt": row("int8_tensorrt", 0.02, None, 20),
    "mixed_onnxruntime": row("mixed_onnxruntime", -0.001, 150),
    "int8_onnxruntime": row("int8_onnxruntime", 0.001, 100),
}


def test_every_precision_says_which_layers_are_int8() -> None:
    assert {name: how.layers for name, how in PRECISIONS.items()} == {
        "fp32": (),
        "fp16_tensorrt": (),
        "mixed_tensorrt": LAYERS[:2],
        "int8_tensorrt": LAYERS,
        "mixed_onnxruntime": LAYERS[:2],
        "int8_onnxruntime": LAYERS,
    }
    kept = candidates(LAYERS, keep=("backbone.b", "cells.0.gates_h"))
    assert kept["int8_tensorrt"].layers == ("backbone.a", "cells.0.gates_x")
    assert "but for backbone.b, cells.0.gates_h" in kept["int8_tensorrt"].description
    assert not [name for name in candidates(LAYERS[:2]) if name.startswith("mixed")]


def test_auto_takes_the_fastest_within_the_budget_and_says_what_was_beyond() -> None:
    plan = choose(PRECISIONS, ROWS, "auto", 0.005)

    assert plan.chosen == {"tensorrt": "mixed_tensorrt", "onnxruntime": "int8_onnxruntime"}
    assert plan.reasons["tensorrt"] == (
        "mixed_tensorrt is the fastest of 3 within the budget, estimated at 30 µs a step against 60 µs in FP32; "
        "it loses 0.20 points. Beyond the budget: int8_tensorrt loses 2.00"
    )
    assert "measured at 100 µs a step against 200 µs" in plan.reasons["onnxruntime"]
    assert plan.candidates == tuple(ROWS.values())


def test_a_larger_budget_buys_the_faster_graph_and_none_at_all_leaves_fp32() -> None:
    assert choose(PRECISIONS, ROWS, "auto", 0.05).chosen["tensorrt"] == "int8_tensorrt"
    costly = ROWS | {name: replace(ROWS[name], lost=0.3) for name in ROWS if name != "fp32"}
    assert choose(PRECISIONS, costly, "auto", 0.005).chosen == {"tensorrt": "fp32", "onnxruntime": "fp32"}


def test_fp32_is_chosen_where_int8_is_slower_and_the_fastest_int8_is_shipped_too() -> None:
    slower = ROWS | {"int8_onnxruntime": replace(ROWS["int8_onnxruntime"], measured_us=260)}
    slower |= {"mixed_onnxruntime": replace(ROWS["mixed_onnxruntime"], measured_us=240)}
    plan = choose(PRECISIONS, slower, "auto", 0.005)

    assert plan.chosen["onnxruntime"] == "fp32"
    assert plan.reasons["onnxruntime"].endswith("at 200 µs a step; the next, mixed_onnxruntime, takes 240 µs")
    # A runtime takes the first graph that it is made for.
    assert _shipped(plan, PRECISIONS) == ["fp32", "mixed_tensorrt", "mixed_onnxruntime", "fp16_tensorrt"]
    lossy = slower | {"mixed_onnxruntime": replace(slower["mixed_onnxruntime"], lost=0.1)}
    assert "int8_onnxruntime" in _shipped(choose(PRECISIONS, lossy, "auto", 0.005), PRECISIONS)


@pytest.mark.parametrize(
    ("wanted", "tensorrt", "onnxruntime"),
    [
        ("fp32", "fp32", "fp32"),
        ("fp16", "fp16_tensorrt", "fp32"),
        ("mixed", "mixed_tensorrt", "mixed_onnxruntime"),
    ],
)
def test_what_was_asked_for_is_chosen(wanted: str, tensorrt: str, onnxruntime: str) -> None:
    plan = choose(PRECISIONS, ROWS, wanted, 0.005)  # type: ignore[arg-type]  # a parameter of the test

    assert plan.chosen == {"tensorrt": tensorrt, "onnxruntime": onnxruntime}
    assert plan.reasons["tensorrt"] == f"{tensorrt} was asked for"


def test_what_was_asked_for_and_loses_too_much_is_refused() -> None:
    with pytest.raises(ExportError, match=r"(?s)int8_tensorrt loses 2.00 points.*at most 0.50.*--qat.*--keep"):
        choose(PRECISIONS, ROWS, "int8", 0.005)


def test_a_form_that_a_network_does_not_have_is_refused() -> None:
    without = candidates(LAYERS[:2])

    with pytest.raises(ConfigError, match=r"(?s)--precision mixed.*without LSTM gates"):
        choose(without, {name: ROWS[name] for name in without}, "mixed", 0.005)


def test_a_layer_costs_its_memory_traffic_or_its_arithmetic_whichever_is_longer() -> None:
    board = Board("a board", 1e9, {"int8": 4e9, "fp16": 2e9, "fp32": 1e9})
    layers = {"backbone.a": LayerCost(macs=8_000, weights=100, activations=300),
              "cells.0.gates_x": LayerCost(macs=1_000, weights=1_000, activations=0)}  # fmt: skip
    dialect: Dialect = "tensorrt"
    half = Precision("half", dialect, "", (), PRECISIONS["fp16_tensorrt"].tolerance, lambda model, *_: model)

    fp16, int8 = cost_of(half, layers, board), cost_of(replace(half, layers=tuple(layers)), layers, board)

    assert fp16.macs == {"int8": 0, "fp16": 9_000, "fp32": 0}
    assert (fp16.weight_bytes, fp16.activation_bytes) == (2_200, 600)
    # The convolution by its arithmetic, the gates by the weights that they read.
    assert fp16.seconds == pytest.approx(8_000 / 2e9 + 2_000 / 1e9)
    assert int8.seconds == pytest.approx(8_000 / 4e9 + 1_000 / 1e9)
