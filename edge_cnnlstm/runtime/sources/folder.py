"""A folder of images, in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_cnnlstm.errors import SourceError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.optional import load_cv2
from edge_cnnlstm.runtime.sources.base import closed_source, frames_from

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


class FolderSource:
    """The images of one folder, replayed at `rate` frames a second or as fast as they are read.

    `spin_us` is how exactly, see `realtime.Realtime`. Raises SourceError for a folder without images, and while
    iterating for an image that cannot be decoded.
    """

    live = False

    def __init__(self, folder: Path, *, fit: Fit | None = None, rate: float | None = None, spin_us: int = 0) -> None:
        self._paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
        self._folder = folder
        self._fit = fit
        self._rate = rate
        self._spin_us = spin_us
        self._closed = False
        if not self._paths:
            raise SourceError(
                f"no image in {folder}",
                expected=f"files ending in {', '.join(sorted(SUFFIXES))}",
                fix="name the folder that holds the images themselves",
            )

    def __iter__(self) -> Iterator[Frame]:
        if self._closed:
            raise closed_source(self._folder)
        return frames_from(
            self._images(), fit=self._fit, source=str(self._folder), rate=self._rate, spin_us=self._spin_us, bgr=True
        )

    def close(self) -> None:
        self._closed = True

    def _images(self) -> Iterator[Pixels]:
        cv2 = load_cv2()
        for path in self._paths:
            if self._closed:
                return
            try:
                image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            except cv2.error as error:
                raise _undecodable(path) from error
            if image is None:
                raise _undecodable(path)
            yield image


def _undecodable(path: Path) -> SourceError:
    return SourceError(
        f"{path} cannot be decoded", expected="an image that OpenCV decodes", fix="remove or replace the file"
    )
