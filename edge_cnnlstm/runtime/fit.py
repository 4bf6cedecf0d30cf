"""Bring a camera image of any size to the network's, the way it was trained."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edge_cnnlstm.errors import FrameError
from edge_cnnlstm.runtime.frame import Pixels, Placement
from edge_cnnlstm.runtime.optional import load_cv2
from edge_cnnlstm.spec import FitMode, ModelSpec


@dataclass(frozen=True, slots=True)
class Fit:
    """The network's frame size in pixels, and how other sizes are brought to it.

    `stretch` scales each axis on its own; `crop` scales to fill and cuts the middle out; `letterbox` scales to
    fit inside and pads with mid-grey, which the network sees as zero.
    """

    height: int
    width: int
    mode: FitMode

    @classmethod
    def of(cls, spec: ModelSpec) -> Fit:
        """Return the fit that a model was trained with."""
        return cls(spec.height, spec.width, spec.fit)

    def place(self, height: int, width: int) -> Placement:
        """Return where an image of this size lands."""
        scale_x, scale_y = self.width / width, self.height / height
        if self.mode == "crop":
            scale_x = scale_y = max(scale_x, scale_y)
        elif self.mode == "letterbox":
            scale_x = scale_y = min(scale_x, scale_y)
        return Placement(scale_x, scale_y, (self.width - width * scale_x) / 2, (self.height - height * scale_y) / 2)

    def apply(self, image: Pixels) -> tuple[Pixels, Placement]:
        """Fit an image, uint8 [height, width, 3]; a new array unless the size is right already.

        Shrinking averages over areas, so that fine texture does not alias into something the network never
        saw. Raises FrameError for anything that is not an image of at least one pixel.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise FrameError(
                f"an image of {image.dtype} {image.shape}",
                expected="uint8 [height, width, 3] with at least one pixel",
                fix="convert grey or four-channel images to RGB first",
            )
        height, width = image.shape[:2]
        placement = self.place(height, width)
        if (height, width) == (self.height, self.width):
            return image, placement
        if self.mode == "letterbox":
            return self._letterbox(image, placement), placement
        if self.mode == "crop":
            image = self._middle(image, placement)
        return self._resize(image, self.height, self.width), placement

    def _middle(self, image: Pixels, placement: Placement) -> Pixels:
        left, top = (round(-offset / placement.scale_x) for offset in (placement.offset_x, placement.offset_y))
        height, width = image.shape[:2]
        return image[top : height - top, left : width - left]

    def _letterbox(self, image: Pixels, placement: Placement) -> Pixels:
        top, left = round(placement.offset_y), round(placement.offset_x)
        canvas = np.full((self.height, self.width, 3), 128, np.uint8)
        canvas[top : self.height - top, left : self.width - left] = self._resize(
            image, self.height - 2 * top, self.width - 2 * left
        )
        return canvas

    @staticmethod
    def _resize(image: Pixels, height: int, width: int) -> Pixels:
        cv2 = load_cv2()
        shrinks = image.shape[0] >= height and image.shape[1] >= width
        resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return np.asarray(resized, np.uint8)
