"""Holds what a figure says of its goal, and which graph all others are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.bundle import reference_of
from benchmarks.goals import Figure, ratio
from benchmarks.show import figures_table
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.manifest import Graph
from edge_cnnlstm.errors import ConfigError

Make = Callable[..., Path]


@pytest.mark.parametrize(
    ("value", "goal", "at_most", "met"),
    [
        (2.0, None, False, None),
        (2.0, None, True, None),
        (2.0, 2.0, False, True),
        (1.99, 2.0, False, False),
        (2.0, 2.0, True, True),
        (2.01, 2.0, True, False),
    ],
)
def test_a_goal_is_the_least_or_the_most_and_includes_itself(
    value: float, goal: float | None, at_most: bool, met: bool | None
) -> None:
    figure = Figure("figure", value, 10, goal=goal, at_most=at_most)

    assert figure.met is met
    assert figure.document()["met"] is met


def test_a_document_is_the_figure_and_whether_it_met_its_goal() -> None:
    figure = Figure("speed", 2.5, 300, 2.0, 3.0, 1.5)

    assert Figure(**{key: value for key, value in figure.document().items() if key != "met"}) == figure


def test_the_table_says_which_goals_are_met_and_which_missed() -> None:
    figures = [
        Figure("fast", 2.5, 2100, 2.0, 3.0, 1.5),
        Figure("slow", 1.2, 2100, 1.0, 1.4, 1.5),
        Figure("drift", 1.01, 100, goal=1.05, at_most=True),
        Figure("idle", 1.0, 5),
    ]

    shown = figures_table({"ratios": [figure.document() for figure in figures]}, decimals=1)

    assert shown.rows == [
        ("fast", "2.5", "2.0–3.0", "2,100", "≥ 1.5 met"),
        ("slow", "1.2", "1.0–1.4", "2,100", "≥ 1.5 missed"),
        ("drift", "1.0", "", "100", "≤ 1.05 met"),
        ("idle", "1.0", "", "5", ""),
    ]


def test_a_ratio_is_taken_within_a_round() -> None:
    slow = [[20, 20, 99], [90, 90, 90], [30, 30, 30]] * 2
    fast = [[10, 10, 10], [10, 10, 10, 10], [20, 20, 20]] * 2

    found = ratio("slow/fast", slow, fast)

    assert (found.value, found.low, found.high, found.samples) == (2, 1.5, 9, 18)
    assert (found.goal, found.met) == (None, None)


def test_rounds_that_do_not_pair_are_no_ratio() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratio("uneven", [[1], [1]], [[1]])


def test_the_reference_is_the_first_fp32_graph(make_bundle: Make) -> None:
    precisions = {"small": "int8", "plain": "fp32", "again": "fp32"}
    described = tuple(Graph(name, f"graphs/{name}.onnx", "portable", how, 1e-4) for name, how in precisions.items())

    assert reference_of(bundle_format.read(make_bundle(described=described))) == "plain"


def test_a_bundle_without_fp32_is_refused_and_its_graphs_named(make_bundle: Make) -> None:
    described = (Graph("small", "graphs/small.onnx", "onnxruntime", "int8", 1e-4),)

    with pytest.raises(ConfigError, match=r"(?s)\['small'\].*fp32"):
        reference_of(bundle_format.read(make_bundle(described=described)))
