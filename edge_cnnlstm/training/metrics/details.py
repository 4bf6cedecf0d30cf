"""What lies behind each head's scores, as plain data: tables, curves, and the clips that went worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.metrics.answered import Answered
from edge_cnnlstm.training.metrics.classified import class_answers, classified
from edge_cnnlstm.training.metrics.measured import regressed, track_answers, tracked, value_answers


def details(head: HeadConfig, clips: Sequence[Answered]) -> dict[str, Any]:
    """Return the tables and curves of one head; None where the clips do not define one."""
    return {"task": head.task, "labels": list(head.labels), "per": head.per, **_DETAILS[head.task](head, clips)}


def answers(head: HeadConfig, clip: Answered, frames: Sequence[int]) -> dict[str, Any]:
    """Return the truth about these frames of a clip and what the network answered, for a person to see."""
    return _ANSWERS[head.task](head, clip, np.array(frames))


_DETAILS: dict[str, Callable[[HeadConfig, Sequence[Answered]], dict[str, Any]]] = {
    "classify": classified,
    "regress": regressed,
    "track": tracked,
}
_ANSWERS: dict[str, Callable[[HeadConfig, Answered, NDArray[np.int64]], dict[str, Any]]] = {
    "classify": class_answers,
    "regress": value_answers,
    "track": track_answers,
}
