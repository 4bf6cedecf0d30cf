"""Where one target is in each frame, and what becomes of its box when the picture is cut, scaled or mirrored.

Boxes are float32 [..., 4]: centre x, centre y, width and height in 0..1 of the picture; NaN where not known.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float32]

SEEN = 0.5
"""A target counts as in sight while at least this share of its box is in the picture and uncovered."""


class Track(NamedTuple):
    """A target's boxes, [n, 4], and whether it is in sight, float32 [n]: 1 or 0, NaN where not known.

    A target that is nowhere in the picture is out of sight and has no box.
    """

    boxes: Boxes
    visible: NDArray[np.float32]

    def moved(self, scale_x: float, scale_y: float, offset_x: float, offset_y: float) -> Track:
        """Return the track where each x is x · scale_x + offset_x, and so for y, cut to the picture."""
        scale = np.array([scale_x, scale_y] * 2, np.float32)
        boxes = self.boxes * scale + np.array([offset_x, offset_y, 0, 0], np.float32)
        return _cut(Track(boxes, self.visible))

    def mirrored(self) -> Track:
        """Return the track with left and right exchanged."""
        boxes = self.boxes.copy()
        boxes[:, 0] = 1 - boxes[:, 0]
        return Track(boxes, self.visible)

    def covered(self, left: float, top: float, right: float, bottom: float) -> Track:
        """Return the track behind a rectangle: boxes stay, and are out of sight where most of them is hidden."""
        low, high = _corners(self.boxes)
        hidden = _area(np.maximum(low, (left, top)), np.minimum(high, (right, bottom)))
        unseen = hidden > (1 - SEEN) * _area(low, high)
        return Track(self.boxes, np.where(unseen, np.float32(0), self.visible))


def _cut(track: Track) -> Track:
    low, high = _corners(track.boxes)
    inside_low, inside_high = low.clip(0, 1), high.clip(0, 1)
    left = _area(inside_low, inside_high)
    boxes = np.concatenate([(inside_low + inside_high) / np.float32(2), inside_high - inside_low], axis=-1)
    gone, unseen = left <= 0, left < SEEN * _area(low, high)
    boxes[gone] = np.nan
    return Track(boxes, np.where(gone | unseen, np.float32(0), track.visible))


def _corners(boxes: Boxes) -> tuple[Boxes, Boxes]:
    half = boxes[:, 2:] / np.float32(2)
    return boxes[:, :2] - half, boxes[:, :2] + half


def _area(low: Boxes, high: Boxes) -> Boxes:
    sides = (high - low).clip(0)
    return np.asarray(sides[:, 0] * sides[:, 1], np.float32)


class Annotations(NamedTuple):
    """A target's track through a video, at the frames that somebody looked at: int64 [n], ascending."""

    frames: NDArray[np.int64]
    track: Track

    def at(self, positions: NDArray[np.int64]) -> Track:
        """Return the track at some frames of the video; NaN at those that nobody looked at."""
        boxes = np.full((len(positions), 4), np.nan, np.float32)
        visible = np.full(len(positions), np.nan, np.float32)
        known = np.isin(positions, self.frames)
        where = np.searchsorted(self.frames, positions[known])
        boxes[known], visible[known] = self.track.boxes[where], self.track.visible[where]
        return Track(boxes, visible)
