"""What tests of data on disk share: real videos whose every frame tells its own number."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.training.config import NetworkConfig
from edge_cnnlstm.training.data.video import write_video

DARKEST, STEP = 20, 8
"""Frame t is plain grey of level DARKEST + t · STEP: far enough apart for an encoder to keep."""

Film = Callable[..., Path]


def grey(number: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    return np.full((height, width, 3), DARKEST + number * STEP, np.uint8)


def numbers_of(frames: Any) -> list[int]:
    """The numbers of grey frames, [..., height, width, 3]."""
    levels = np.asarray(frames, np.float64).mean(axis=(-3, -2, -1))
    return np.rint((levels - DARKEST) / STEP).astype(int).tolist()  # type: ignore[no-any-return]  # numpy's tolist


@pytest.fixture(scope="session")
def film() -> Film:
    """Write a video of numbered frames, or of the pictures given, and return its path."""

    def write(
        path: Path, frames: int = 12, height: int = 48, width: int = 64, pictures: Iterable[Any] | None = None
    ) -> Path:
        shown = (grey(number, height, width) for number in range(frames)) if pictures is None else pictures
        lower = path.with_suffix(path.suffix.lower())
        write_video(lower, shown, height, width, rate=25)
        return lower.rename(path)

    return write


@pytest.fixture(scope="session")
def album() -> Film:
    """Write a folder of numbered JPEG images, some of them grey, and return its path."""

    def write(path: Path, frames: int = 12, height: int = 48, width: int = 64) -> Path:
        path.mkdir(parents=True)
        for number in range(frames):
            image = grey(number, height, width)
            assert cv2.imwrite(str(path / f"{number + 1:05}.jpg"), image[..., 0] if number % 2 else image)
        return path

    return write


@pytest.fixture
def numbers() -> Callable[[Any], list[int]]:
    return numbers_of


@pytest.fixture
def network() -> NetworkConfig:
    return NetworkConfig.model_validate({"height": 24, "width": 32, "fit": "stretch"})


@pytest.fixture
def classes(tmp_path: Path, film: Film) -> Path:
    """Two classes with six videos each, of 12 frames."""
    root = tmp_path / "classes"
    for label in ("left", "right"):
        for number in range(6):
            film(root / label / f"{number}.mp4")
    return root
