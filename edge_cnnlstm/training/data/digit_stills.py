"""Digit stills: handwritten digits as single images, one frame a clip; the article's own case."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.training.config import HeadConfig, NetworkConfig
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.data.digit_images import LABELS, DigitCorpus, Digits, Image, all_digits
from edge_cnnlstm.training.data.settings import DigitImagesConfig

HEADS = (HeadConfig(name="digit", task="classify", labels=LABELS),)
"""What a network can be asked about these images."""

ROTATION = 10.0
"""The largest rotation in training, in degrees."""
SCALE = 0.12
"""The largest relative change of a side's length in training; each of the two sides has its own."""
SHIFT = 0.06
"""The largest shift in training, in sides of the frame."""
SHEAR = 0.12
"""The largest slant in training: columns per row."""


def corpus(config: DigitImagesConfig, network: NetworkConfig, seed: int) -> StillCorpus:
    """Return the digit images as a corpus of single frames at the network's frame size."""
    return StillCorpus(HEADS, config, network.height, network.width, seed, repr(config))


@dataclass(frozen=True, slots=True)
class StillCorpus(DigitCorpus):
    """The digit images, each a clip of one frame."""

    heads: tuple[HeadConfig, ...]
    config: DigitImagesConfig
    height: int
    width: int
    seed: int
    describe: str

    def clips(self, items: NDArray[np.int64], *, training: bool) -> StillClips:
        return StillClips(self, all_digits().only(items), training)


@dataclass(frozen=True, slots=True)
class StillClips:
    """Some of the digit images, each `repeats` times an epoch in training, and once as it is otherwise."""

    corpus: StillCorpus
    digits: Digits
    training: bool

    @property
    def heads(self) -> tuple[HeadConfig, ...]:
        return self.corpus.heads

    def __len__(self) -> int:
        return len(self.digits.labels) * (self.corpus.config.repeats if self.training else 1)

    def clip(self, index: int, *, epoch: int = 0, frames: int | None = None) -> Clip:  # noqa: ARG002 - one frame has no fewer
        if not 0 <= index < len(self):
            raise IndexError(index)
        item = index % len(self.digits.labels)
        warp = np.eye(2, 3)
        if self.training and self.corpus.config.augment:
            warp = _drawn_warp(np.random.default_rng([self.corpus.seed, epoch, index]))
        pixels = _pictured(self.digits.images[item], warp, self.corpus.height, self.corpus.width)
        label = int(self.digits.labels[item])
        return Clip(pixels[None], {"digit": np.array([label], np.int64)}, name=f"digit {label}")


def _drawn_warp(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a small affine map [2, 3] of the square −½..½."""
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    slant = np.array([[1, rng.uniform(-SHEAR, SHEAR)], [0, 1]])
    stretch = np.diag(rng.uniform(1 - SCALE, 1 + SCALE, 2))
    return np.column_stack([turn @ slant @ stretch, rng.uniform(-SHIFT, SHIFT, 2)])


def _pictured(digit: Image, warp: NDArray[np.float64], height: int, width: int) -> NDArray[np.uint8]:
    """Return white ink on black, RGB uint8 [height, width, 3]: the digit's square in the middle, as the map has it."""
    side, half = min(height, width), len(digit) / 2
    matrix = warp.copy()
    matrix[:, :2] *= side / len(digit)
    # A digit's pixel (i, j) covers the square from (i, j) to (i + 1, j + 1), and OpenCV counts from pixel centres.
    matrix[:, 2] = np.array([width, height]) / 2 + warp[:, 2] * side - 0.5 - matrix[:, :2] @ np.full(2, half - 0.5)
    ink: Image = cv2.warpAffine(digit, matrix, (width, height), flags=cv2.INTER_CUBIC)
    grey = np.rint(ink.clip(0, 1) * 255).astype(np.uint8)
    return np.stack([grey] * 3, axis=2)
