"""`python -m benchmarks latency BUNDLE`, and others: numbers that one printed command reproduces."""

from __future__ import annotations

import shlex
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks import machine
from benchmarks.agreement.command import agreement
from benchmarks.bench.command import bench
from benchmarks.bundle import identity
from benchmarks.device.command import device
from benchmarks.engines.command import engines
from benchmarks.latency import SAMPLES_FOR_P99, SCHEMA_VERSION, WARM_UP_FRAMES, Advance, Case, Plan, Result
from benchmarks.latency import run as run_latency
from benchmarks.memory.command import memory
from benchmarks.record import read, write_page
from benchmarks.runtime.command import runtime
from benchmarks.statistics import percentile
from benchmarks.tables import tables
from benchmarks.training import training
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.cli import console

CLOSED_LOOP = (
    "Closed loop: every frame follows the last one at once, so caches and clocks stay warm. A camera lets them cool "
    "down between frames and sees more than this."
)
FOR_TENSORRT = "{} is written for TensorRT; it runs on this CPU for reference only."
CONTROL = (
    "Each ratio is taken within a round. The control is the same streaming measured again: how far its ratio is "
    "from 1, and its range, is noise."
)

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def benchmarks() -> None:
    """Measure: every sample kept, machine and versions beside the numbers."""


app.command()(bench)
app.command()(agreement)
app.command()(device)
app.command()(engines)
app.command()(memory)
app.command()(runtime)
app.command()(training)
app.command()(tables)


@app.command()
def page(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT...", help="What suites wrote with -o.")],
    destination: Annotated[Path, typer.Option("-o", "--output", help="The page: one HTML file.")],
) -> None:
    """Draw results again, as a page."""
    reports = [read(path) for path in results]
    inner = [found for report in reports for found in report.get("suites", {"": report}).values()]
    write_page(destination, ", ".join(path.stem for path in results), inner)


@app.command()
def latency(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    rounds: Annotated[int, typer.Option(min=1, help="How often every case has its turn.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Timed frames a turn; a tenth of it for windows.")] = 300,
    window: Annotated[int, typer.Option(min=2, help="Frames in the window that is run again.")] = 16,
    threads: Annotated[int, typer.Option(min=1, help="Cores that one step may use.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of turns.")] = 0,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write every sample to this file.")] = None,
) -> None:
    """Time one frame's step on the CPU, against running the last frames again, for every graph of a bundle.

    The frames are the bundle's golden frames: uint8 in, decoded prediction out, all of it in Python.
    """
    plan = Plan(rounds, steps, window, threads, seed)
    bundle = bundle_format.read(path)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": command(path, plan),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": identity(bundle, path),
        "machine": asdict(machine.describe()) | {"load_before": machine.load_average()},
        "versions": machine.versions(),
    }
    begun = time.monotonic()
    with _progress() as progress:
        result = run_latency(bundle, plan, lambda turns: _advance(progress, turns))
    report["seconds"] = round(time.monotonic() - begun, 1)
    report["machine"]["load_after"] = machine.load_average()
    report |= measured(result, plan)
    _show(report)
    if destination is not None:
        console.write_json(destination, report)


def command(path: Path, plan: Plan) -> str:
    """Return the command that repeats a run, with every option spelled out and no folder of this machine."""
    options = [text for name, value in asdict(plan).items() for text in (f"--{name}", str(value))]
    return shlex.join(["python", "-m", "benchmarks", "latency", path.name, *options])


def measured(result: Result, plan: Plan) -> dict[str, Any]:
    """Return a result as the JSON that `--output` writes; times in microseconds, samples in nanoseconds."""
    for_tensorrt = [case.graph.name for case in result.cases if case.graph.dialect == "tensorrt"]
    notes = [CLOSED_LOOP, *(FOR_TENSORRT.format(name) for name in dict.fromkeys(for_tensorrt))]
    return {
        "loop": "closed",
        "notes": notes,
        "plan": asdict(plan) | {"window_steps": plan.window_steps, "warm_up_frames": WARM_UP_FRAMES},
        "ratios": [asdict(ratio) for ratio in result.ratios],
        "cases": [_case(case) for case in result.cases],
        "order": result.order,
        "skipped": result.skipped,
    }


