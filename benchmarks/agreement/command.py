"""`python -m benchmarks agreement`: every graph of a bundle over one long stream, against its FP32 graph."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.agreement import course
from benchmarks.agreement.course import Course
from benchmarks.agreement.frames import LEAST, stream
from benchmarks.agreement.show import pictures, section
from benchmarks.bundle import reference_of
from benchmarks.goals import Figure
from benchmarks.progress import bar
from benchmarks.record import keep, recording, write_picture
from benchmarks.show import print_section
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.format import Bundle
from edge_cnnlstm.errors import BackendError, ConfigError
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.selection import load_engine

MADE_WITH = ("numpy", "onnxruntime")


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
    reference = reference_of(bundle)
    with ExitStack() as stack, recording("agreement", words(frames, graphs, source, seed), path, MADE_WITH) as report:
        backends, skipped = _open(bundle, reference, graphs, stack)
        with bar("streaming") as started:
            advance = started(frames)
            seen = stream(bundle.manifest.model, frames, source, seed)
            courses = course.record(backends, seen, lambda: advance("frames"))
        report |= {
            "frames": len(next(iter(courses[reference].outputs.values()))),
            "ratios": [figure.document() for figure in compare(bundle, courses, reference)],
            "drift": curves(courses, reference),
            "size": {state: course.curve(size) for state, size in course.sizes(courses[reference]).items()},
            "unrelated": course.unrelated(courses[reference]),
            "skipped": skipped,
        }
    print_section(section(report), report)
    keep(report, destination)
    if picture is not None:
        write_picture(picture, drawn_of(report))


def drawn_of(report: dict[str, Any]) -> bytes:
    """Return drift as a PNG; raises ConfigError for a network without memory, or without what draws."""
    drawn = pictures(report)
    if not drawn:
        raise ConfigError(
            "no drift to draw",
            expected="a network with memory, and matplotlib",
            fix="leave --picture out, or pip install matplotlib",
        )
    return drawn[0].png


def words(frames: int, graphs: list[str] | None, source: str | None, seed: int) -> list[str]:
    """Return the options that repeat a run, every one spelled out and no folder of this machine among them."""
    chosen = [word for name in graphs or () for word in ("--graph", name)]
    drawn = ["--seed", str(seed)] if source is None else ["--source", Path(source).name]
    return ["--frames", str(frames), *chosen, *drawn]


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
