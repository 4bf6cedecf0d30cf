"""`python -m benchmarks runtime`: what the runtime adds to an engine, and what it does to be on time."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.progress import bar
from benchmarks.record import keep, recording
from benchmarks.runtime.figures import Rounds, figures
from benchmarks.runtime.show import section
from benchmarks.runtime.suites import SUITES, Measurements, Subject, measurements
from benchmarks.show import print_section
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime import choice
from edge_cnnlstm.runtime.selection import sound_graphs

MADE_WITH = ("numpy", "onnxruntime", "openvino", "pydantic", "torch", "edge-cnnlstm")
ONCE = ("retained", "soak")
"""Measured in the first round only: they take minutes, and are long enough in themselves."""


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
    seed: Annotated[int, typer.Option(help="Draws the order of each round.")] = 0,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write everything to this file.")] = None,
) -> None:
    """Measure overhead, release, pace, recovery, batching, memory, cold start and a soak, each beside its goal."""
    wanted = tuple(suites or SUITES)
    for suite in wanted:
        if suite not in SUITES:
            raise ConfigError(f"suite {suite!r}", expected=f"one of {', '.join(SUITES)}", fix="choose one of these")
    bundle = bundle_format.read(path)
    fastest = choice.fastest(path, bundle.manifest, sound_graphs(bundle.manifest), threads=1, streams=1)
    backend, graph = fastest.backend, fastest.graph
    with (
        TemporaryDirectory() as folder,
        recording("runtime", words(wanted, checkpoint, rounds, soak, seed), path, MADE_WITH) as report,
    ):
        report |= {"backend": backend, "graph": graph.name}
        subject = Subject(path, backend, graph.name, checkpoint, soak, Path(folder))
        measured, order = _measure(measurements(wanted, subject), rounds, seed)
        report |= {"ratios": [figure.document() for figure in figures(measured)], "rounds": measured, "order": order}
    print_section(section(report), report)
    keep(report, destination)


def words(suites: tuple[str, ...], checkpoint: Path | None, rounds: int, soak: float, seed: int) -> list[str]:
    """Return the options that repeat a run, with no folder of this machine."""
    chosen = [word for suite in suites for word in ("--suite", suite)]
    chosen += ["--checkpoint", checkpoint.name] if checkpoint else []
    return [*chosen, "--rounds", str(rounds), "--soak", f"{soak:g}", "--seed", str(seed)]


def _measure(asked: Measurements, rounds: int, seed: int) -> tuple[Rounds, list[list[str]]]:
    """Take turns, in an order drawn anew each round, so that nothing always follows the same thing; return it too."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in asked}
    draw, names = np.random.default_rng(seed), list(asked)
    order = [
        [names[at] for at in draw.permutation(len(names)) if number == 0 or names[at] not in ONCE]
        for number in range(rounds)
    ]
    with bar("measuring") as started:
        advance = started(sum(map(len, order)))
        for name in chain.from_iterable(order):
            found[name].append(asked[name]())
            advance(name)
    return dict(found), order
