"""Stream a source through a bundle."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import typer

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.cli.account import show
from edge_cnnlstm.cli.build import building
from edge_cnnlstm.cli.console import console
from edge_cnnlstm.cli.course import Course, follow
from edge_cnnlstm.cli.outputs import Outputs
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.account import Settings, account
from edge_cnnlstm.runtime.opening import open_stream
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.realtime import OFF, Realtime
from edge_cnnlstm.runtime.selection import DIALECTS
from edge_cnnlstm.runtime.sources import open_source
from edge_cnnlstm.runtime.sources.base import First, Pace
from edge_cnnlstm.runtime.wiring import Transfer, Wiring
from edge_cnnlstm.spec import StateRules


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    source: Annotated[
        str, typer.Option(envvar="EDGE_CNNLSTM_SOURCE", help="VIDEO.mp4, a folder of images, /dev/videoN, rtsp://…")
    ],
    rate: Annotated[
        float | None, typer.Option(help="Frames a second: replays a file at that rate, or asks a camera for it.")
    ] = None,
    frames: Annotated[int | None, typer.Option(metavar="N", help="Stop after N frames of the source.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="newest: late frames are dropped (default when paced or live); every: the source waits; skip-k: of "
            "k + 1 frames one is answered."
        ),
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Age at which a prediction is late; one frame period when --rate is given.")
    ] = None,
    gap_ms: Annotated[
        float | None,
        typer.Option(help="Forget what was seen when frames were captured further apart than this; 0: never."),
    ] = None,
    idle_ms: Annotated[
        float | None, typer.Option(help="Forget what was seen when no frame came for longer than this; 0: never.")
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Do what it takes to be on time, and say what it costs.")
    ] = False,
    backend: Annotated[
        str, typer.Option(help=f"auto: TensorRT where it is, else the fastest here; or {', '.join(DIALECTS)}.")
    ] = "auto",
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Fail rather than fall back to a graph quantized less, or to the processor."),
    ] = False,
    transfer: Annotated[
        str, typer.Option(help="How frames reach a GPU: auto, mapped (it reads them in place) or copied.")
    ] = "auto",
    graphs: Annotated[bool, typer.Option("--graphs/--no-graphs", help="A step on a GPU is one launch.")] = True,
    spin: Annotated[bool, typer.Option("--spin/--no-spin", help="Wait for a GPU by looking, not asleep.")] = True,
    graph: Annotated[str | None, typer.Option(help="One of the bundle's graphs, see `inspect`.")] = None,
    threads: Annotated[int, typer.Option(help="Processor cores that one step may use.")] = 1,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON line a prediction on stdout, and nothing else.")
    ] = False,
    predictions: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="Also write those lines to this file.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write one row a prediction.")] = None,
    video: Annotated[
        Path | None,
        typer.Option(metavar="FILE.mp4", help="Write what the network saw and said, at some milliseconds a frame."),
    ] = None,
    summary: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write counts and latencies.")] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write them as run.json, run.html and run.png.")
    ] = None,
) -> None:
    """Stream frames through a network that remembers, one step a frame, and account for every millisecond.

    SIGTERM and Ctrl-C end it after the frame at hand, with every file finished.
    """
    if deadline_ms is None and rate is not None:
        deadline_ms = 1000 * Pace(rate).period
    timing = Realtime() if realtime else OFF
    outputs = Outputs(json, predictions, csv, video, summary, report)
    with ExitStack() as stack:
        rules = _rules(bundle, gap_ms, idle_ms)
        with building("TensorRT") as progress:
            stream = stack.enter_context(
                open_stream(
                    bundle,
                    backend=backend,
                    graph=graph,
                    threads=threads,
                    deadline_ms=deadline_ms,
                    rules=rules,
                    strict=strict,
                    wiring=Wiring(cast("Transfer", transfer), graphs=graphs, spin=spin),
                    progress=progress,
                )
            )
        camera = open_source(source, fit=stream.fit, rate=rate, spin_us=timing.spin_us)
        stack.callback(camera.close)
        # A recording read as fast as possible has no newest frame; anything with a clock has.
        if policy is None:
            policy = "newest" if rate is not None or camera.live else "every"
        pipeline = Pipeline(camera if frames is None else First(camera, frames), stream, policy, realtime=timing)
        stack.callback(pipeline.close)
        outputs.prepare()
        if realtime:
            console.print(_costs(timing), highlight=False, soft_wrap=True)
        course = Course()
        follow(pipeline, stream, outputs.sinks(rate), live=not json, course=course)
    # What was not permitted was not on.
    timing = replace(timing, priority=course.priority or None)
    settings = Settings(bundle.name, source, camera.live, rate, policy, threads, timing, outputs.names)
    found = account(
        stream,
        pipeline.counts,
        settings,
        started=course.started,
        telemetry=course.telemetry,
        error=None if course.failure is None else getattr(course.failure, "found", str(course.failure)),
    )
    if not json:
        show(found)
    outputs.keep(found)
    if course.failure is not None:
        raise course.failure


def _rules(bundle: Path, gap_ms: float | None, idle_ms: float | None) -> StateRules | None:
    """Return the bundle's rules with the limits that were given, 0 for none; None when none was."""
    given = {name: limit for name, limit in (("gap_ms", gap_ms), ("idle_ms", idle_ms)) if limit is not None}
    for name, limit in given.items():
        if not 0 <= limit < math.inf:
            raise ConfigError(
                f"--{name.replace('_', '-')} {limit:g}",
                expected="a finite time in milliseconds, or 0 for never",
                fix="change it, or leave it out for what the bundle says",
            )
    if not given:
        return None
    changes = {name: limit or None for name, limit in given.items()}
    return replace(bundle_format.read(bundle).manifest.model.rules, **changes)  # type: ignore[arg-type]


def _costs(timing: Realtime) -> str:
    return (
        "realtime: kept warm (four more steps a frame, or 1.2 ms of them), "
        f"spinning for {timing.spin_us} µs before a scheduled frame (of one core), "
        "no garbage collector (cyclic garbage stays until the end), "
        f"SCHED_FIFO {timing.priority} (goes before everything else on its cores)"
    )
