"""Gestures: a digit moves in one of eight ways, and no single frame tells which.

The frame is a torus: what leaves it on one side comes back on the other, and what has come as near as it can starts
again from afar. So at every frame of every gesture the digit's position is uniform and its size is log-uniform, and
neither depends on the gesture. Which digit it is, its colour and the background do not either. Opposite gestures are
each other's clips played backwards.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.training.config import HeadConfig, NetworkConfig
from edge_cnnlstm.training.data import canvas
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.data.digit_images import Digits, Image, RenderedCorpus
from edge_cnnlstm.training.data.settings import GesturesConfig

GESTURES = ("left", "right", "up", "down", "clockwise", "counterclockwise", "nearer", "farther")
HEADS = (HeadConfig(name="gesture", task="classify", labels=GESTURES, per="clip"),)
"""What a network can be asked about these clips."""

DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
SPEED = (0.06, 0.15)
"""Of a straight gesture, in sides of the frame per frame."""
TURN = (0.5, 0.9)
"""Of a circle, in radians per frame."""
RADIUS = (0.2, 0.35)
"""Of a circle, in sides of the frame."""
APPROACH = (0.1, 0.2)
"""Of a digit that comes nearer, in passages from the smallest size to the largest per frame."""
SIZES = (0.18, 0.9)
"""The smallest and the largest digit, in sides of the frame."""

Track = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Where the digit's centre is, [time, (x, y)] in 0..1 of the frame, and how large it is, [time] in sides."""


def corpus(config: GesturesConfig, network: NetworkConfig, seed: int) -> RenderedCorpus:
    """Return the digit images as a corpus of gestures at the network's frame size."""
    render = partial(_render, network.height, network.width, config.frames)
    return RenderedCorpus(HEADS, render, config.clips, config.held_out, seed, repr(config))


def draw_track(rng: np.random.Generator, gesture: str, frames: int, aspect: float = 1.0) -> Track:
    """Draw where the digit is at each frame; `aspect` is the frame's width over its height."""
    time = np.arange(frames)
    sides = np.array([min(1, 1 / aspect), min(1, aspect)])
    centre, phase = rng.uniform(0, 1, 2), rng.uniform()
    offset = np.zeros((frames, 2))
    nearness = np.full(frames, rng.uniform())
    if gesture in DIRECTIONS:
        offset = rng.uniform(*SPEED) * time[:, None] * np.array(DIRECTIONS[gesture])
    elif gesture in {"clockwise", "counterclockwise"}:
        sense = 1 if gesture == "clockwise" else -1  # y points down
        angle = 2 * np.pi * phase + sense * rng.uniform(*TURN) * time
        offset = rng.uniform(*RADIUS) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    else:
        nearness = nearness + (1 if gesture == "nearer" else -1) * rng.uniform(*APPROACH) * time
    smallest, largest = SIZES
    return (centre + offset * sides) % 1, smallest * (largest / smallest) ** (nearness % 1)


def _render(height: int, width: int, whole: int, rng: np.random.Generator, digits: Digits, frames: int | None) -> Clip:
    label, chosen = int(rng.integers(len(GESTURES))), int(rng.integers(len(digits.images)))
    scenery, ink_colour = canvas.background(rng, height, width, contrast=4), canvas.colour(rng)
    centres, sizes = draw_track(rng, GESTURES[label], frames or whole, width / height)
    scenes = [
        canvas.painted(scenery, _wrapped(digits.images[chosen], centre, size, height, width), ink_colour)
        for centre, size in zip(centres, sizes, strict=True)
    ]
    truth = {"gesture": np.full(len(scenes), label, np.int64)}
    return Clip(canvas.photographed(rng, np.stack(scenes)), truth, name=GESTURES[label])


def _wrapped(digit: Image, centre: NDArray[np.float64], size: float, height: int, width: int) -> Image:
    """Return the ink of a whole frame, [height, width], with the digit across its edges where it lies on them."""
    side = max(1, round(size * min(height, width)))
    ink = np.zeros((height, width), np.float32)
    ink[:side, :side] = canvas.resized(digit, side)
    left, top = np.floor(centre * (width, height) - side / 2 + 0.5).astype(int)
    return np.roll(ink, (top, left), axis=(0, 1))
