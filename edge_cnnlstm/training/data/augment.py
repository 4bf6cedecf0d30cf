"""Changes to a training clip, the same for each of its frames, drawn from one generator per clip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.training.data.settings import AugmentConfig
from edge_cnnlstm.training.data.tracks import Track

GREY = 128
LUMINANCE = (0.299, 0.587, 0.114)
"""How bright red, green and blue look (ITU-R BT.601)."""
OCCLUDER_SIDES = (0.2, 0.5)
"""Sides of the rectangle that hides part of the picture, as shares of the picture's."""

SHIFTS = 64
"""Noise is laid over the frames in as many places, along either axis."""


class Part(NamedTuple):
    """A rectangle of the picture, in whole pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Indices of this part of frames, [time, height, width, …]."""
        return slice(None), slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


@dataclass(frozen=True, slots=True)
class Change:
    """What is done to one clip; as it stands, nothing, and the clip is the footage's middle.

    `start` is where the clip begins, 0..1 of where it could. `speed` multiplies the distance between frames.
    `dropped` bool [frames] says which frames repeat the one before them. `crop` is the part of the picture that is
    kept, and `occluder` the part that is hidden. `brightness`, `contrast` and `saturation` are relative. `blur` and
    `noise` are standard deviations, in pixels and in grey levels.
    """

    start: float = 0.5
    speed: float = 1.0
    dropped: NDArray[np.bool_] | None = None
    flip: bool = False
    crop: Part | None = None
    occluder: Part | None = None
    occluder_colour: tuple[int, int, int] = (GREY, GREY, GREY)
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    noise_seed: int = 0

    def positions(self, frames: int, every: int, count: int) -> NDArray[np.int64]:
        """Return which frames of `count` make a clip, ascending; those from `count` on are past the end."""
        steps = np.rint(np.arange(frames) * (every * self.speed)).astype(np.int64)
        if self.dropped is not None:
            steps = steps[np.maximum.accumulate(np.where(self.dropped, 0, np.arange(frames)))]
        room = max(0, count - 1 - int(steps[-1]))
        return np.asarray(steps + min(int(self.start * (room + 1)), room), np.int64)

    def apply(self, frames: Pixels) -> Pixels:
        """Return the changed frames, uint8 [time, height, width, 3]; the same array where nothing changes."""
        if self.crop is not None:
            frames = _cropped(frames, self.crop)
        if self.flip:
            frames = np.ascontiguousarray(frames[:, :, ::-1])
        if self.occluder is not None:
            frames = frames.copy()
            frames[self.occluder.slices] = self.occluder_colour
        if self.brightness or self.contrast or self.saturation:
            frames = self._coloured(frames)
        if self.blur:
            frames = np.stack([cv2.GaussianBlur(frame, (0, 0), self.blur) for frame in frames])
        return self._noisy(frames) if self.noise else frames

    def follow(self, track: Track, height: int, width: int) -> Track:
        """Return the track of a target in the changed frames, which are of this size."""
        if self.crop is not None:
            part = self.crop
            scale_x, scale_y = width / part.width, height / part.height
            track = track.moved(scale_x, scale_y, -part.left / part.width, -part.top / part.height)
        if self.flip:
            track = track.mirrored()
        if self.occluder is not None:
            left, top, part_width, part_height = self.occluder
            right, bottom = left + part_width, top + part_height
            track = track.covered(left / width, top / height, right / width, bottom / height)
        return track

    def _coloured(self, frames: Pixels) -> Pixels:
        """Away from grey by saturation, brighter, and away from middle grey by contrast: one affine map."""
        to_grey = np.tile(np.array(LUMINANCE), (3, 1))
        saturated = (1 + self.saturation) * np.eye(3) - self.saturation * to_grey
        linear = saturated * (1 + self.brightness) * (1 + self.contrast)
        affine = np.column_stack([linear, np.full(3, -GREY * self.contrast)])
        rows = frames.reshape(-1, frames.shape[2], 3)
        return np.asarray(cv2.transform(rows, affine), np.uint8).reshape(frames.shape)

    def _noisy(self, frames: Pixels) -> Pixels:
        """Add windows at random places of one field: numbers for every pixel of every frame would take far longer."""
        rng = np.random.default_rng(self.noise_seed)
        height, width = frames.shape[1:3]
        field = rng.standard_normal((height + SHIFTS - 1, width + SHIFTS - 1, 3), dtype=np.float32) * self.noise
        corners = rng.integers(0, SHIFTS, (len(frames), 2))
        noisy = np.empty_like(frames)
        for frame, into, (top, left) in zip(frames, noisy, corners, strict=True):
            cv2.add(frame, field[top : top + height, left : left + width], dst=into, dtype=cv2.CV_8U)
        return noisy


def draw(config: AugmentConfig, frames: int, height: int, width: int, rng: np.random.Generator) -> Change:
    """Draw a change to so many frames of this size.

    The draws do not depend on the settings, so that one setting does not move what the others do.
    """
    start, flip, occlude = rng.random(3)
    keep, blur, noise = rng.random(3)
    speed, brightness, contrast, saturation = rng.uniform(-1, 1, 4)
    kept, hidden = rng.random(2), rng.random(2)
    hidden_sides = rng.uniform(*OCCLUDER_SIDES, 2)
    red, green, blue = (int(level) for level in rng.integers(0, 256, 3))
    noise_seed = int(rng.integers(2**63))
    return Change(
        start=start,
        speed=1 + config.speed * speed,
        dropped=rng.random(frames) < config.drop if config.drop else None,
        flip=bool(flip < config.flip),
        crop=_part(height, width, np.full(2, 1 - config.crop * keep), kept) if config.crop else None,
        occluder=_part(height, width, hidden_sides, hidden) if occlude < config.occlude else None,
        occluder_colour=(red, green, blue),
        brightness=config.colour * brightness,
        contrast=config.colour * contrast,
        saturation=config.colour * saturation,
        blur=config.blur * blur,
        noise=config.noise * noise,
        noise_seed=noise_seed,
    )


def _part(height: int, width: int, shares: NDArray[np.float64], where: NDArray[np.float64]) -> Part:
    """Return a rectangle with these shares of the sides, 0..1 of the way from the top left to the bottom right."""
    whole = np.array([width, height])
    sides = np.rint(whole * shares).astype(int).clip(1)
    left, top = np.rint((whole - sides) * where).astype(int)
    return Part(int(left), int(top), int(sides[0]), int(sides[1]))


def _cropped(frames: Pixels, part: Part) -> Pixels:
    fit = Fit(frames.shape[1], frames.shape[2], "stretch")
    return np.stack([fit.apply(frame)[0] for frame in frames[part.slices]])
