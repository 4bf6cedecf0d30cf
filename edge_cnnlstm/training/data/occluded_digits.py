"""Occluded moving digits: real handwritten digits that move, bounce and pass behind an occluder.

One clip shows one digit. It is in plain sight in the opening frames, travels over a textured, noisy
background and disappears behind an opaque rectangle laid across its path. While it is hidden no single
frame says which digit it is or where it went: only memory does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.training.config import HeadConfig, NetworkConfig
from edge_cnnlstm.training.data.clip import Clip, Split
from edge_cnnlstm.training.data.digit_images import (
    LABELS,
    Digits,
    Image,
    RenderedCorpus,
    all_digits,
    split_items,
)
from edge_cnnlstm.training.data.settings import OccludedDigitsConfig

HEADS = (HeadConfig(name="digit", task="classify", labels=LABELS), HeadConfig(name="target", task="track"))
"""What a network is asked about these clips unless the recipe says otherwise."""
QUESTIONS = {head.name: head for head in HEADS} | {
    "odd": HeadConfig(name="odd", task="classify", labels=("even", "odd")),
    "velocity": HeadConfig(
        name="velocity", task="regress", labels=("right", "down"), centre=(0.0, 0.0), spread=(0.05, 0.05)
    ),
}
"""All that can be asked; velocities are in sides of the frame's central square per frame."""

OPENING_FRAMES = 3
"""The digit is in plain sight for at least this many frames: without a first look there is nothing to remember."""
HIDDEN_BY = (6, 13)
"""The digit is right behind the occluder at a frame drawn from this range."""
VISIBLE_INK = 0.5
"""A frame counts as visible when at least this share of the digit's ink is uncovered."""