def _case(case: Case) -> dict[str, Any]:
    samples = case.samples
    return {
        "name": case.name,
        "graph": case.graph.name,
        "dialect": case.graph.dialect,
        "mode": case.mode,
        "p50_us": percentile(samples, 50) / 1e3,
        "p99_us": percentile(samples, 99) / 1e3,
        "samples": len(samples),
        "enough_for_p99": len(samples) >= SAMPLES_FOR_P99,
        "warm_up_calls": case.warm_up,
        "samples_ns": case.rounds,
    }


def _progress() -> Progress:
    """A bar that moves between turns only: its refresh thread would take the interpreter from the timed loop."""
    columns = (TextColumn("measuring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    interactive = console.console.is_terminal
    return Progress(*columns, console=console.console, auto_refresh=False, transient=True, disable=not interactive)


def _advance(progress: Progress, turns: int) -> Advance:
    task = progress.add_task("measuring", total=turns)
    return lambda: progress.update(task, advance=1, refresh=True)


def _show(report: dict[str, Any]) -> None:
    for graph, reason in report["skipped"].items():
        console.console.print(f"[yellow]skipped[/] {graph}: {escape(reason)}", highlight=False)
    for line in (_ratio_table(report), _time_table(report), _conditions(report)):
        console.output.print(line, highlight=False)
    console.output.print(report["command"], highlight=False, markup=False, soft_wrap=True)


def _ratio_table(report: dict[str, Any]) -> Table:
    table = Table("ratio of times", title="Ratios, closed loop", caption=CONTROL, caption_justify="left")
    for heading in ("median round", "all rounds", "samples"):
        table.add_column(heading, justify="right")
    rounds = report["plan"]["rounds"]
    for ratio in report["ratios"]:
        table.add_row(
            ratio["name"],
            f"{ratio['value']:.2f}",
            f"{ratio['low']:.2f}–{ratio['high']:.2f}",
            f"{rounds} × {ratio['samples'] // rounds}",
        )
    return table


def _time_table(report: dict[str, Any]) -> Table:
    notes = list(report["notes"])
    if not all(case["enough_for_p99"] for case in report["cases"]):
        notes.insert(0, f"* fewer than {SAMPLES_FOR_P99:,} samples: too few to trust a p99.")
    table = Table("graph", "mode", title="Time per new frame, closed loop", caption="\n".join(notes))
    table.caption_justify = "left"
    for heading in ("p50, µs", "p99, µs", "samples"):
        table.add_column(heading, justify="right")
    for case in report["cases"]:
        few = "" if case["enough_for_p99"] else "*"
        table.add_row(
            case["graph"], case["mode"], f"{case['p50_us']:,.0f}", f"{few}{case['p99_us']:,.0f}", f"{case['samples']:,}"
        )
    return table


def _conditions(report: dict[str, Any]) -> str:
    plan, host = report["plan"], report["machine"]
    return (
        f"machine   {host['cpu'] or host['architecture']}, {host['cores']} cores, "
        f"{host['memory_bytes'] / 2**30:.1f} GiB, governor {host['governor'] or 'unknown'}, "
        f"load {host['load_before']} before and {host['load_after']} after\n"
        f"versions  {', '.join(f'{name} {version}' for name, version in report['versions'].items())}\n"
        f"each turn {plan['warm_up_frames']} frames to warm up, garbage collector off, "
        f"{plan['threads']} thread{'s' if plan['threads'] > 1 else ''}; clock {host['clock_ns']:.0f} ns a sample; "
        f"{report['seconds']} s in all"
    )


if __name__ == "__main__":
    console.run(app)
