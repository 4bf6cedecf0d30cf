"""The course of a run: frames through the pipeline into the sinks, until the source ends or somebody says stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from rich.live import Live
from rich.text import Text

from edge_cnnlstm.cli.answers import said
from edge_cnnlstm.cli.console import console
from edge_cnnlstm.errors import EdgeError
from edge_cnnlstm.runtime.pipeline import Pipeline
from edge_cnnlstm.runtime.prediction import Prediction
from edge_cnnlstm.runtime.sinks.base import Sink
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.runtime.telemetry import Telemetry


@dataclass(slots=True)
class Course:
    """What is known of a run beside its latencies and counts.

    `priority` is the SCHED_FIFO priority that the loop really had, 0 for none; `telemetry` is what the machine said of
    itself meanwhile; `failure` is what ended the run early.
    """

    started: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    latest: Prediction | None = None
    priority: int = 0
    telemetry: dict[str, Any] | None = None
    failure: EdgeError | OSError | None = None


def follow(
    pipeline: Pipeline, stream: Stream, sinks: AbstractContextManager[Sink], *, live: bool, course: Course
) -> None:
    """Give every prediction to the sinks and note the course; with `live`, show where it stands on the terminal.

    What fails on the way is noted, so that hours of streaming keep their account; what fails before the first frame is
    raised.
    """
    recorder = Telemetry()
    try:
        with sinks as sink, recorder, _shown(course, stream, live=live), _stopped_by_signals(pipeline):
            for frame, prediction in pipeline:
                course.latest, course.priority = prediction, os.sched_getparam(0).sched_priority
                sink.write(frame, prediction)
    except (EdgeError, OSError) as error:
        if not pipeline.counts.produced:
            raise
        course.failure = error
    course.telemetry = recorder.document()


@contextmanager
def _stopped_by_signals(pipeline: Pipeline) -> Iterator[None]:
    """SIGTERM and Ctrl-C end the stream after the frame at hand: sinks are flushed and the account is written."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in previous:
        signal.signal(number, lambda *_: pipeline.stop())
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _shown(course: Course, stream: Stream, *, live: bool) -> AbstractContextManager[object]:
    if not live or not console.is_terminal:
        return nullcontext()
    # Drawn four times a second by a thread of its own, not once a frame by this one.
    return Live(get_renderable=lambda: _status(course.latest, stream), console=console, transient=True)


def _status(prediction: Prediction | None, stream: Stream) -> Text:
    if prediction is None:
        return Text("waiting for the first frame")
    age = stream.latency.stages["age"]
    return Text.from_markup(
        f"frame {prediction.frame_index:>6}  {said(prediction.answers)}  age {prediction.timings.age / 1e6:.2f} ms  "
        f"p50 {age.percentile(50) / 1e6:.2f}  p99 {age.percentile(99) / 1e6:.2f}"
    )
