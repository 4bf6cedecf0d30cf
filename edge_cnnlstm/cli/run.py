"""Stream a source through a bundle."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge_cnnlstm.cli.answers import said
from edge_cnnlstm.cli.console import console, write_json
from edge_cnnlstm.runtime.mailbox import Counts
from edge_cnnlstm.runtime.opening import open_stream
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.sinks.json_lines import JsonLines
from edge_cnnlstm.runtime.sources import open_source
from edge_cnnlstm.runtime.sources.base import Pace
from edge_cnnlstm.runtime.stream import Stream


def run(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, such as model.edge.")],
    source: Annotated[
        str, typer.Option(envvar="EDGE_CNNLSTM_SOURCE", help="VIDEO.mp4, a folder of images, /dev/videoN, rtsp://…")
    ],
    rate: Annotated[
        float | None, typer.Option(help="Frames a second: replays a file at that rate, or asks a camera for it.")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto or onnxruntime.")] = "auto",
    graph: Annotated[str | None, typer.Option(help="One of the bundle's graphs, see `inspect`.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="newest: late frames are dropped (default when paced or live); every: the source waits."),
    ] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Age at which a prediction is late; one frame period when --rate is given.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON line a prediction on stdout, and nothing else.")
    ] = False,
    predictions: Annotated[Path | None, typer.Option(help="Also write the predictions to this file.")] = None,
    summary: Annotated[Path | None, typer.Option(help="Write counts and latencies to this JSON file.")] = None,
) -> None:
    """Stream frames through a network that remembers, one step a frame, and account for every millisecond."""
    if rate is not None:
        deadline_ms = deadline_ms or 1000 * Pace(rate).period
    with ExitStack() as stack:
        stream = stack.enter_context(open_stream(bundle, backend=backend, graph=graph, deadline_ms=deadline_ms))
        frames = open_source(source, fit=stream.fit, rate=rate)
        sinks = [JsonLines(sys.stdout)] if json else []
        if predictions is not None:
            sinks.append(JsonLines(stack.enter_context(predictions.open("w"))))
        pipeline = Pipeline(frames, stream, _policy(policy, paced=rate is not None, live=frames.live))
        stack.callback(pipeline.close)
        latest: Prediction | None = None
        if not json and console.is_terminal:
            # Drawn four times a second by a thread of its own, not once a frame by this one.
            stack.enter_context(Live(get_renderable=lambda: _status(latest, stream), console=console, transient=True))
        with _stopped_by_sigterm(pipeline):
            for frame, latest in pipeline:
                for sink in sinks:
                    sink.write(frame, latest)
    report = _report(stream, pipeline.counts, rate, bundle, source)
    if not json:
        console.print(_latency_table(report))
        console.print(_accounting(report))
    if summary is not None:
        write_json(summary, report)


def _policy(chosen: str | None, *, paced: bool, live: bool) -> str:
    """A recording read as fast as possible has no newest frame; anything with a clock has."""
    if chosen is None:
        return "newest" if paced or live else "every"
    return chosen


@contextmanager
def _stopped_by_sigterm(pipeline: Pipeline) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the stream after the frame at hand: sinks are flushed and the summary is written."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, lambda *_: pipeline.stop())
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _status(prediction: Prediction | None, stream: Stream) -> Text:
    if prediction is None:
        return Text("waiting for the first frame")
    age = stream.latency.stages["age"]
    return Text.from_markup(
        f"frame {prediction.frame_index:>6}  {said(prediction.answers)}  age {prediction.timings.age / 1e6:.2f} ms  "
        f"p50 {age.percentile(50) / 1e6:.2f}  p99 {age.percentile(99) / 1e6:.2f}"
    )


def _report(stream: Stream, counts: Counts, rate: float | None, bundle: Path, source: str) -> dict[str, Any]:
    latency = stream.latency
    return {
        "bundle": bundle.name,
        "source": source,
        "backend": stream.backend.name,
        "rate": rate,
        "frames_in": counts.produced,
        "predicted": counts.predicted,
        "dropped": counts.dropped,
        "deadline_ms": None if latency.deadline_ns is None else latency.deadline_ns / 1e6,
        "deadline_misses": latency.deadline_misses,
        "longest_miss_burst": latency.longest_miss_burst,
        "latency_ms": {stage: asdict(values) for stage, values in latency.summary().items()},
        "age_histogram_ns": latency.stages["age"].buckets(),
    }


def _latency_table(report: dict[str, Any]) -> Table:
    table = Table("stage, ms", "p50", "p90", "p99", "p99.9", "max", title="Where each frame's time went")
    for stage, values in report["latency_ms"].items():
        name = "total (age at decision)" if stage == "age" else stage
        columns = ("p50", "p90", "p99", "p99_9", "max")
        shown = ("–" if values[column] is None else f"{values[column]:.3f}" for column in columns)
        table.add_row(name, *shown, end_section=stage == "decode")
    return table


def _accounting(report: dict[str, Any]) -> str:
    line = f"{report['frames_in']} frames in = {report['predicted']} predicted + {report['dropped']} dropped"
    if report["deadline_ms"] is not None:
        line += f"; {report['deadline_misses']} later than {report['deadline_ms']:.1f} ms"
    return line
