"""What `Stream.step` costs over the engine call that it makes, on a network that costs nothing; and a frame's copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.processes import answer
from benchmarks.runtime import eight
from benchmarks.statistics import percentile
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.runtime.stream import Stream

TURNS = 5
CALLS = 5_000
WARM_UP = 500
FRAME = (224, 224, 3)
FRAMES = 64


def main() -> dict[str, Any]:
    """Let the bare, pre-bound call and the whole step take turns; µs at p50 and p99 of each."""
    backend = OnnxRuntimeBackend(eight.graph(), eight.SPEC)
    stream, pixels = Stream(backend), np.full((1, 1, 3), 7, np.uint8)
    session, binding = backend._session._sess, backend._bindings[0]._iobinding  # noqa: SLF001 - the barest call there is
    bare: list[int] = []
    whole: list[int] = []
    with Realtime(keep_warm=False, spin_us=0).loop():
        for _ in range(TURNS):
            bare += timed(lambda: session.run_with_iobinding(binding, None))
            whole += timed(lambda: stream.step(pixels))
        copies = timed(copying())
    return {
        "bare_us": {"p50": percentile(bare, 50) / 1e3, "p99": percentile(bare, 99) / 1e3},
        "step_us": {"p50": percentile(whole, 50) / 1e3, "p99": percentile(whole, 99) / 1e3},
        "copy_us": {"p50": percentile(copies, 50) / 1e3, "p99": percentile(copies, 99) / 1e3},
        "samples": len(whole),
    }


def timed(call: Callable[[], object]) -> list[int]:
    """Return nanoseconds of many calls, after a warm-up."""
    clock, samples = time.perf_counter_ns, []
    for _ in range(WARM_UP):
        call()
    for _ in range(CALLS):
        begun = clock()
        call()
        samples.append(clock() - begun)
    return samples


def copying() -> Callable[[], None]:
    """Return what a step does to a 224×224 frame on the host: lay it into the engine's input. No frame comes twice
    while it could be in the cache.
    """
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, *FRAME), dtype=np.uint8)
    into, at = np.zeros(FRAME, np.uint8), 0

    def copy() -> None:
        nonlocal at
        at = (at + 1) % FRAMES
        into[...] = frames[at]

    return copy


if __name__ == "__main__":
    answer(main)
