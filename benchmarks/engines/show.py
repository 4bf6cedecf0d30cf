"""The comparison of engines as tables."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from benchmarks import goals
from benchmarks.latency import SAMPLES_FOR_P99
from edge_cnnlstm.cli import console

RATIOS = (
    "Each ratio is taken within a round. A control is the same graph measured again: how far its ratio is from 1, and "
    "its range, is noise."
)
TIMES = (
    "Closed loop: every step follows the last one at once, so caches and clocks stay warm; a camera sees more. One "
    "step copies a frame into the engine's own buffer, runs, and carries the memory over; nothing else. Deviation is "
    "the largest difference of an output from FP32 over the golden frames, relative to that output's largest value."
)
OPERATORS = "What runs after ONNX Runtime's optimizer. FP32 convolutions are those left in floating point."


def show(report: dict[str, Any]) -> None:
    """Print a report: what is missing, ratios, times, operators, forms tried, and the command that repeats it."""
    for name, reason in report["skipped"].items():
        console.console.print(f"[yellow]skipped[/] {name}: {escape(reason)}", highlight=False)
    for part in (_ratios(report), _times(report), _operators(report), _tried(report), _conditions(report)):
        if part is not None:
            console.output.print(part, highlight=False)
    console.output.print(report["command"], highlight=False, markup=False, soft_wrap=True)


def _ratios(report: dict[str, Any]) -> Table:
    figures = [goals.Figure(**{key: value for key, value in row.items() if key != "met"}) for row in report["ratios"]]
    table = goals.table(figures, "Ratios, closed loop", ("ratio of times", "median round", "all rounds"))
    table.caption = RATIOS
    return table


def _times(report: dict[str, Any]) -> Table:
    few = not all(case["enough_for_p99"] for case in report["cases"])
    note = f"* fewer than {SAMPLES_FOR_P99:,} samples: too few to trust a p99.\n" if few else ""
    table = Table("case", "graph", title="Time per step", caption=note + TIMES, caption_justify="left")
    for heading in ("threads", "p50, µs", "p99, µs", "samples", "deviation"):
        table.add_column(heading, justify="right")
    for case in report["cases"]:
        table.add_row(
            case["name"],
            case["graph"],
            str(case["threads"]),
            f"{case['p50_us']:,.0f}",
            f"{'' if case['enough_for_p99'] else '*'}{case['p99_us']:,.0f}",
            f"{case['samples']:,}",
            _deviation(case),
        )
    return table


def _operators(report: dict[str, Any]) -> Table | None:
    if not report["operators"]:
        return None
    table = Table("graph", title="Operators in ONNX Runtime", caption=OPERATORS, caption_justify="left")
    for heading in ("int8 convolutions", "FP32 convolutions", "Quantize", "Dequantize"):
        table.add_column(heading, justify="right")
    for graph, counts in report["operators"].items():
        table.add_row(graph, *(str(count) for count in counts.values()))
    return table


def _tried(report: dict[str, Any]) -> Table | None:
    if not report["tried"]:
        return None
    table = Table("form", title="Forms of u8s8 that were tried, quickly")
    for heading in ("threads", "p50, µs", "deviation"):
        table.add_column(heading, justify="right")
    for tried in report["tried"]:
        took = ("refused", "") if "refused" in tried else (f"{tried['p50_us']:,.0f}", _deviation(tried))
        table.add_row(tried["name"], str(tried["threads"]), *took)
    return table


def _deviation(case: dict[str, Any]) -> str:
    return "not finite" if case["deviation"] is None else f"{case['deviation']:.2g}"


def _conditions(report: dict[str, Any]) -> str:
    plan, host = report["plan"], report["machine"]
    waiting = max(sum(case["waiting_cpu_s"]) for case in report["cases"])
    return (
        f"machine   {host['cpu'] or host['architecture']}, {host['cores']} cores, "
        f"load {host['load_before']} before and {host['load_after']} after\n"
        f"versions  {', '.join(f'{name} {version}' for name, version in report['versions'].items())}\n"
        f"each turn {plan['warm_up_steps']} steps to warm up, then {plan['steps']} timed, garbage collector off; clock "
        f"{host['clock_ns']:.0f} ns a sample; while others had their turns, no process used more than {waiting:.2f} s "
        f"of CPU; {report['seconds']} s in all"
    )
