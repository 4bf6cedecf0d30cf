"""Film strips of the clips that a network did worst on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.report.drawing import (
    INK,
    STYLE,
    Box,
    Said,
    Still,
    answered_box,
    answered_label,
    jpeg,
    shortened,
    strip,
    true_box,
)

COLUMNS = 5
VALUES = 3
"""Of a head with more values only these first ones are written under a frame."""

Sides = Sequence[float | None]


def film_strip(film: Mapping[str, Any], heads: Mapping[str, Mapping[str, Any]], frames: NDArray[np.uint8]) -> bytes:
    """Draw the frames of a clip, uint8 [shown, height, width, 3], with every head's truth and answer on them."""
    told = [{**film["heads"][name], "task": head["task"], "labels": head["labels"]} for name, head in heads.items()]
    hidden = film["conditions"].get("hidden", [False] * len(frames))
    stills = [
        Still(
            f"frame {number}",
            frames[at],
            tuple(box for head in told for box in _boxes(head, at, frames[at].shape)),
            tuple(line for head in told for line in _lines(head, at)),
            hidden=hidden[at],
        )
        for at, number in enumerate(film["frames"])
    ]
    with mpl.rc_context(STYLE):
        return jpeg(strip(stills, columns=COLUMNS), dpi=80)


def _lines(head: Mapping[str, Any], at: int) -> list[Said]:
    if head["task"] == "classify":
        truth, answer = head["truth"][at], head["answer"][at]
        right = None if truth is None else truth == answer
        return [answered_label(shortened(answer, 12), head["probability"][at], right=right)]
    if head["task"] == "regress":
        names = [f"{shortened(label, 5)} " for label in head["labels"]] if len(head["labels"]) > 1 else [""]
        values = list(zip(names, head["answer"][at], head["truth"][at], strict=True))[:VALUES]
        return [Said(f"{name}{answer:.4g} ({_known(truth)})", INK, bold=False) for name, answer, truth in values]
    return []


def _known(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def _boxes(head: Mapping[str, Any], at: int, shape: tuple[int, ...]) -> list[Box]:
    if head["task"] != "track":
        return []
    truth = _sides(head["truth"][at], shape)
    answer = _sides(head["answer"][at], shape)
    drawn = [true_box(*truth)] if truth is not None else []
    return [*drawn, answered_box(*answer, presence=head["presence"][at])] if answer is not None else drawn


def _sides(box: Sides, shape: tuple[int, ...]) -> tuple[float, float, float, float] | None:
    """Return left, top, width and height in pixels; None when the box is not known."""
    known = [side for side in box if side is not None]
    if len(known) < len(box):
        return None
    centre_x, centre_y, width, height = known
    return (
        (centre_x - width / 2) * shape[1],
        (centre_y - height / 2) * shape[0],
        width * shape[1],
        height * shape[0],
    )
