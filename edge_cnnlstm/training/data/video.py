"""Write frames as an encoded video."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import DataError


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], height: int, width: int, *, rate: float) -> None:
    """Encode RGB frames, uint8 [height, width, 3], as MPEG-4. Raises DataError when OpenCV cannot write there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
    if not writer.isOpened():
        raise DataError(
            f"OpenCV {cv2.__version__} cannot write {path}",
            expected="a writable path ending in .mp4",
            fix="choose another path",
        )
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
