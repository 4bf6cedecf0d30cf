"""A video of what the network saw, with what it said of it: made to be looked at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from edge_cnnlstm.errors import ClosedError, SinkError
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.optional import load_cv2
from edge_cnnlstm.runtime.prediction import Answer, Box, Classification, Prediction, Regression, Track
from edge_cnnlstm.runtime.sources.video import open_capture

LEAST_WIDTH = 480
"""Narrower frames are enlarged by a whole number, so that text fits under them and their pixels stay square."""
IN_SIGHT = 0.5
SKY, INK, WHITE = (86, 180, 233), (29, 39, 51), (255, 255, 255)
LINE_PX, MARGIN_PX, TEXT_SCALE, DASH_PX = 24, 10, 0.55, 14


class AnnotatedVideo:
    """Writes one frame a prediction to an MPEG-4 file: boxes on it, labels, presence and age under it.

    A box is solid when the network says that its target is in sight, dashed when it says hidden. Frames are the
    network's, after fitting; `rate` is how many of them the player shows a second, whenever they came. It costs
    milliseconds a frame in the thread that makes the predictions. Raises OSError at once for a path that cannot be
    written, and SinkError for a name that does not end in .mp4, or when OpenCV cannot encode the first frame or lost
    one.
    """

    def __init__(self, path: Path, rate: float) -> None:
        if path.suffix.lower() != ".mp4":
            raise SinkError(f"a video called {path.name}", expected="a name ending in .mp4", fix="change the name")
        self.path, self.rate = path, rate
        self.frames = 0
        self._cv2 = load_cv2()
        self._writer: Any = None
        self._closed = False
        path.open("wb").close()

    def write(self, frame: Frame, prediction: Prediction) -> None:
        if self._closed:
            raise ClosedError(f"{self.path}, which was closed", expected="an open sink", fix="make another one")
        picture = annotated(frame, prediction)
        if self._writer is None:
            self._writer = self._open(picture)
        self._writer.write(self._cv2.cvtColor(picture, self._cv2.COLOR_RGB2BGR))
        self.frames += 1

    def close(self) -> None:
        """Finish the file, or remove it when it holds no frame. Raises SinkError when frames are missing from it."""
        if self._closed:
            return
        self._closed = True
        if self._writer is None:
            self.path.unlink(missing_ok=True)
            return
        self._writer.release()
        self._check()

    def _open(self, picture: Pixels) -> Any:
        height, width = picture.shape[:2]
        code = self._cv2.VideoWriter.fourcc(*"mp4v")
        writer = self._cv2.VideoWriter(str(self.path), code, self.rate, (width, height))
        if not writer.isOpened():
            raise SinkError(
                f"OpenCV {self._cv2.__version__} cannot write MPEG-4 of {width}×{height} at {self.rate:g} frames a "
                f"second to {self.path}",
                expected="a disk with room, and an OpenCV that was built with FFmpeg or GStreamer",
                fix="choose another path, or pip install opencv-python-headless",
            )
        return writer

    def _check(self) -> None:
        # OpenCV does not say when the disk is full.
        try:
            written = int(open_capture(str(self.path)).get(self._cv2.CAP_PROP_FRAME_COUNT))
        except Exception:  # noqa: BLE001 - whatever is wrong with the file, no frame can be read from it
            written = 0
        if written != self.frames:
            raise SinkError(
                f"{self.path} holds {written} of {self.frames} frames",
                expected="all of them",
                fix="make sure that the disk has room",
            )


def annotated(frame: Frame, prediction: Prediction) -> Pixels:
    """Return the frame enlarged, with boxes on it and text under it: a new image, RGB, its sides even for encoders."""
    cv2 = load_cv2()
    height, width = frame.pixels.shape[:2]
    factor = math.ceil(LEAST_WIDTH / width)
    lines = _lines(prediction)
    band = LINE_PX * len(lines) + MARGIN_PX
    canvas = np.zeros((_even(height * factor + band), _even(width * factor), 3), np.uint8)
    shown = canvas[: height * factor, : width * factor]
    shown[...] = cv2.resize(frame.pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    for answer in prediction.answers.values():
        if isinstance(answer, Track):
            _draw_box(shown, answer.box.placed(frame.placement), factor, dashed=answer.presence < IN_SIGHT)
    for number, line in enumerate(lines, 1):
        place = (MARGIN_PX, height * factor + LINE_PX * number)
        text = _fitting(line, canvas.shape[1] - 2 * MARGIN_PX)
        cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, WHITE, 1, cv2.LINE_AA)
    return canvas


def _lines(prediction: Prediction) -> list[str]:
    since = f"   memory empty: {prediction.reset_reason}" if prediction.first_after_reset else ""
    first = f"frame {prediction.frame_index}   age {prediction.timings.age / 1e6:.2f} ms{since}"
    return [first, *(f"{name}: {_said(answer)}" for name, answer in prediction.answers.items())]


def _said(answer: Answer) -> str:
    if isinstance(answer, Classification):
        return f"{answer.label} {answer.score:.0%}"
    if isinstance(answer, Regression):
        return ", ".join(f"{name} {value:.4g}" for name, value in answer.values.items())
    return f"{'in sight' if answer.presence >= IN_SIGHT else 'hidden'}, presence {answer.presence:.2f}"


def _fitting(text: str, width: int) -> str:
    """Return as much of a text as fits, in the letters that OpenCV has."""
    cv2 = load_cv2()
    text = text.encode("ascii", "replace").decode()
    while cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, TEXT_SCALE, 1)[0][0] > width:
        text = text[:-4] + "..." if text.endswith("...") else text[:-3] + "..."
    return text


def _draw_box(image: Pixels, box: Box, factor: int, *, dashed: bool) -> None:
    """Draw a box, in pixels of the frame before it was enlarged: light on dark, so that it shows on anything."""
    cv2 = load_cv2()
    left, top = box.x * factor, box.y * factor
    right, bottom = left + box.width * factor, top + box.height * factor
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    lines = [line for ends in zip(corners, corners[1:] + corners[:1], strict=True) for line in _strokes(*ends, dashed)]
    for colour, thickness in ((INK, 5), (SKY, 3)):
        for begin, end in lines:
            cv2.line(image, begin, end, colour, thickness)


def _strokes(
    begin: tuple[float, float], end: tuple[float, float], dashed: bool
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield the strokes of a line: one, or as many as it takes with gaps as long as they are."""
    # A network that is not trained yet may answer with boxes of any size.
    ends = np.clip(np.array([begin, end]), -4096, 4096)
    count = 2 * max(1, round(float(np.abs(ends[1] - ends[0]).sum()) / DASH_PX / 2)) - 1 if dashed else 1
    points = np.linspace(ends[0], ends[1], count + 1).round().astype(int).tolist()
    for at in range(0, count, 2):
        yield tuple(points[at]), tuple(points[at + 1])


def _even(pixels: int) -> int:
    return pixels + pixels % 2
