"""`python -m benchmarks roofline BUNDLE`: how far a step is from what this machine could do at best."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.progress import bar
from benchmarks.record import keep, recording
from benchmarks.roofline.show import section
from benchmarks.show import print_section
from edge_cnnlstm.errors import DependencyError

MADE_WITH = ("numpy", "onnx", "onnxruntime", "openvino", "llvmlite")


def roofline(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    rounds: Annotated[int, typer.Option(min=1, help="How often peaks, steps and kernels have their turn.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps a turn.")] = 300,
    threads: Annotated[int, typer.Option(min=1, help="Cores that one step may use.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of turns.")] = 0,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write everything to this file.")] = None,
) -> None:
    """Measure this machine's peaks, and set each layer and the whole step of a bundle beside them.

    The same on paper for Jetson modules, from their public figures.
    """
    try:
        from benchmarks.roofline.measure import Plan, measured
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{error.name} is not installed", expected="what reads ONNX graphs", fix="pip install onnx"
        ) from error
    plan = Plan(rounds, steps, threads, seed)
    words = [text for name, value in asdict(plan).items() for text in (f"--{name}", str(value))]
    with recording("roofline", words, path, MADE_WITH) as report, bar("roofline") as started:
        report.update(measured(path, plan, started))
    keep(report, destination)
    print_section(section(report), report)
