"""How long a step takes in ONNX Runtime on this machine: good enough to rank graphs, side by side in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.runtime.backends.base import advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.spec import ModelSpec

ROUNDS = 9
STEPS = 30
WARM_UP = 20


def step_seconds(graphs: Mapping[str, bytes], spec: ModelSpec, frames: NDArray[np.uint8]) -> dict[str, float]:
    """Time each graph on one thread, closed loop, a short turn at a time, and return the median step of each.

    `frames` uint8 [n, height, width, 3]. For figures to quote, use `python -m benchmarks`.
    """
    backends = {name: OnnxRuntimeBackend(graph, spec) for name, graph in graphs.items()}
    samples: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(ROUNDS):
        for name, backend in backends.items():
            for step in range(WARM_UP + STEPS):
                began = time.perf_counter()
                advance(backend, frames[step % len(frames)])
                if step >= WARM_UP:
                    samples[name].append(time.perf_counter() - began)
    for backend in backends.values():
        backend.close()
    return {name: statistics.median(found) for name, found in samples.items()}
