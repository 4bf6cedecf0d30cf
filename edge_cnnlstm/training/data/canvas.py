"""What synthetic frames are painted with: a textured background, sensor noise, and digits in one colour."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.training.data.digit_images import Image

NOISE = 6.0
"""Standard deviation of the sensor noise, in grey levels."""


def resized(ink: Image, side: int) -> Image:
    """Return a square digit image at another size, in pixels; still 0..1."""
    return np.asarray(cv2.resize(ink, (side, side), interpolation=cv2.INTER_CUBIC), np.float32).clip(0, 1)


def background(rng: np.random.Generator, height: int, width: int, *, contrast: float) -> Image:
    """Draw a smooth texture darker than any ink: float32 [height, width, 3]; `contrast` too is in grey levels."""
    coarse = rng.uniform(50, 100, 3) + rng.normal(0, contrast, (6, 6, 3))
    fine = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine, np.float32).clip(0, 160)


def colour(rng: np.random.Generator) -> Image:
    """Draw a bright ink: float32 [3] in grey levels."""
    return rng.uniform(190, 255, 3).astype(np.float32)


def painted(scenery: Image, ink: Image, ink_colour: Image) -> Image:
    """Return the scenery, [height, width, 3], under ink, [height, width] in 0..1."""
    return scenery + ink[..., None] * (ink_colour - scenery)


def photographed(rng: np.random.Generator, scenes: Image) -> NDArray[np.uint8]:
    """Return scenes, float32 [time, height, width, 3], as a camera would: with noise, as uint8."""
    noisy = scenes + NOISE * rng.standard_normal(scenes.shape, dtype=np.float32)
    return np.rint(noisy).clip(0, 255).astype(np.uint8)
