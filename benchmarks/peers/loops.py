"""The two loops that every case is timed in: back to back, and one frame every 33 ms from the instant it was due.

A sample is nanoseconds. Each loop begins with a warm-up whose samples are not returned.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from typing import Any

from benchmarks.peers.peer import Bare
from edge_cnnlstm.runtime.frame import Pixels

RATE = 30.0
"""Frames a second, as a camera sends them."""
WARM_UP_FRAMES = 32
"""More than any engine here asks for: TorchScript optimises at its second and third call, the others at their first."""


def frames_for(golden: Sequence[Pixels], count: int) -> list[Pixels]:
    """Return the warm-up's frames and so many more, the golden ones over and over."""
    return list(islice(cycle(golden), WARM_UP_FRAMES + count))


def back_to_back(answer: Callable[[Any], object], arguments: Sequence[Any], warm_up: int = WARM_UP_FRAMES) -> list[int]:
    """Time one answer after the other, everything that it takes included."""
    clock, samples = time.monotonic_ns, []
    for argument in arguments:
        begun = clock()
        answer(argument)
        samples.append(clock() - begun)
    return samples[warm_up:]


def barely(engine: Bare, frames: Sequence[Pixels]) -> list[int]:
    """Time the engine's own call alone: the frame is laid before the clock starts, and no answer is read."""
    clock, run, samples = time.monotonic_ns, engine.run, []
    for pixels in frames:
        engine.lay(pixels, 1 / RATE)
        begun = clock()
        run()
        samples.append(clock() - begun)
    return samples[WARM_UP_FRAMES:]


def paced(answer: Callable[[Pixels], object], frames: Sequence[Pixels]) -> list[int]:
    """Sleep until each frame is due and answer it, as everybody writes it; time from when it was due.

    The schedule never slips: an answer that is late makes the next ones late.
    """
    samples, start = [], time.monotonic_ns()
    for index, pixels in enumerate(frames):
        due = start + round(index * 1e9 / RATE)
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
        answer(pixels)
        samples.append(time.monotonic_ns() - due)
    return samples[WARM_UP_FRAMES:]
