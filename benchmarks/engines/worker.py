"""One graph in one engine, in a process of its own: waits on stdin, answers on stdout, sleeps in between.

Two thread pools in one process fight for the same cores and ruin each other's tail, so no process has two engines.
Every message is one line of JSON. The first answer says how far the engine strays from the FP32 course, or why it
refused the graph; after that each `{"steps": n}` is answered with n samples. The end of stdin ends the process.
"""

from __future__ import annotations

import gc
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TextIO

from benchmarks.latency import WARM_UP_FRAMES
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.ov import OpenVinoBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.proof import deviation
from edge_cnnlstm.spec import ModelSpec


def main(bundle_path: str, reference: str, graph: str, engine: str, threads: str, *as_written: str) -> None:
    """Serve turns: `graph` is an ONNX file, `reference` names the bundle's graph whose course is FP32's.

    With one more word ONNX Runtime does not optimize the graph.
    """
    answers = _answers()
    bundle = bundle_format.read(bundle_path)
    try:
        backend = _open(engine, Path(graph), bundle.manifest.model, int(threads), optimize=not as_written)
        strays = deviation(backend, bundle.golden, bundle.golden.expected[reference]).output
    except BackendError as error:
        _answer(answers, {"refused": error.found})
        return
    _answer(answers, {"deviation": strays if math.isfinite(strays) else None})
    gc.disable()
    slept = time.process_time()
    for line in sys.stdin:
        waiting = time.process_time() - slept
        try:
            samples = turn(backend, list(bundle.golden.frames), json.loads(line)["steps"])
        except BackendError as error:
            sys.exit(error.found)  # the last line of its message is what to do about it, not what happened
        _answer(answers, {"samples_ns": samples, "waiting_cpu_s": waiting})
        slept = time.process_time()


def turn(backend: Backend, frames: Sequence[Pixels], steps: int) -> list[int]:
    """Return nanoseconds per step, memory carried, after a warm-up; only the call and the clock run in between."""
    clock = time.monotonic_ns
    samples = []
    backend.state.reset()
    gc.collect()
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


def _answers() -> TextIO:
    """Keep stdout for answers: what an engine prints there goes to stderr instead."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _answer(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
