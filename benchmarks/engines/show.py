"""The comparison of engines as tables."""

from __future__ import annotations

from typing import Any

from benchmarks.show import Section, Table, figures_table
from benchmarks.statistics import SAMPLES_FOR

CONTROL = "A control is the same graph measured again: how far its ratio is from 1, and its interval, is noise."
TIMES = (
    "Closed loop: every step follows the last one at once, so caches and clocks stay warm; a camera sees more. One "
    "step copies a frame into the engine's own buffer, runs, and carries the memory over; nothing else. Deviation is "
    "the largest difference of an output from FP32 over the golden frames, relative to that output's largest value."
)
OPERATORS = "What runs after ONNX Runtime's optimizer. FP32 convolutions are those left in floating point."


def section(report: dict[str, Any]) -> Section:
    """Return what the suite shows of its report."""
    tables = [figures_table(report, "Ratios, closed loop"), _times(report)]
    if report["operators"]:
        tables.append(_operators(report["operators"]))
    if report["tried"]:
        tables.append(_tried(report["tried"]))
    plan, waiting = report["plan"], max(sum(case["waiting_cpu_s"]) for case in report["cases"])
    turn = (
        f"Each turn: {plan['warm_up_steps']} steps to warm up, then {plan['steps']} timed, garbage collector off. "
        f"While others had their turns, no process used more than {waiting:.2f} s of CPU."
    )
    return Section("Engines and forms", tables, notes=[CONTROL, turn], missing=report["skipped"])


def _times(report: dict[str, Any]) -> Table:
    few = not all(case["enough_for_p99"] for case in report["cases"])
    note = f"* fewer than {SAMPLES_FOR['p99']:,} samples: too few to trust a p99. " if few else ""
    rows = [
        (
            case["name"],
            case["graph"],
            str(case["threads"]),
            f"{case['p50_us']:,.0f}",
            f"{'' if case['enough_for_p99'] else '*'}{case['p99_us']:,.0f}",
            f"{case['samples']:,}",
            _deviation(case),
        )
        for case in report["cases"]
    ]
    columns = ("case", "graph", "threads", "p50, µs", "p99, µs", "samples", "deviation")
    return Table("Time per step", columns, rows, note + TIMES)


def _operators(operators: dict[str, dict[str, int]]) -> Table:
    columns = ("graph", "int8 convolutions", "FP32 convolutions", "Quantize", "Dequantize")
    rows = [(graph, *(str(count) for count in counts.values())) for graph, counts in operators.items()]
    return Table("Operators in ONNX Runtime", columns, rows, OPERATORS)


def _tried(tried: list[dict[str, Any]]) -> Table:
    rows = []
    for one in tried:
        took = ("refused", "") if "refused" in one else (f"{one['p50_us']:,.0f}", _deviation(one))
        rows.append((one["name"], str(one["threads"]), *took))
    return Table("Forms of u8s8 that were tried, quickly", ("form", "threads", "p50, µs", "deviation"), rows)


def _deviation(case: dict[str, Any]) -> str:
    return "not finite" if case["deviation"] is None else f"{case['deviation']:.2g}"
