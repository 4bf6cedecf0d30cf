"""Answers drawn on some of the frames of a source that may be long."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.report.drawing import (
    INK,
    STYLE,
    Box,
    Said,
    Still,
    answered_box,
    answered_label,
    png,
    shortened,
    strip,
)
from edge_cnnlstm.runtime.frame import Placement
from edge_cnnlstm.runtime.prediction import Classification, Prediction, Regression

SHOWN = 10
COLUMNS = 5


class Shots:
    """Keeps evenly spaced frames as they come, never more than 20, and draws up to 10 of them."""

    def __init__(self) -> None:
        self._kept: list[Still] = []
        self._every = 1
        self._seen = 0

    def add(self, pixels: NDArray[Any], placement: Placement, prediction: Prediction) -> None:
        """Take a frame as the network saw it, uint8 [height, width, 3], and what it answered."""
        if self._seen % self._every == 0:
            self._kept.append(_still(pixels.copy(), placement, prediction))
        self._seen += 1
        if len(self._kept) > 2 * SHOWN:
            self._kept = self._kept[::2]
            self._every *= 2

    def draw(self) -> bytes:
        """Return a PNG file; raises DataError when there was no frame."""
        if not self._kept:
            raise DataError("no frame to draw", expected="one or more", fix="choose another source")
        places = np.unique(np.linspace(0, len(self._kept) - 1, SHOWN).round().astype(int))
        stills = [self._kept[at] for at in places]
        with mpl.rc_context(STYLE):
            return png(strip(stills, columns=min(COLUMNS, len(stills))), dpi=200)


def _still(pixels: NDArray[Any], placement: Placement, prediction: Prediction) -> Still:
    boxes: list[Box] = []
    lines: list[Said] = []
    for answer in prediction.answers.values():
        if isinstance(answer, Classification):
            lines.append(answered_label(shortened(answer.label, 12), answer.score, right=None))
        elif isinstance(answer, Regression):
            lines += [Said(f"{shortened(name, 5)} {value:.4g}", INK) for name, value in answer.values.items()]
        else:
            boxes.append(answered_box(*answer.box.placed(placement), answer.presence))
    return Still(f"frame {prediction.frame_index}", pixels, tuple(boxes), tuple(lines))
