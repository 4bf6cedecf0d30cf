"""Frames that are already in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels
from edge_cnnlstm.runtime.sources.base import closed_source, frames_from


class ArraySource:
    """RGB images, uint8 [height, width, 3], from an array or any iterable; replayed at `rate` if it is given.

    `spin_us` is how exactly, see `realtime.Realtime`; `name` is what its frames call their source.
    """

    live = False

    def __init__(
        self,
        images: Iterable[Pixels],
        *,
        fit: Fit | None = None,
        rate: float | None = None,
        spin_us: int = 0,
        name: str = "array",
    ) -> None:
        self._images = images
        self._fit = fit
        self._rate = rate
        self._spin_us = spin_us
        self._name = name
        self._closed = False

    def __iter__(self) -> Iterator[Frame]:
        if self._closed:
            raise closed_source("an array")
        return frames_from(self._images, fit=self._fit, source=self._name, rate=self._rate, spin_us=self._spin_us)

    def close(self) -> None:
        self._images = ()
        self._closed = True
