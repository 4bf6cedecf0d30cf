"""Predictions as JSON, one line each."""

from __future__ import annotations

import json
from typing import Any, TextIO

from edge_cnnlstm.runtime.frame import Frame
from edge_cnnlstm.runtime.prediction import Answer, Classification, Prediction, Regression
from edge_cnnlstm.runtime.sinks.base import write_now


class JsonLines:
    """Writes each prediction to a text file as soon as it is made; the file stays the caller's."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, _: Frame, prediction: Prediction) -> None:
        write_now(self._file, json.dumps(plain(prediction)) + "\n")

    def close(self) -> None:
        """Do nothing: every line is written already."""


def plain(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON data: every head's answer, frame, capture in monotonic ns, timings in ms."""
    return {
        **{name: _plain(answer) for name, answer in prediction.answers.items()},
        "frame": prediction.frame_index,
        "captured_ns": prediction.captured_ns,
        "first_after_reset": prediction.first_after_reset,
        "reset_reason": prediction.reset_reason,
        "ms": {name: round(value / 1e6, 4) for name, value in prediction.timings._asdict().items()},
    }


def _plain(answer: Answer) -> dict[str, Any]:
    if isinstance(answer, Classification):
        return {
            "label": answer.label,
            "score": round(answer.score, 6),
            "scores": [round(float(score), 6) for score in answer.scores],
        }
    if isinstance(answer, Regression):
        return {"values": dict(answer.values)}
    box = [round(value, 3) for value in (answer.box.x, answer.box.y, answer.box.width, answer.box.height)]
    return {"box": box, "presence": round(answer.presence, 6)}
