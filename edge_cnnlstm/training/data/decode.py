"""From a video or a folder of images to frames at the network's size, as a stream would bring them there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.sources.base import frames_from
from edge_cnnlstm.runtime.sources.folder import SUFFIXES

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".ts", ".mts"]
)

Positions = NDArray[np.int64]


class Footage(Protocol):
    """Frames that can be read by their positions.

    `count` is how many are promised; once reading has met the end sooner, how many there are.
    """

    count: int

    def read(self, positions: Positions) -> Pixels:
        """Return the frames at ascending positions that differ, uint8 [n, height, width, 3], RGB, the caller's.

        There are fewer when the footage ends before. Raises DataError for what cannot be decoded.
        """


class Moment(NamedTuple):
    """A clip's frames, where they stand in their footage, and how long that is taken to be.

    A position at or past `length` shows the last frame instead.
    """

    frames: Pixels
    positions: Positions
    length: int


def open_footage(path: Path, fit: Fit) -> VideoFootage | FolderFootage:
    """Return what a video file or a folder of images holds; raises DataError when that is nothing to be seen.

    Nothing stays open between two reads, so that footage may travel into another process.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:  # OpenCV would crash
        raise DataError(f"{path!r}: the name is no text", expected="a name in UTF-8", fix="rename it") from error
    if path.is_dir():
        return FolderFootage(path, fit)
    if not path.is_file():  # reading from a pipe would wait for ever
        raise _undecodable(path, "there is no such file")
    return VideoFootage(path, fit)


def moment(footage: Footage, choose: Callable[[int], Positions]) -> Moment:
    """Read the frames that `choose` picks from so many.

    The choice is made from the promised count, and made again from the true one when the footage ends before what
    was picked: it depends on the footage alone, and never on what was read from it before.
    """
    while True:
        count = footage.count
        positions = choose(count)
        shown, where = np.unique(np.minimum(positions, count - 1), return_inverse=True)
        frames = footage.read(shown)
        if len(frames) == len(shown):
            return Moment(frames[where], positions, count)


class VideoFootage:
    """A video file.

    Frames before the ones asked for are decoded and thrown away: seeking would not hit the frame in every format.
    """

    def __init__(self, path: Path, fit: Fit) -> None:
        self.path = path
        self._fit = fit
        with self._opened() as capture:
            promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
            self.count = int(promised) if 0 < promised < 2**31 else _grabbed(capture)
        if not self.count:
            raise self._no_frame()

    def size(self) -> tuple[int, int]:
        """Height and width of the first frame as it was filmed, in pixels."""
        with self._opened() as capture:
            for image in self._picked(capture, np.zeros(1, np.int64)):
                return image.shape[0], image.shape[1]
        raise self._no_frame()

    def read(self, positions: Positions) -> Pixels:
        with self._opened() as capture:
            frames = _fitted(self._picked(capture, positions), len(positions), self._fit)
        if not self.count:
            raise self._no_frame()
        return frames

    def _picked(self, capture: Any, positions: Positions) -> Iterator[Pixels]:
        grabbed = 0
        for position in positions:
            while grabbed <= position:
                if not capture.grab():
                    self.count = grabbed
                    return
                grabbed += 1
            decoded, image = capture.retrieve()
            if not decoded:
                self.count = int(position)
                return
            yield image

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        # One thread: the workers share the cores already, and damaged frames are patched the same way every time.
        capture = cv2.VideoCapture()
        try:
            if not capture.open(str(self.path), cv2.CAP_ANY, [cv2.CAP_PROP_N_THREADS, 1]):
                raise _undecodable(self.path, f"OpenCV {cv2.__version__} cannot open it")
            yield capture
        except cv2.error as error:
            raise _undecodable(self.path, str(error)) from error
        finally:
            capture.release()

    def _no_frame(self) -> DataError:
        return _undecodable(self.path, "no frame can be decoded")


class FolderFootage:
    """A folder of images, in the order of their names."""

    def __init__(self, path: Path, fit: Fit) -> None:
        self._paths = image_paths(path)
        self._fit = fit
        self.count = len(self._paths)
        if not self.count:
            raise _undecodable(path, "no image in this folder")

    def size(self) -> tuple[int, int]:
        """Height and width of the first image, in pixels."""
        image = _image(self._paths[0])
        return image.shape[0], image.shape[1]

    def read(self, positions: Positions) -> Pixels:
        return _fitted((_image(self._paths[position]) for position in positions), len(positions), self._fit)


class KeptFootage:
    """All frames of a video that was decoded before; `count` is what its container promises."""

    def __init__(self, frames: Pixels, count: int) -> None:
        self._frames = frames
        self.count = count

    def read(self, positions: Positions) -> Pixels:
        if positions[-1] >= len(self._frames):
            self.count = len(self._frames)
        return self._frames[positions[positions < len(self._frames)]]


def image_paths(folder: Path) -> list[Path]:
    """Return the images of a folder in the order of their names, which is the order of time; no hidden files."""
    images = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in images if not path.name.startswith("."))


def _fitted(images: Iterator[Pixels], count: int, fit: Fit) -> Pixels:
    frames = np.empty((count, fit.height, fit.width, 3), np.uint8)
    found = 0
    for frame in frames_from(images, fit=fit, bgr=True):
        frames[found] = frame.pixels
        found += 1
    return frames[:found]


def _image(path: Path) -> Pixels:
    try:
        image: Pixels | None = cv2.imread(str(path), cv2.IMREAD_COLOR)
    except (cv2.error, UnicodeError) as error:
        raise _undecodable(path, str(error)) from error
    if image is None:
        raise _undecodable(path, f"OpenCV {cv2.__version__} cannot read it")
    return image


def _grabbed(capture: Any) -> int:
    count = 0
    while capture.grab():
        count += 1
    return count


def _undecodable(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: {why}",
        expected="a video, or a folder of images, that OpenCV decodes",
        fix="replace or remove it, or set data.corrupt to skip",
    )
