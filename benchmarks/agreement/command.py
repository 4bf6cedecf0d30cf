"""`python -m benchmarks agreement`: every graph of a bundle over one long stream, against its FP32 graph."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmarks import goals, machine
from benchmarks.agreement import course
from benchmarks.agreement.course import Course
from benchmarks.agreement.frames import LEAST, stream
from benchmarks.bundle import identity, reference_of
from benchmarks.goals import Figure
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.cli import console
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.selection import load_engine

SCHEMA_VERSION = 1
METHOD = (
    "One stream without a reset; each graph carries a memory of its own. The last 150 frames are the first 150 again, "
    "so drift at the end is compared with drift around frame 100 over the same pictures. Ranges are those of tenths of "
    "the stream, and for drift of all windows of 100 frames."
)


def agreement(
    path: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    frames: Annotated[int, typer.Option(min=LEAST, help="Frames of the stream.")] = 10_000,
    graphs: Annotated[
        list[str] | None, typer.Option("--graph", help="A graph to compare with FP32; repeat for more. All by default.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="A video, folder or camera, instead of the digits of `sample-video`.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the digits.")] = 0,
    destination: Annotated[Path | None, typer.Option("-o", "--output", help="Write everything to this file.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Draw drift against frames into this file.")] = None,
) -> None:
    """Run a bundle's graphs over one long stream: how often they agree with FP32, and how far their memories drift."""
    bundle = bundle_format.read(path)
    started, begun = datetime.now(timezone.utc).isoformat(timespec="seconds"), time.monotonic()
    reference = reference_of(bundle)
    with ExitStack() as stack:
        backends, skipped = _open(bundle, reference, graphs, stack)
        with _progress() as progress:
            task = progress.add_task("frames", total=frames)
            seen = stream(bundle.manifest.model, frames, source, seed)
            courses = course.record(backends, seen, lambda: progress.advance(task))
    figures = compare(bundle, courses, reference)
    repeats = command(path, frames, graphs, source, seed)
    _show(figures, skipped, repeats)
    if destination is not None:
        document = {
            "schema_version": SCHEMA_VERSION,
            "command": repeats,
            "started": started,
            "seconds": round(time.monotonic() - begun, 1),
            "method": METHOD,
            "bundle": identity(bundle, path),
            "frames": len(next(iter(courses[reference].outputs.values()))),
            "ratios": [figure.document() for figure in figures],
            "drift": curves(courses, reference),
            "size": {state: course.curve(size) for state, size in course.sizes(courses[reference]).items()},
            "unrelated": course.unrelated(courses[reference]),
            "skipped": skipped,
            "machine": asdict(machine.describe()),
            "versions": machine.versions(),
        }
        console.write_json(destination, document)
    if picture is not None:
        from benchmarks.agreement.plot import draw

        draw(courses, reference, picture)


def command(path: Path, frames: int, graphs: list[str] | None, source: str | None, seed: int) -> str:
    """Return the command that repeats a run, with every option spelled out and no folder of this machine."""
    words = ["python", "-m", "benchmarks", "agreement", path.name, "--frames", str(frames)]
    words += [word for name in graphs or () for word in ("--graph", name)]
    words += ["--seed", str(seed)] if source is None else ["--source", Path(source).name]
    return shlex.join(words)


def compare(bundle: Bundle, courses: Mapping[str, Course], reference: str) -> list[Figure]:
    """Return agreement and growth of drift of every graph, against the reference."""
    base, spec = courses[reference], bundle.manifest.model
    figures = []
    for name, found in courses.items():
        if name != reference:
            figures += course.answers(spec, name, found, base) + course.growth(name, found, base)
    return figures


def curves(courses: Mapping[str, Course], reference: str) -> dict[str, Any]:
    """Return each graph's drift by state: points evenly spaced by ratio, and windows of 100 frames."""
    return {
        name: {
            state: {"curve": course.curve(drift), "windows": course.windows(drift)}
            for state, drift in course.drifts(found, courses[reference]).items()
        }
        for name, found in courses.items()
        if name != reference
    }


def _open(
    bundle: Bundle, reference: str, graphs: list[str] | None, stack: ExitStack
) -> tuple[dict[str, Backend], dict[str, str]]:
    """Open the reference and the graphs to compare; those that ONNX Runtime refuses are skipped with its reason."""
    named = [bundle.manifest.graph(name).name for name in graphs or ()]
    others = [name for name in named or (graph.name for graph in bundle.manifest.graphs) if name != reference]
    backends: dict[str, Backend] = {}
    skipped = {}
    for name in dict.fromkeys([reference, *others]):
        opened = _engine(bundle, name)
        if isinstance(opened, str):
            skipped[name] = opened
        else:
            backends[name] = opened
            stack.callback(opened.close)
    if reference in skipped or len(backends) < 2:
        raise BackendError(
            f"nothing to compare: of {[reference, *others]}, ONNX Runtime runs {list(backends)}",
            expected="the FP32 graph and another one",
            fix="export the bundle again with a quantized graph, or update onnxruntime",
        )
    return backends, skipped


def _engine(bundle: Bundle, name: str) -> Backend | str:
    """Return the backend, or why ONNX Runtime refuses the graph."""
    try:
        return load_engine(bundle, bundle.manifest.graph(name), "onnxruntime")
    except BackendError as error:
        return error.found


def _progress() -> Progress:
    columns = (TextColumn("streaming"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console.console, transient=True, disable=not console.console.is_terminal)


def _show(figures: list[Figure], skipped: dict[str, str], repeats: str) -> None:
    for name, reason in skipped.items():
        console.console.print(f"skipped {name}: {reason}", style="yellow", markup=False, highlight=False)
    table = goals.table(figures, "Against FP32", ("figure", "value", "range"), decimals=4)
    table.caption = METHOD
    console.output.print(table, highlight=False)
    console.output.print(repeats, highlight=False, markup=False, soft_wrap=True)
