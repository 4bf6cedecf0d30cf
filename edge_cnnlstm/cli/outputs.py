"""Where `run` leaves what it finds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from edge_cnnlstm.cli.console import write_json
from edge_cnnlstm.runtime.sinks.annotated_video import AnnotatedVideo
from edge_cnnlstm.runtime.sinks.base import FanOut, Sink
from edge_cnnlstm.runtime.sinks.csv_rows import CsvRows
from edge_cnnlstm.runtime.sinks.json_lines import JsonLines

VIDEO_RATE = 30.0
"""Frames a second of a video whose source has no rate that is known."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a person asked for: None where nothing is wanted."""

    json: bool = False
    predictions: Path | None = None
    csv: Path | None = None
    video: Path | None = None
    summary: Path | None = None
    report: Path | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What takes the predictions one by one."""
        wanted = {"json": self.json, "predictions": self.predictions, "csv": self.csv, "video": self.video}
        return tuple(name for name, value in wanted.items() if value)

    def prepare(self) -> None:
        """Make the folders, and find out before the first frame whether a report can be drawn."""
        for file in (self.predictions, self.csv, self.video, self.summary, self.report and self.report / "run.json"):
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
        if self.report is not None:
            _drawing()

    @contextmanager
    def sinks(self, rate: float | None) -> Iterator[Sink]:
        """Open all that takes predictions as one sink, and finish every file at the end, whatever happens."""
        with ExitStack() as stack:
            sinks: list[Sink] = [JsonLines(sys.stdout)] if self.json else []
            if self.predictions is not None:
                sinks.append(JsonLines(stack.enter_context(_text(self.predictions))))
            if self.csv is not None:
                sinks.append(CsvRows(stack.enter_context(_text(self.csv))))
            if self.video is not None:
                sinks.append(AnnotatedVideo(self.video, rate or VIDEO_RATE))
            yield stack.enter_context(closing(FanOut(*sinks)))

    def keep(self, account: dict[str, Any]) -> None:
        """Write the account, and the report that is drawn from it."""
        if self.summary is not None:
            write_json(self.summary, account)
        if self.report is not None:
            page, picture = _drawing()(account)
            write_json(self.report / "run.json", account)
            (self.report / "run.html").write_text(page, encoding="utf-8")
            (self.report / "run.png").write_bytes(picture)


def _drawing() -> Callable[[Mapping[str, Any]], tuple[str, bytes]]:
    from edge_cnnlstm.report.optional import drawing_libraries

    with drawing_libraries():
        from edge_cnnlstm.report.streaming import streaming_report
    return streaming_report


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing; what its disk refuses at the very end names it too."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
