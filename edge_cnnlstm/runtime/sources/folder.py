"""A folder of images, in the order of their names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_cnnlstm.errors import SourceError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.optional import load_cv2
from edge_cnnlstm.runtime.sources.base import frames_from

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


class FolderSource:
    """The images of one folder, replayed at `rate` frames a second or as fast as they are read.

    Raises SourceError for a folder without images, and while iterating for an image that cannot be decoded.
    """

    live = False

    def __init__(self, folder: Path, *, fit: Fit | None = None, rate: float | None = None) -> None:
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        self._fit = fit
        self._rate = rate
        if not self._paths:
            raise SourceError(
                f"no image in {folder}",
                expected=f"files ending in {', '.join(sorted(SUFFIXES))}",
                fix="name the folder that holds the images themselves",
            )

    def __iter__(self) -> Iterator[Frame]:
        return frames_from(self._images(), fit=self._fit, rate=self._rate, bgr=True)

    def close(self) -> None:
        self._paths = []

    def _images(self) -> Iterator[Pixels]:
        cv2 = load_cv2()
        for path in list(self._paths):
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise SourceError(f"{path} cannot be decoded", expected="an image", fix="remove or replace the file")
            yield image
