"""`python -m benchmarks peers`: the same weights and frames through what users would pick instead, in one run."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.peers.comparison import Plan, compare
from benchmarks.peers.peer import Material
from benchmarks.peers.prepared import EVERY, peer_called
from benchmarks.peers.show import section
from benchmarks.record import keep, recording
from benchmarks.show import print_section

DISTRIBUTIONS = ("numpy", *dict.fromkeys(needed for peer in EVERY for needed in peer.needs))


def peers(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="The checkpoint that it was exported from: what torch's peers are made of.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Option("--peer", help="A peer; repeat for more. All that are installed by default.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="Cores that one step may use; repeat for more. 1 by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often every case has its turn.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps a turn, back to back.")] = 300,
    paced_frames: Annotated[int, typer.Option(min=0, help="Timed frames a turn at 30 Hz; 0 for no such turns.")] = 300,
    frames: Annotated[int, typer.Option(min=1, help="Frames of the rollout that accuracy is measured on.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of turns.")] = 0,
    page: Annotated[Path | None, typer.Option(help="Draw the report on this HTML page.")] = None,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write every sample to this file.")] = None,
) -> None:
    """Time our whole step beside other engines' bare calls on the same weights and frames, accuracy beside speed."""
    plan = Plan(tuple(threads or (1,)), rounds, steps, paced_frames, frames, seed)
    chosen = tuple(peer_called(name) for name in names or ()) or EVERY
    words = plan.words(checkpoint, names or ())
    with recording("peers", words, path, DISTRIBUTIONS) as report, TemporaryDirectory() as folder:
        material = Material(path.resolve(), checkpoint and checkpoint.resolve(), threads=1)
        report.update(compare(material, plan, chosen, Path(folder)))
    print_section(section(report), report)
    keep(report, destination, page)
