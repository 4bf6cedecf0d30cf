"""Bring a camera image of any size to the network's, the way it was trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge_cnnlstm.errors import FrameError
from edge_cnnlstm.runtime.frame import Pixels, Placement
from edge_cnnlstm.runtime.optional import load_cv2
from edge_cnnlstm.spec import FitMode, ModelSpec

PADDING = 128
"""Mid-grey, which the network sees as zero."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The network's frame size in pixels, and how other sizes are brought to it.

    `stretch` scales each axis on its own; `crop` scales to fill and cuts the middle out; `letterbox` scales to
    fit inside and pads with mid-grey.
    """

    height: int
    width: int
    mode: FitMode

    @classmethod
    def of(cls, spec: ModelSpec) -> Fit:
        """Return the fit that a model was trained with."""
        return cls(spec.height, spec.width, spec.fit)

    def place(self, height: int, width: int) -> Placement:
        """Return where an image of this size lands, exactly, whole pixels and all."""
        return _placement(*self._rectangles(height, width))

    def apply(self, image: Pixels) -> tuple[Pixels, Placement]:
        """Fit an image, uint8 [height, width, 3]; a new array unless the size is right already.

        Shrinking averages over areas, so that fine texture does not alias into something the network never
        saw. Raises FrameError for anything that is not an image of at least one pixel.
        """
        if not isinstance(image, np.ndarray):
            raise _no_image(type(image).__name__)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise _no_image(f"{image.dtype} {image.shape}")
        height, width = image.shape[:2]
        source, target = self._rectangles(height, width)
        placement = _placement(source, target)
        if (height, width) == (self.height, self.width):
            return image, placement
        fitted = _resize(image[source.slices], target.height, target.width)
        if self.mode != "letterbox":
            return fitted, placement
        canvas = np.full((self.height, self.width, 3), PADDING, np.uint8)
        canvas[target.slices] = fitted
        return canvas, placement

    def _rectangles(self, height: int, width: int) -> tuple[_Rectangle, _Rectangle]:
        """Return the part of the image that is used, and the part of the frame that it fills."""
        scales = self.width / width, self.height / height
        if self.mode == "crop":
            scale = max(scales)
            return (
                _centred(round(self.width / scale), round(self.height / scale), within=(width, height)),
                _Rectangle(0, 0, self.width, self.height),
            )
        if self.mode == "letterbox":
            scale = min(scales)
            return (
                _Rectangle(0, 0, width, height),
                _centred(round(width * scale), round(height * scale), within=(self.width, self.height)),
            )
        return _Rectangle(0, 0, width, height), _Rectangle(0, 0, self.width, self.height)


class _Rectangle(NamedTuple):
    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def _placement(source: _Rectangle, target: _Rectangle) -> Placement:
    scale_x, scale_y = target.width / source.width, target.height / source.height
    return Placement(scale_x, scale_y, target.left - source.left * scale_x, target.top - source.top * scale_y)


def _centred(width: int, height: int, within: tuple[int, int]) -> _Rectangle:
    """Return a rectangle of at least one pixel in the middle of a larger one."""
    width, height = (min(max(1, side), outer) for side, outer in zip((width, height), within, strict=True))
    return _Rectangle((within[0] - width) // 2, (within[1] - height) // 2, width, height)


def _resize(image: Pixels, height: int, width: int) -> Pixels:
    """Shrink by averaging, then grow by interpolating: OpenCV's averaging works only where nothing grows."""
    cv2 = load_cv2()
    shrunk = min(width, image.shape[1]), min(height, image.shape[0])
    if shrunk != (image.shape[1], image.shape[0]):
        image = cv2.resize(image, shrunk, interpolation=cv2.INTER_AREA)
    if shrunk != (width, height):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.array(image, order="C")


def _no_image(found: str) -> FrameError:
    return FrameError(
        f"an image of {found}",
        expected="uint8 [height, width, 3] with at least one pixel",
        fix="convert grey or four-channel images to RGB first",
    )
