"""Recall: the first digit of a clip is its label, and dozens of other digits follow.

Nothing marks the first digit but being first: those that follow are drawn like it, and independently of it. So a
frame that shows another digit says nothing of the label, however well it is read.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from edge_cnnlstm.training.config import HeadConfig, NetworkConfig
from edge_cnnlstm.training.data import canvas
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.data.digit_images import LABELS, Digits, Image, RenderedCorpus
from edge_cnnlstm.training.data.settings import RecallConfig

HEADS = (HeadConfig(name="digit", task="classify", labels=LABELS, per="clip"),)
"""What a network can be asked about these clips."""

CUE_FRAMES = 3
"""For how many frames each digit is shown, the first one and those that follow."""
BLANK = 0.25
"""How often nothing is shown instead of a digit."""
SIZES = (0.6, 0.85)
"""The smallest and the largest digit, in sides of the frame."""


def corpus(config: RecallConfig, network: NetworkConfig, seed: int) -> RenderedCorpus:
    """Return the digit images as a corpus of recall clips at the network's frame size."""
    render = partial(_render, network.height, network.width, config.frames)
    return RenderedCorpus(HEADS, render, config.clips, config.held_out, seed, repr(config))


def _render(height: int, width: int, whole: int, rng: np.random.Generator, digits: Digits, frames: int | None) -> Clip:
    """Draw a clip; a shorter one has the first digit too, and fewer that follow."""
    time = frames or whole
    shown = rng.integers(len(digits.images), size=-(-time // CUE_FRAMES))
    blank = rng.random(len(shown)) < BLANK
    blank[0] = False
    scenery, ink_colour = canvas.background(rng, height, width, contrast=25), canvas.colour(rng)
    scenes = [
        scenery if empty else canvas.painted(scenery, _placed(rng, digits.images[item], height, width), ink_colour)
        for item, empty in zip(shown, blank, strict=True)
    ]
    label = int(digits.labels[shown[0]])
    pixels = canvas.photographed(rng, np.stack(scenes).repeat(CUE_FRAMES, axis=0)[:time])
    return Clip(pixels, {"digit": np.full(time, label, np.int64)}, name=f"digit {label}")


def _placed(rng: np.random.Generator, digit: Image, height: int, width: int) -> Image:
    """Return the ink of a whole frame, [height, width], with the digit at a random place and size."""
    side = max(1, round(rng.uniform(*SIZES) * min(height, width)))
    top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
    ink = np.zeros((height, width), np.float32)
    ink[top : top + side, left : left + side] = canvas.resized(digit, side)
    return ink
