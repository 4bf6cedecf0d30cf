"""`python -m benchmarks runtime`: what the runtime adds to an engine, and what it does to be on time."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import goals, machine
from benchmarks.bundle import identity
from benchmarks.runtime import cold
from benchmarks.runtime.figures import Rounds, figures
from benchmarks.runtime.processes import measure, run
from edge_cnnlstm import provenance
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.cli import console
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime import choice
from edge_cnnlstm.runtime.optional import is_installed
from edge_cnnlstm.runtime.selection import sound_graphs

SCHEMA_VERSION = 1
MADE_WITH = ("numpy", "onnxruntime", "openvino", "pydantic", "torch", "edge-cnnlstm")
SUITES = ("overhead", "release", "paced", "group", "retained", "cold", "soak")
RELEASES = 3_000
"""Of each kind, a round: seven rounds are the 20,140 samples that a p99.9 needs."""
PACED_FRAMES = 150
STREAMS = 8
TOGETHER = 200
RETAINED_FRAMES = 200_000
PEER_DIALECTS = {"portable", "onnxruntime"}
NOTE = (
    "The median round, and all rounds; every measurement has a process of its own, and they take turns. Peers are run "
    "as their documentation shows: default settings, memory carried by hand, asleep between frames."
)
Measurement = Callable[[], dict[str, Any]]


def runtime(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    suites: Annotated[
        list[str] | None, typer.Option("--suite", help=f"Repeat for more; all by default: {', '.join(SUITES)}.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The same network's checkpoint: what `cold` starts torch with.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often everything but soak and retained has its turn.")] = 7,
    soak: Annotated[float, typer.Option(min=15, help="Seconds that `soak` streams for.")] = 120,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write everything to this file.")] = None,
) -> None:
    """Measure overhead, release, pace, batching, memory, cold start and a soak, each beside what it is held against."""
    wanted = tuple(suites or SUITES)
    for suite in wanted:
        if suite not in SUITES:
            raise ConfigError(f"suite {suite!r}", expected=f"one of {', '.join(SUITES)}", fix="choose one of these")
    bundle = bundle_format.read(path)
    fastest = choice.fastest(path, bundle.manifest, sound_graphs(bundle.manifest), threads=1, streams=1)
    backend, graph = fastest.backend, fastest.graph
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "command": command(path, wanted, checkpoint, rounds, soak),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": identity(bundle, path),
        "backend": backend,
        "graph": graph.name,
        "machine": asdict(machine.describe()) | {"load_before": machine.load_average()},
        "versions": provenance.versions(*MADE_WITH),
    }
    begun = time.monotonic()
    peers = [each.name for each in bundle.manifest.graphs if each.dialect in PEER_DIALECTS]
    with TemporaryDirectory() as folder:
        measured = _measure(
            _measurements(path, backend, graph.name, peers, wanted, checkpoint, soak, Path(folder)), rounds
        )
    report["seconds"] = round(time.monotonic() - begun, 1)
    report["machine"]["load_after"] = machine.load_average()
    found = figures(measured)
    report |= {"ratios": [figure.document() for figure in found], "rounds": measured}
    _show(report, found)
    if destination is not None:
        console.write_json(destination, report)


def command(path: Path, suites: tuple[str, ...], checkpoint: Path | None, rounds: int, soak: float) -> str:
    """Return the command that repeats a run, with no folder of this machine."""
    words = ["python", "-m", "benchmarks", "runtime", path.name, *(w for suite in suites for w in ("--suite", suite))]
    words += ["--checkpoint", checkpoint.name] if checkpoint else []
    return shlex.join([*words, "--rounds", str(rounds), "--soak", f"{soak:g}"])


def _measurements(
    path: Path,
    backend: str,
    graph: str,
    peers: list[str],
    suites: tuple[str, ...],
    checkpoint: Path | None,
    soak: float,
    folder: Path,
) -> dict[str, Measurement]:
    """Return what to measure, by name; retained and soak are measured once, the rest in every round."""
    ours = (path.resolve(), backend, graph)
    paced = partial(measure, "paced", path.resolve())
    found: dict[str, Measurement] = {}
    if "overhead" in suites:
        found["overhead"] = partial(measure, "overhead")
    if "release" in suites:
        found |= {f"release {kind}": partial(measure, "release", kind, RELEASES) for kind in ("spun", "slept")}
    if "paced" in suites:
        found["closed"] = partial(paced, "closed", backend, graph, PACED_FRAMES)
        found["paced ours"] = partial(paced, "ours", backend, graph, PACED_FRAMES)
        found["paced untuned"] = partial(paced, "untuned", backend, graph, PACED_FRAMES)
        for engine in ("onnxruntime", "openvino") if is_installed("openvino") else ("onnxruntime",):
            found |= {
                f"paced peer {engine} {each}": partial(paced, "peer", engine, each, PACED_FRAMES) for each in peers
            }
    if "group" in suites:
        for threads in (1, 2):
            name = f"{STREAMS} streams on {threads} thread{'s' if threads > 1 else ''}"
            found[name] = partial(measure, "together", *ours, STREAMS, threads, TOGETHER)
    if "cold" in suites and checkpoint is not None:
        found["cold ours"] = partial(_cold, cold.OURS, *map(str, ours))
        found["cold torch"] = partial(_cold, cold.TORCH, *cold.torch_files(checkpoint, folder))
    if "retained" in suites:
        found["retained"] = partial(measure, "retained", *ours, RETAINED_FRAMES)
    if "soak" in suites:
        found["soak"] = partial(measure, "soak", *ours, soak)
    return found


def _cold(*words: str) -> dict[str, Any]:
    return run([sys.executable, "-m", "benchmarks.runtime.cold", *words])


def _measure(measurements: dict[str, Measurement], rounds: int) -> Rounds:
    """Take turns, in the other direction every second round, so that nothing always follows the same thing."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in measurements}
    turns = [
        name
        for number in range(rounds)
        for name in (list(measurements) if number % 2 == 0 else reversed(list(measurements)))
        if number == 0 or name not in ("retained", "soak")
    ]
    with _progress() as progress:
        task = progress.add_task("measuring", total=len(turns))
        for name in turns:
            progress.update(task, description=f"measuring {name}")
            found[name].append(measurements[name]())
            progress.advance(task)
    return dict(found)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console.console, transient=True, refresh_per_second=1)


def _show(report: dict[str, Any], found: list[goals.Figure]) -> None:
    table = goals.table(found, "The runtime", ("figure", "median round", "all rounds"))
    table.caption = NOTE
    console.output.print(table, highlight=False)
    host = report["machine"]
    console.output.print(
        f"bundle    {report['bundle']['name']}: graph {report['graph']!r} in {report['backend']}\n"
        f"machine   {host['cpu'] or host['architecture']}, {host['cores']} cores, "
        f"governor {host['governor'] or 'unknown'}, "
        f"load {host['load_before']} before and {host['load_after']} after; {report['seconds']} s in all\n"
        f"versions  {', '.join(f'{name} {version}' for name, version in report['versions'].items())}",
        highlight=False,
    )
    console.output.print(report["command"], highlight=False, markup=False, soft_wrap=True)
