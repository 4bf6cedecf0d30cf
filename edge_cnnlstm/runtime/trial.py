"""Times one engine on one graph of a bundle, in a process of its own; prints the median step in microseconds."""

from __future__ import annotations

import gc
import statistics
import sys
import time

from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.selection import load_engine

WARM_UP_STEPS = 20
STEPS = 300
BUDGET_NS = 500_000_000


def main(path: str, graph: str, backend: str, threads: str, streams: str) -> None:
    """Step over the bundle's golden frames, a few hundred times or for half a second."""
    bundle = bundle_format.read(path)
    engine = load_engine(bundle, bundle.manifest.graph(graph), backend, threads=int(threads), streams=int(streams))
    frames, samples = bundle.golden.frames, list[int]()
    started = time.monotonic_ns()
    while len(samples) < WARM_UP_STEPS + STEPS and time.monotonic_ns() - started < BUDGET_NS:
        engine.frames[...] = frames[len(samples) % len(frames)]
        begun = time.monotonic_ns()
        engine.infer()
        samples.append(time.monotonic_ns() - begun)
    engine.close()
    sys.stdout.write(f"{statistics.median(samples[WARM_UP_STEPS:] or samples) / 1e3}\n")


if __name__ == "__main__":
    gc.disable()
    main(*sys.argv[1:])
