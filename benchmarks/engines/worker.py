"""One graph in one engine, in a process of its own: each `{"steps": n}` is answered with n samples.

When ready it says how far the engine strays from the FP32 course.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from benchmarks.latency import WARM_UP_FRAMES
from benchmarks.processes import Message, Turn, serve
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.ov import OpenVinoBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.proof import deviation
from edge_cnnlstm.spec import ModelSpec


def opened(
    bundle_path: str, reference: str, graph: str, engine: str, threads: str, *as_written: str
) -> tuple[Message, Turn]:
    """Open `graph`, an ONNX file; `reference` names the bundle's graph whose course is FP32's.

    With one more word ONNX Runtime does not optimize the graph.
    """
    bundle = bundle_format.read(bundle_path)
    backend = _open(engine, Path(graph), bundle.manifest.model, int(threads), optimize=not as_written)
    strays = deviation(backend, bundle.golden, bundle.golden.expected[reference]).output
    frames = list(bundle.golden.frames)
    ready = {"deviation": strays if math.isfinite(strays) else None}
    return ready, lambda request: {"samples_ns": turn(backend, frames, request["steps"])}


def turn(backend: Backend, frames: Sequence[Pixels], steps: int) -> list[int]:
    """Return nanoseconds per step, memory carried, after a warm-up; only the call and the clock run in between."""
    clock = time.monotonic_ns
    samples = []
    backend.state.reset()
    for pixels in islice(cycle(frames), WARM_UP_FRAMES):
        advance(backend, pixels)
    for pixels in list(islice(cycle(frames), steps)):
        begun = clock()
        advance(backend, pixels)
        samples.append(clock() - begun)
    return samples


def _open(engine: str, graph: Path, spec: ModelSpec, threads: int, *, optimize: bool) -> Backend:
    if engine == "openvino":
        return OpenVinoBackend(graph.read_bytes(), spec, threads=threads)
    return OnnxRuntimeBackend(graph.read_bytes(), spec, threads=threads, optimize=optimize)


if __name__ == "__main__":
    serve(opened)
