"""The stream that every graph sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice

from edge_cnnlstm.errors import DataError, DependencyError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.sources import open_source
from edge_cnnlstm.spec import ModelSpec

REPEATED = 150
"""So many frames end the stream that also began it."""
LEAST = 2 * REPEATED


def stream(spec: ModelSpec, frames: int, source: str | None, seed: int) -> Iterator[Pixels]:
    """Yield that many frames, uint8 [height, width, 3], fitted as the model was trained; fewer when a source ends.

    The last 150 frames are the first 150 again: a memory at the stream's end is then compared with a young one over
    the same pictures, and what differs is its age. Raises DataError for a source of fewer than 150 frames.
    """
    begun: list[Pixels] = []
    seen = 0
    for pixels in islice(digits(spec, seed) if source is None else recorded(spec, source), frames - REPEATED):
        if len(begun) < REPEATED:
            begun.append(pixels.copy())
        seen += 1
        yield pixels
    if seen < LEAST - REPEATED:
        raise DataError(
            f"{source} has {seen} frames",
            expected=f"at least {LEAST - REPEATED}, to tell a young memory from an old one",
            fix="choose a longer video",
        )
    yield from begun


def digits(spec: ModelSpec, seed: int) -> Iterator[Pixels]:
    """Yield the frames of `edge-cnnlstm sample-video`, without end and unencoded: digits that training never saw."""
    try:
        from edge_cnnlstm.training.data.occluded_digits import Scene, held_out_clip
    except ImportError as error:
        raise DependencyError(
            f"cannot import what draws the digits: {error}",
            expected="the extra `training` to be installed",
            fix="pip install 'edge-cnnlstm[training]', or give a video with --source",
        ) from error
    fit, scene = Fit.of(spec), Scene(frames=48, height=240, width=320)
    for index in count():
        for image in held_out_clip(index, scene, seed=seed).frames:
            yield fit.apply(image)[0]


def recorded(spec: ModelSpec, address: str) -> Iterator[Pixels]:
    """Yield the frames of a video, a folder or a camera; raises SourceError when it cannot be read."""
    with closing(open_source(address, fit=Fit.of(spec))) as source:
        for frame in source:
            yield frame.pixels
