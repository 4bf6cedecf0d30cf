"""A frame: pixels, and when the world looked like that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a source image landed in the network's frame: x_frame = x_source · scale_x + offset_x, and so for y."""

    scale_x: float = 1.0
    scale_y: float = 1.0
    offset_x: float = 0.0
    offset_y: float = 0.0


class Frame(NamedTuple):
    """One frame on its way to the network.

    `pixels` uint8 [height, width, 3], RGB, owned by whoever made the frame. `index` counts the source's frames
    from 0, so that a gap shows what was lost. `captured_ns` is `time.monotonic_ns` at the sensor, or the
    scheduled instant when a recording is replayed at a rate. `fit_ns` is the time spent on resizing. `source` names
    where the frame comes from, so that a stream notices when that changes.
    """

    pixels: Pixels
    index: int  # type: ignore[assignment]  # a tuple has an `index` of its own, which nobody asks a frame for
    captured_ns: int
    placement: Placement = Placement()
    fit_ns: int = 0
    source: str = ""
