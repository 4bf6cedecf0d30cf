"""What every source promises, and what all of them share: pacing, fitting, colour order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol

import numpy as np

from edge_cnnlstm.errors import ClosedError, ConfigError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Frame, Pixels, Placement
from edge_cnnlstm.runtime.realtime import sleep_until


class Source(Protocol):
    """An iterable of frames, read once, from one thread.

    `live` says whether frames are lost while nobody reads. Iterating raises SourceError when the source breaks;
    it ends when the source does.
    """

    live: bool

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Release the device or file; may be called twice, but not while another thread reads."""


class First:
    """The first `count` frames of another source. Raises ConfigError for a count below 1."""

    def __init__(self, source: Source, count: int) -> None:
        if count < 1:
            raise ConfigError(f"{count} frames", expected="at least 1", fix="change --frames")
        self.live = source.live
        self.close = source.close
        self._source, self._count = source, count

    def __iter__(self) -> Iterator[Frame]:
        return islice(self._source, self._count)


class Pace:
    """Releases frames at a fixed rate, and says when each was due.

    `period` is in seconds. The schedule never slips: a late frame keeps its due time, so its lateness shows in its age.
    `spin_us` of the wait are spent awake, as `realtime.Realtime` says. Raises ConfigError for a rate outside 0 to 1000.
    """

    def __init__(self, rate: float, spin_us: int = 0) -> None:
        if not 0 < rate <= 1000:
            raise ConfigError(f"{rate} frames a second", expected="more than 0 and at most 1000", fix="change --rate")
        self.period = 1 / rate
        self._spin_ns = 1000 * spin_us
        self._start_ns = 0

    def wait(self, index: int) -> int:
        """Sleep until frame `index` is due and return that instant, in monotonic nanoseconds."""
        if index == 0:
            self._start_ns = time.monotonic_ns()
        due = self._start_ns + round(index * self.period * 1e9)
        sleep_until(due, self._spin_ns)
        return due


def closed_source(name: object) -> ClosedError:
    """Return the error for iterating a source after it was closed."""
    return ClosedError(f"{name}, which was closed", expected="an open source", fix="open it again")


def frames_from(
    images: Iterable[Pixels],
    *,
    fit: Fit | None,
    source: str = "",
    rate: float | None = None,
    spin_us: int = 0,
    bgr: bool = False,
) -> Iterator[Frame]:
    """Turn images, uint8 [height, width, 3], into frames of a source: paced if a rate is given, fitted, in RGB.

    Each image is decoded before it is due. The frames' pixels are new arrays unless nothing had to change.
    """
    pace = None if rate is None else Pace(rate, spin_us)
    for index, image in enumerate(images):
        captured_ns = time.monotonic_ns() if pace is None else pace.wait(index)
        begun = time.monotonic_ns()
        pixels, placement = (image, Placement()) if fit is None else fit.apply(image)
        if bgr:
            pixels = np.ascontiguousarray(pixels[..., ::-1])
        yield Frame(pixels, index, captured_ns, placement, time.monotonic_ns() - begun, source)
