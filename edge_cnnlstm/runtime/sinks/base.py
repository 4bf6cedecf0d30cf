"""What every sink promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

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