@dataclass(frozen=True, slots=True)
class Scene:
    """How many frames are rendered, and their size in pixels.

    The digit moves inside the canvas's central square, so a wide canvas fits a square network by `crop`.
    """

    frames: int = 16
    height: int = 64
    width: int = 64

    @property
    def side(self) -> int:
        """Side of the central square, in pixels."""
        return min(self.height, self.width)

    @property
    def margin(self) -> NDArray[np.int64]:
        """Left and top edge of the central square, in pixels."""
        return np.array([(self.width - self.side) // 2, (self.height - self.side) // 2])


def corpus(config: OccludedDigitsConfig, network: NetworkConfig, seed: int) -> RenderedCorpus:
    """Return the digit images as a corpus of occluded moving digits at the network's frame size."""
    scene = Scene(config.frames, network.height, network.width)
    heads = tuple(QUESTIONS[name] for name in config.ask)
    return RenderedCorpus(heads, partial(_render_frames, scene), config.clips, config.held_out, seed, repr(config))


def _render_frames(scene: Scene, rng: np.random.Generator, digits: Digits, frames: int | None) -> Clip:
    return render_clip(rng, digits, scene if frames is None else replace(scene, frames=frames))


def held_out_clip(index: int, scene: Scene, *, split: Split = "test", seed: int = 0) -> Clip:
    """Render clip `index` of a held-out split; equal arguments give equal pixels."""
    return render_clip(np.random.default_rng([0, seed, 0, index]), all_digits().only(split_items(split)), scene)


def render_clip(rng: np.random.Generator, digits: Digits, scene: Scene) -> Clip:
    """Render a clip of one of these digits."""
    chosen = int(rng.integers(len(digits.images)))
    size = round(scene.side * rng.uniform(0.31, 0.44))
    resized = cv2.resize(digits.images[chosen], (size, size), interpolation=cv2.INTER_CUBIC)
    return _render(rng, scene, np.clip(resized, 0, 1), int(digits.labels[chosen]))


def _render(rng: np.random.Generator, scene: Scene, ink: Image, label: int) -> Clip:
    corners, velocity, occluder = _path_behind_occluder(rng, scene, len(ink))
    background = _texture(rng, scene.height, scene.width, contrast=30, low=30, high=130)
    cover = _texture(rng, occluder[3] - occluder[1], occluder[2] - occluder[0], contrast=50, low=40, high=200)
    colour = rng.uniform(170, 255, 3).astype(np.float32)
    behind = slice(occluder[1], occluder[3]), slice(occluder[0], occluder[2])
    covered = np.zeros((scene.height, scene.width), np.bool_)
    covered[behind] = True
    noise = _noise(rng, scene)

    frames = np.empty((scene.frames, scene.height, scene.width, 3), np.uint8)
    visible = np.empty(scene.frames, np.bool_)
    for time, (x, y) in enumerate(corners):
        under = slice(y, y + len(ink)), slice(x, x + len(ink))
        canvas = background.copy()
        canvas[under] += ink[..., None] * (colour - canvas[under])
        canvas[behind] = cover
        canvas += next(noise)
        frames[time] = np.clip(canvas, 0, 255)
        visible[time] = ink[~covered[under]].sum() >= VISIBLE_INK * ink.sum()
    boxes = np.tile(_ink_box(ink), (scene.frames, 1))
    boxes[:, :2] += corners
    boxes /= np.array([scene.width, scene.height] * 2, np.float32)
    truth: dict[str, NDArray[np.generic]] = {
        "digit": np.full(scene.frames, label, np.int64),
        "odd": np.full(scene.frames, label % 2, np.int64),
        "velocity": (velocity / scene.side).astype(np.float32),
        "target_box": boxes,
        "target_visible": visible.astype(np.float32),
    }
    return Clip(frames, truth, {"visible": visible, "hidden": ~visible}, name=f"digit {label}")


def _path_behind_occluder(
    rng: np.random.Generator, scene: Scene, size: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Draw the digit's top-left corners and velocity, [time, (x, y)], and an occluder (left, top, right, bottom)."""
    reach = scene.side - size
    while True:
        start = rng.uniform(0, reach, 2)
        direction = rng.uniform(0, 2 * np.pi)
        speed = scene.side * rng.uniform(0.03, 0.075)
        velocity = speed * np.array([np.cos(direction), np.sin(direction)])
        times = np.arange(max(scene.frames, HIDDEN_BY[1]))[:, None]
        path = _bounce(start + velocity * times, reach)
        corners = np.rint(path).astype(np.int64)
        behind_at = rng.integers(*HIDDEN_BY)
        half = size * rng.uniform(0.45, 0.75, 2)
        centre = corners[behind_at] + size / 2
        occluder = np.rint(np.concatenate([centre - half, centre + half])).clip(0, scene.side).astype(np.int64)
        opening = corners[:OPENING_FRAMES]
        apart = (opening + 0.85 * size <= occluder[:2]) | (opening + 0.15 * size >= occluder[2:])
        if apart.any(axis=1).all():
            moved = np.gradient(path, axis=0)[: scene.frames]
            return corners[: scene.frames] + scene.margin, moved, occluder + np.tile(scene.margin, 2)


def _bounce(position: NDArray[np.float64], reach: float) -> NDArray[np.float64]:
    """Fold a straight path back and forth between 0 and `reach`."""
    folded: NDArray[np.float64] = reach - np.abs(position % (2 * reach) - reach)
    return folded


def _texture(rng: np.random.Generator, height: int, width: int, *, contrast: float, low: float, high: float) -> Image:
    coarse = rng.uniform(low, high, 3) + rng.normal(0, contrast, (6, 6, 3))
    return np.asarray(cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC))


def _noise(rng: np.random.Generator, scene: Scene) -> Iterator[Image]:
    """Yield sensor noise for frame after frame: windows at random places of one large field.

    The grain grows with the canvas, so that fitting a large frame does not average the noise away.
    """
    grain = max(1, scene.side // 64)
    field = 8 * rng.standard_normal((scene.height // grain + 33, scene.width // grain + 33, 3), dtype=np.float32)
    field = field.repeat(grain, 0).repeat(grain, 1)
    while True:
        top, left = rng.integers(0, 32 * grain, 2)
        yield field[top : top + scene.height, left : left + scene.width]


def _ink_box(ink: Image) -> NDArray[np.float32]:
    """Centre x, centre y, width and height of the ink inside its own square, in pixels."""
    rows, columns = (np.flatnonzero(ink.max(axis=axis) > 0.3) for axis in (1, 0))
    left, right, top, bottom = columns[0], columns[-1] + 1, rows[0], rows[-1] + 1
    return np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top], np.float32)
