"""A scaling report as tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.scaling import pictures
from benchmarks.scaling.figures import exponent_name
from benchmarks.scaling.fit import STEEPEST
from benchmarks.scaling.sweeps import GRAPHS
from benchmarks.show import Picture, Section, Table, figures_table

WITH_OFFSET, WITHOUT = "a + b·xᵏ", "b·xᵏ"
FORMS = (
    f"An exponent is fitted in every round: {WITH_OFFSET} where only a part of the step grows, k being that part's; "
    f"{WITHOUT} where all of it does. By MACs is the same fit to the multiply-accumulates. An exponent of 0.00 or "
    f"{STEEPEST:.2f} is a bound of the fit: that round knows nothing."
)
UNTRAINED = (
    "The networks are untrained: what a step takes does not depend on what the weights have learnt, as long as no "
    "number becomes subnormal. {}."
)
CONDITIONS = (
    "Closed loop, p50 alone; every case has a process of its own, all take turns in an order drawn anew each round.",
    "Measured on the CPU of the machine named below: on no Jetson and no GPU.",
    "A control is the same case once more: how far its ratio is from 1, and its interval, is noise.",
)
FEATURES = (
    "Last column: the multiply-accumulates of a window that keeps its frames' features and runs the LSTM again, over a "
    "stream's. That is arithmetic, not measured: the bundle holds no such graph."
)
GROWTH = "Points: p50 and its 95 % interval. Solid: the fit. Dashed: the first fitted point, growing as its MACs do."
WINDOWS = "Times of one answer, divided within a round. Dashed: as many times as the window has frames."


def section(report: dict[str, Any]) -> Section:
    """Return what the suite shows of its report."""
    sweeps = report["sweeps"]
    refused = {f"{sweep['name']}, {case}": why for sweep in sweeps for case, why in sweep["refused"].items()}
    tables = [figures_table(report), _exponents(report), *map(_points, sweeps)]
    drawn = [Picture("What a step takes as it grows", pictures.growth(report), GROWTH)]
    windows = [sweep for sweep in sweeps if sweep["mode"] == "window"]
    if windows:
        drawn.append(Picture("A window over a stream", pictures.windows(report), WINDOWS))
    notes = [UNTRAINED.format(_subnormal(sweeps)), *CONDITIONS]
    return Section("Scaling", tables, drawn, notes, refused)


def _exponents(report: dict[str, Any]) -> Table:
    figures, rows = {row["name"]: row for row in report["ratios"]}, []
    for sweep in report["sweeps"]:
        for precision, growth in sweep["growth"].items():
            figure = figures.get(exponent_name(sweep, precision))
            if figure is not None:
                spread = "" if figure["low"] is None else f"{figure['low']:.2f}–{figure['high']:.2f}"
                found = (f"{figure['value']:.2f}", spread, f"{growth['by_macs']:.2f}")
                rows.append((f"{sweep['unit']}, {precision}", *found, WITH_OFFSET if sweep["offset"] else WITHOUT))
    return Table("How fast a step grows", ("x", "k", "95 % interval", "k by MACs", "form"), rows, FORMS)


def _points(sweep: dict[str, Any]) -> Table:
    """Return a sweep's points, with a column for what only batches or windows have."""
    group, window = sweep["mode"] == "group", sweep["mode"] == "window"
    extra = ("µs a stream",) if group else ("MACs if features kept",) if window else ()
    columns = (sweep["unit"], "p50, µs", "95 % interval", "million MACs", "ns a MAC", "÷ the first", *extra)
    rows = []
    for precision in GRAPHS:
        cases = [case for case in sweep["cases"] if case["precision"] == precision]
        for case in cases:
            first = cases[0]
            row = (_case(case, sweep), *_numbers(case, first))
            if group:
                row += (f"{case['p50_us'] / case['point']:,.0f}",)
            if window:
                row += (
                    ""
                    if case["mode"] == "stream"
                    else f"{case['macs_features_kept'] * case['point'] / case['macs']:.2f}",
                )
            rows.append(row)
    return Table(sweep["name"].capitalize(), columns, rows, FEATURES if window else "")


def _case(case: dict[str, Any], sweep: dict[str, Any]) -> str:
    point = "streaming" if case["mode"] != sweep["mode"] else str(case["point"])
    return f"{case['precision']}, {point}{', control' if case['control'] else ''}"


def _numbers(case: dict[str, Any], first: dict[str, Any]) -> tuple[str, ...]:
    interval = case["p50_interval_us"]
    return (
        f"{case['p50_us']:,.0f}",
        "" if interval is None else f"{interval[0]:,.0f}–{interval[1]:,.0f}",
        f"{case['macs'] / 1e6:,.2f}",
        f"{case['p50_us'] * 1e3 / case['macs']:.4f}",
        f"{case['p50_us'] / first['p50_us']:.2f}",
    )


def _subnormal(sweeps: Sequence[dict[str, Any]]) -> str:
    found = sum(case["subnormal"] for sweep in sweeps for case in sweep["cases"])
    return f"{found:,} numbers of the memories were" if found else "None of the memories was, at the end of any turn"
