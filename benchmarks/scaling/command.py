"""`python -m benchmarks scaling`: what a step costs as the network, its input or its company grows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from benchmarks.record import keep, recording
from benchmarks.scaling.sweeps import SWEEPS, Plan, chosen
from benchmarks.show import print_section
from edge_cnnlstm.errors import DependencyError

MADE_WITH = ("numpy", "scipy", "onnxruntime", "onnx", "torch", "nvidia-modelopt")


def scaling(
    sweep: Annotated[
        list[str] | None,
        typer.Option(help=f"One of {', '.join(SWEEPS)}, or input=32,64,128 for other points; repeat for more."),
    ] = None,
    network: Annotated[str, typer.Option(help="The preset in which one thing is varied.")] = "small",
    rounds: Annotated[int, typer.Option(min=1, help="How often every case has its turn.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Timed calls a turn; fewer where one costs more.")] = 300,
    threads: Annotated[int, typer.Option(min=1, help="Cores that one call may use.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of turns.")] = 0,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write every sample to this file.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write tables and pictures to this HTML file.")] = None,
) -> None:
    """Time a step against input size, hidden size, layers, streams and window, and fit how fast it grows.

    The networks are untrained, since their speed does not depend on what they have learnt.
    """
    sweeps, plan = chosen(sweep or ()), Plan(network, rounds, steps, threads, seed)
    try:
        from benchmarks.scaling.figures import disturbance
        from benchmarks.scaling.measure import measured
        from benchmarks.scaling.show import section
    except ModuleNotFoundError as error:
        raise DependencyError(
            f"{error.name} is not installed",
            expected="what exports networks",
            fix="pip install 'edge-cnnlstm[export]'",
        ) from error
    words = [word for name in sweep or () for word in ("--sweep", name)]
    words += [text for name, value in asdict(plan).items() for text in (f"--{name}", str(value))]
    with recording("scaling", words, None, MADE_WITH) as report, TemporaryDirectory() as folder:
        report.update(measured(sweeps, plan, Path(folder)))
    disturbed = disturbance(report["sweeps"])
    if disturbed is not None:
        report |= {"valid": False, "reasons": [*report["reasons"], disturbed]}
    keep(report, destination, page)
    print_section(section(report), report)
