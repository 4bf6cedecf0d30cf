"""Times one engine on one graph of a bundle, in a process of its own; prints a typical step in microseconds.

It is the mean of two medians: of steps after a pause, as a camera makes it, and of steps right after those. By the end
of a pause caches are cold, and a graph of a quarter of the size is the faster one where back to back it may not be.
"""

from __future__ import annotations

import gc
import statistics
import sys
import time

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.selection import load_engine

PAUSE_S = 0.02
WARM_UP = 5
PAIRS = 30
BUDGET_NS = 2_000_000_000


def main(path: str, graph: str, backend: str, threads: str, streams: str) -> None:
    """Step over the bundle's golden frames, a few dozen times twice or for two seconds."""
    bundle = bundle_format.read(path)
    engine = load_engine(bundle, bundle.manifest.graph(graph), backend, threads=int(threads), streams=int(streams))
    frames, pairs = bundle.golden.frames, list[tuple[int, int]]()
    started = time.monotonic_ns()
    while len(pairs) < WARM_UP + PAIRS and time.monotonic_ns() - started < BUDGET_NS:
        engine.frames[...] = frames[len(pairs) % len(frames)]
        time.sleep(PAUSE_S)
        begun = time.monotonic_ns()
        engine.infer()
        between = time.monotonic_ns()
        engine.infer()
        pairs.append((between - begun, time.monotonic_ns() - between))
    engine.close()
    counted = pairs[WARM_UP:] or pairs
    typical = statistics.fmean(statistics.median(steps) for steps in zip(*counted, strict=True))
    sys.stdout.write(f"{typical / 1e3}\n")


if __name__ == "__main__":
    gc.disable()
    main(*sys.argv[1:])
