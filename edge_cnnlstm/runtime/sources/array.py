"""Frames that are already in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.sources.base import closed_source, frames_from


class ArraySource:
    """RGB images, uint8 [height, width, 3], from an array or any iterable; replayed at `rate` if it is given."""

    live = False

    def __init__(self, images: Iterable[Pixels], *, fit: Fit | None = None, rate: float | None = None) -> None:
        self._images = images
        self._fit = fit
        self._rate = rate
        self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        if self._closed:
            raise closed_source("an array")
        return frames_from(self._images, fit=self._fit, rate=self._rate)

    def close(self) -> None:
        self._images = ()
        self._closed = True
