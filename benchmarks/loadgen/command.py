"""`python -m benchmarks loadgen BUNDLE`: MLPerf's own LoadGen over our streams, in its four scenarios."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks import processes
from benchmarks.latency import WARM_UP_FRAMES
from benchmarks.loadgen import overhead
from benchmarks.loadgen.figures import figures
from benchmarks.loadgen.package import load_loadgen
from benchmarks.loadgen.plan import Plan
from benchmarks.loadgen.scenario import OFFICIAL_S, SCENARIOS
from benchmarks.loadgen.show import section
from benchmarks.progress import bar
from benchmarks.record import keep, recording
from benchmarks.show import print_section
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import ConfigError

MADE_WITH = ("mlcommons-loadgen", "numpy", "onnxruntime", "openvino")


def loadgen(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    scenarios: Annotated[
        list[str] | None, typer.Option("--scenario", help=f"Repeat for more; all by default: {', '.join(SCENARIOS)}.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, help=f"Least duration of each scenario; MLPerf asks for {OFFICIAL_S}.")
    ] = 60,
    streams: Annotated[int, typer.Option(min=2, help="Streams in one step of MultiStream and Offline.")] = 8,
    load: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of what a stream can do that Server asks for.")
    ] = 0.5,
    frames: Annotated[int, typer.Option(min=1, help="Frames that LoadGen draws from.")] = 1024,
    backend: Annotated[str, typer.Option(help="As edge_cnnlstm.open has it.")] = "auto",
    graph: Annotated[str | None, typer.Option(help="One of the bundle's graphs; by default the fastest.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Cores that one step may use.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of LoadGen and of a plain loop, to compare them.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Frames a turn.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of turns; LoadGen's seeds are MLPerf's.")] = 0,
    logs: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep the files that LoadGen writes.")] = None,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write everything to this file.")] = None,
) -> None:
    """Let MLPerf's LoadGen ask, take the time and judge: SingleStream, MultiStream, Server and Offline.

    Each scenario has a process of its own. The answers that LoadGen logged are compared with those of a lone stream.
    """
    load_loadgen()
    names = tuple(scenarios or SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            raise ConfigError(
                f"scenario {name!r}", expected=f"one of {', '.join(SCENARIOS)}", fix="choose one of these"
            )
    plan = Plan(str(path.resolve()), backend, graph, threads, streams, frames, seconds, load)
    with (
        recording("loadgen", words(plan, names, rounds, steps, seed), path, MADE_WITH) as report,
        _folder(logs) as folder,
    ):
        with bar("LoadGen") as started:
            advance, answers = started(len(names)), dict[str, dict[str, Any]]()
            for name in names:
                answers[name] = processes.run("benchmarks.loadgen.run", plan.word(), name, folder)
                advance(name)
        report |= {"plan": _document(plan), "scenarios": answers}
        report["ratios"] = [figure.document() for figure in figures(answers, _tolerance(path, answers))]
        if "SingleStream" in answers:
            _compare(report, plan, rounds, steps, seed)
    print_section(section(report), report)
    keep(report, destination)


def words(plan: Plan, names: tuple[str, ...], rounds: int, steps: int, seed: int) -> list[object]:
    """Return the words after the bundle that repeat a run."""
    said: list[object] = [word for name in names for word in ("--scenario", name)]
    options = _document(plan) | {"rounds": rounds, "steps": steps, "seed": seed}
    return said + [
        word
        for name, value in options.items()
        if value is not None
        for word in (f"--{name}", f"{value:g}" if isinstance(value, float) else value)
    ]


def _compare(report: dict[str, Any], plan: Plan, rounds: int, steps: int, seed: int) -> None:
    """Add what LoadGen itself costs: the engine that SingleStream had, asked by LoadGen and by a loop, in turns."""
    single = report["scenarios"]["SingleStream"]
    same = replace(plan, backend=single["backend"], graph=single["graph"])
    with bar("LoadGen beside a plain loop") as started:
        turns = processes.take_turns(overhead.workers(same), {"steps": steps}, rounds, seed, started)
    report["overhead"] = {"rounds": turns.answers, "order": turns.order, "warm_up_frames": WARM_UP_FRAMES}
    report["ratios"] += [figure.document() for figure in overhead.figures(turns)]


def _tolerance(path: Path, answers: dict[str, dict[str, Any]]) -> float:
    """Return the most that the export lets a graph that was run differ from its golden rollout."""
    manifest = bundle_format.read(path).manifest
    return max(manifest.graph(answer["graph"]).tolerance for answer in answers.values())


def _document(plan: Plan) -> dict[str, Any]:
    """Return a plan without a folder of this machine."""
    return {name: value for name, value in asdict(plan).items() if name != "bundle"}


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """Yield where LoadGen writes: a folder that is kept, or one that goes."""
    if kept is None:
        with TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        yield kept.resolve()
