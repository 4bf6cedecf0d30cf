"""Times one engine on one graph of a bundle, in a process of its own; prints a typical step in microseconds.

It is the mean of two medians: of steps after a pause, as a camera makes it, and of steps back to back, as they are when
a stream is kept warm. By the end of a pause caches are cold, and a graph of a quarter of the size is the faster one
where back to back it may not be.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.selection import load_engine

PAUSE_S = 0.02
WARM_UP = 5
PAUSES = 25
BACK_TO_BACK = 4
BUDGET_NS = 2_000_000_000


def main(path: str, graph: str, backend: str, threads: str, streams: str) -> None:
    """Step over the bundle's golden frames, after some dozen pauses or for two seconds."""
    bundle = bundle_format.read(path)
    engine = load_engine(bundle, bundle.manifest.graph(graph), backend, threads=int(threads), streams=int(streams))
    frames, cold, warm = bundle.golden.frames, list[int](), list[int]()
    started = time.monotonic_ns()
    while len(cold) < WARM_UP + PAUSES and time.monotonic_ns() - started < BUDGET_NS:
        engine.frames[...] = frames[len(cold) % len(frames)]
        time.sleep(PAUSE_S)
        cold.append(_timed(engine))
        _timed(engine)
        warm += [_timed(engine) for _ in range(BACK_TO_BACK)]
    engine.close()
    medians = statistics.median(cold[WARM_UP:] or cold), statistics.median(warm)
    sys.stdout.write(f"{statistics.fmean(medians) / 1e3}\n")


def _timed(engine: Backend) -> int:
    begun = time.monotonic_ns()
    engine.infer()
    return time.monotonic_ns() - begun


if __name__ == "__main__":
    gc.disable()
    main(*sys.argv[1:])
