"""What every sink promises."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol, TextIO

from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.prediction import Prediction


class Sink(Protocol):
    """Takes every prediction, in the thread that made it: one that is slow makes `newest` drop frames."""

    def write(self, frame: Frame, prediction: Prediction) -> None:
        """Take one prediction and the frame that it is about; both stay valid."""

    def close(self) -> None:
        """Finish what is written; may be called twice."""


class Callback:
    """Calls a function with every frame and prediction."""

    def __init__(self, function: Callable[[Frame, Prediction], object]) -> None:
        self._function = function

    def write(self, frame: Frame, prediction: Prediction) -> None:
        self._function(frame, prediction)

    def close(self) -> None:
        pass


class FanOut:
    """Gives every prediction to several sinks. One that fails costs the others neither that frame nor their end."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def write(self, frame: Frame, prediction: Prediction) -> None:
        # What a stack calls on its way out it calls to the end, and raises then: in the reverse order.
        with ExitStack() as every:
            for sink in reversed(self._sinks):
                every.callback(sink.write, frame, prediction)

    def close(self) -> None:
        with ExitStack() as every:
            for sink in reversed(self._sinks):
                every.callback(sink.close)


def write_now(file: TextIO, text: str) -> None:
    """Write a text so that whoever reads the file has it at once; an OSError names the file."""
    try:
        file.write(text)
        file.flush()
    except OSError as error:
        error.filename = error.filename or getattr(file, "name", None)
        raise
