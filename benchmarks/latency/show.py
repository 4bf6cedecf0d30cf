"""A latency report as tables and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from benchmarks.latency.cases import LOOPS
from benchmarks.latency.document import Comparison, Loop, Measured, Percentile, Report, parse
from benchmarks.show import Picture, Section, Table, figures_table

TAILS = {"p50": "p50", "p90": "p90", "p99": "p99", "p99_9": "p99.9"}
STAGES = ("wait", "fit", "upload", "infer", "download", "decode", "age")
CLOSED = (
    "Closed loop: a frame follows the last answer at once, so that caches and clocks stay warm; a sample is the whole "
    "step, uint8 frame in, decoded prediction out. A camera lets them cool down between frames, and sees more."
)
OPEN = (
    "Open loop: {rate:g} frames a second, due whatever became of those before; a sample counts from when its frame was "
    "due until the caller has its answer, and no frame is left out. Tuned is with everything that --realtime switches "
    "on (the system let it run under {scheduler}), untuned without."
)
WINDOW = (
    "Window: the same answer without carried memory, the last {window} frames through the same graph. One that kept "
    "each frame's features would cost less; the bundle holds no such graph."
)
ASIDE = (
    "Every case has a process of its own; each round has a turn of each, in an order drawn anew. {warm_up} frames warm "
    "up every turn. The garbage collector is off meanwhile."
)
CONTROL = "The control is the same case in another process: how far its ratio is from 1, and its interval, is noise."
UNSEEN = "No telemetry here: nothing says whether the machine was slowed down meanwhile."
FOR_TENSORRT = "{} is written for TensorRT; it runs in {} for reference only."
PERCENTILES = (
    "In µs; late are frames whose response took longer than a period. A percentile is shown from the samples that "
    "it needs with ten above it."
)
CONFIDENT = (
    "In µs, by the rule of MLPerf's LoadGen: with 99 % confidence the percentile is no higher. Samples are taken to be "
    "independent."
)
SPLIT = (
    "In µs, p50 / p99 from enough samples. Wait is from when a frame was due to its step; age ends at the decision. "
    "Upload and download, on a GPU by its own clock, are part of infer; a dash is a copy that an engine does not make."
)
MOVED = (
    "Median round, µs. The interval leaves out 1 (Hodges and Lehmann's, by Mann and Whitney's test of the rounds), and "
    "the ratio is further from 1 than the controls of either run, which is the noise."
)


def section(report: dict[str, Any], *, drawn: bool = True) -> Section:
    """Return what the suite shows of its report; pictures only if they are `drawn`, and where matplotlib is here."""
    found = parse(report)
    comparison = [] if found.comparison is None else _comparison(found.comparison)
    tables = [*comparison, figures_table(report), _percentiles(found), _confident(found), _stages(found)]
    pictures = _pictures(found) if drawn and find_spec("matplotlib") is not None else []
    return Section(
        "Latency", tables, pictures, [*report["disturbances"], *_notes(found), *_unseen(report)], report["skipped"]
    )


def _pictures(report: Report) -> list[Picture]:
    from benchmarks.latency import plots

    own = [case for case in report.cases if not case.control]
    first = own[0]
    pictures = [
        Picture(
            "The tail", plots.tails(own), "Response by percentile; a thin line is of too few samples to depend on."
        ),
        Picture("Over the run", plots.drift(first), f"{first.name}, round by round: medians, and maxima as dots."),
    ]
    if any(loop.stages for case in own for loop in case.loops.values()):
        pictures.insert(1, Picture("Stages", plots.stages(own), "Where a frame's time goes."))
    return pictures


def _comparison(comparison: Comparison) -> list[Table]:
    title, differing = f"Against the run of {comparison.started}", [(said,) for said in comparison.differences]
    tables = [Table("What differs besides", ("then, and now",), differing)] if differing else []
    untold = f"Too few rounds to tell: {'; '.join(comparison.untold)}. " if comparison.untold else ""
    if not comparison.moved:
        nothing = f"nothing moved beyond noise, of {comparison.compared} compared"
        return [*tables, Table(title, ("what moved",), [(nothing,)], untold + MOVED)]
    rows = [
        (
            f"{change.case}, {LOOPS[change.loop]}",
            _us(change.old_us),
            _us(change.new_us),
            f"{change.ratio:.2f}",
            f"{change.low:.2f}–{change.high:.2f}",
            f"{1 / change.noise:.2f}–{change.noise:.2f}",
        )
        for change in comparison.moved
    ]
    columns = (f"what moved, of {comparison.compared}", "then", "now", "now ÷ then", "99 % interval", "noise")
    return [*tables, Table(title, columns, rows, untold + MOVED)]


def _percentiles(report: Report) -> Table:
    rows = [
        (
            case.name,
            LOOPS[name],
            *(_percentile(loop.percentiles[tail]) for tail in TAILS),
            "" if loop.late is None else f"{loop.late:,}",
            f"{len(loop.samples):,}",
        )
        for case, name, loop in _loops(report)
    ]
    return Table("Response", ("case", "loop", *TAILS.values(), "late", "samples"), rows, PERCENTILES)


def _confident(report: Report) -> Table:
    rows = [
        (case.name, LOOPS[name], *(_bound(loop.percentiles[tail]) for tail in TAILS), f"{len(loop.samples):,}")
        for case, name, loop in _loops(report)
    ]
    columns = ("case", "loop", *(f"{tail} ≤" for tail in TAILS.values()), "samples")
    return Table("With 99 % confidence", columns, rows, CONFIDENT)


def _stages(report: Report) -> Table:
    rows = [
        (case.name, LOOPS[name], *(_stage(loop, stage) for stage in STAGES))
        for case, name, loop in _loops(report)
        if loop.stages
    ]
    return Table("Stages", ("case", "loop", *STAGES), rows, SPLIT)


def _loops(report: Report) -> Iterator[tuple[Measured, str, Loop]]:
    return ((case, name, loop) for case in report.cases for name, loop in case.loops.items())


def _percentile(found: Percentile) -> str:
    return f"needs {found.needed:,}" if found.us is None else _us(found.us)


def _bound(found: Percentile) -> str:
    return f"needs {found.at_most_needs:,}" if found.at_most_us is None else _us(found.at_most_us)


def _stage(loop: Loop, name: str) -> str:
    if name not in loop.stages:
        return "–"
    stage = loop.stages[name]
    return _us(stage.p50_us) + ("" if stage.p99_us is None else f" / {_us(stage.p99_us)}")


def _us(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _notes(report: Report) -> Iterator[str]:
    plan = report.plan
    if "closed" in plan.loops:
        yield CLOSED
    open_loops = [loop.scheduler for _, name, loop in _loops(report) if name == "open"]
    if open_loops or "untuned" in plan.loops:
        scheduler = " and ".join(sorted({str(each) for each in open_loops})) or "nothing of it here"
        yield OPEN.format(rate=plan.rate, scheduler=scheduler)
    if "window" in plan.loops:
        yield WINDOW.format(window=plan.window)
    yield ASIDE.format(warm_up=plan.warm_up_frames)
    yield CONTROL
    for case in report.cases:
        if case.dialect == "tensorrt" and "tensorrt" not in case.backend and not case.control:
            yield FOR_TENSORRT.format(case.graph, case.backend)


def _unseen(report: dict[str, Any]) -> list[str]:
    return [] if report["telemetry"]["sources"] else [UNSEEN]
