"""`python -m benchmarks runtime`: what the runtime adds to an engine, and what it does to be on time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from benchmarks.processes import run
from benchmarks.progress import bar
from benchmarks.record import keep, recording
from benchmarks.runtime import cold
from benchmarks.runtime.figures import Rounds, figures
from benchmarks.runtime.show import section
from benchmarks.show import print_section
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime import choice
from edge_cnnlstm.runtime.optional import is_installed
from edge_cnnlstm.runtime.selection import sound_graphs

MADE_WITH = ("numpy", "onnxruntime", "openvino", "pydantic", "torch", "edge-cnnlstm")
SUITES = ("overhead", "release", "paced", "group", "retained", "cold", "soak")
RELEASES = 3_000
"""Of each kind, a round: seven rounds are the 20,140 samples that a p99.9 needs."""
PACED_FRAMES = 150
STREAMS = 8
TOGETHER = 200
RETAINED_FRAMES = 200_000
PEER_DIALECTS = {"portable", "onnxruntime"}
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
    peers = [each.name for each in bundle.manifest.graphs if each.dialect in PEER_DIALECTS]
    with (
        TemporaryDirectory() as folder,
        recording("runtime", words(wanted, checkpoint, rounds, soak), path, MADE_WITH) as report,
    ):
        report |= {"backend": backend, "graph": graph.name}
        measurements = _measurements(path, backend, graph.name, peers, wanted, checkpoint, soak, Path(folder))
        measured = _measure(measurements, rounds)
        report |= {"ratios": [figure.document() for figure in figures(measured)], "rounds": measured}
    print_section(section(report), report)
    keep(report, destination)


def words(suites: tuple[str, ...], checkpoint: Path | None, rounds: int, soak: float) -> list[str]:
    """Return the options that repeat a run, with no folder of this machine."""
    chosen = [word for suite in suites for word in ("--suite", suite)]
    chosen += ["--checkpoint", checkpoint.name] if checkpoint else []
    return [*chosen, "--rounds", str(rounds), "--soak", f"{soak:g}"]


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
    paced = partial(run, "benchmarks.runtime.paced", path.resolve())
    found: dict[str, Measurement] = {}
    if "overhead" in suites:
        found["overhead"] = partial(run, "benchmarks.runtime.overhead")
    if "release" in suites:
        found |= {
            f"release {kind}": partial(run, "benchmarks.runtime.release", kind, RELEASES) for kind in ("spun", "slept")
        }
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
            found[name] = partial(run, "benchmarks.runtime.together", *ours, STREAMS, threads, TOGETHER)
    if "cold" in suites and checkpoint is not None:
        found["cold ours"] = partial(run, "benchmarks.runtime.cold", cold.OURS, *map(str, ours))
        found["cold torch"] = partial(run, "benchmarks.runtime.cold", cold.TORCH, *cold.torch_files(checkpoint, folder))
    if "retained" in suites:
        found["retained"] = partial(run, "benchmarks.runtime.retained", *ours, RETAINED_FRAMES)
    if "soak" in suites:
        found["soak"] = partial(run, "benchmarks.runtime.soak", *ours, soak)
    return found


def _measure(measurements: dict[str, Measurement], rounds: int) -> Rounds:
    """Take turns, in the other direction every second round, so that nothing always follows the same thing."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in measurements}
    turns = [
        name
        for number in range(rounds)
        for name in (list(measurements) if number % 2 == 0 else reversed(list(measurements)))
        if number == 0 or name not in ("retained", "soak")
    ]
    with bar("measuring") as started:
        advance = started(len(turns))
        for name in turns:
            found[name].append(measurements[name]())
            advance(name)
    return dict(found)
