"""Holds what a figure says of its goal, and which graph all others are compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.bundle import reference_of
from benchmarks.goals import Figure, table
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
    console = Console(width=100)

    with console.capture() as shown:
        console.print(table(figures, "Ratios", ("ratio", "median", "all"), decimals=1))

    rows = {line.split()[1]: line for line in shown.get().splitlines() if line.startswith("│")}
    assert "2.0–3.0" in rows["fast"]
    assert "2,100" in rows["fast"]
    assert "≥ 1.5 missed" in rows["slow"]
    assert "≤ 1.05 met" in rows["drift"]
    assert "met" not in rows["idle"]


def test_the_reference_is_the_first_fp32_graph(make_bundle: Make) -> None:
    precisions = {"small": "int8", "plain": "fp32", "again": "fp32"}
    described = tuple(Graph(name, f"graphs/{name}.onnx", "portable", how, 1e-4) for name, how in precisions.items())

    assert reference_of(bundle_format.read(make_bundle(described=described))) == "plain"


def test_a_bundle_without_fp32_is_refused_and_its_graphs_named(make_bundle: Make) -> None:
    described = (Graph("small", "graphs/small.onnx", "onnxruntime", "int8", 1e-4),)

    with pytest.raises(ConfigError, match=r"(?s)\['small'\].*fp32"):
        reference_of(bundle_format.read(make_bundle(described=described)))
