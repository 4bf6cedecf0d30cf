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
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from benchmarks.latency import WARM_UP_FRAMES
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime.backends.base import Arrays, Backend
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.proof import deviation
from edge_cnnlstm.runtime.state import RecurrentState
from edge_cnnlstm.spec import ModelSpec

OPENVINO_SETTINGS = {
    # Without the hint OpenVINO computes FP32 graphs in BF16 where the processor can.
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
}


class OpenVinoBackend:
    """A step graph in OpenVINO on the CPU, with buffers that are shared once and memory that changes sides.

    `threads` is the number of cores one step may use. Raises BackendError when OpenVINO refuses the graph.
    """

    name = "openvino"

    def __init__(self, graph: Path, spec: ModelSpec, *, threads: int) -> None:
        openvino: Any = import_module("openvino")
        self.spec = spec
        self._input: Pixels = np.zeros(spec.frame.shape, np.uint8)
        self._dt = np.zeros((spec.batch, 1), np.float32)
        self._outputs = {output.name: output.zeros() for output in spec.outputs}
        self._state = RecurrentState(spec.states)
        memory = {pair.input: pair.shape for pair in spec.states}
        settings = OPENVINO_SETTINGS | {"INFERENCE_NUM_THREADS": threads}
        try:
            core = openvino.Core()
            model = core.read_model(graph)
            model.reshape({tensor.name: tensor.shape for tensor in (spec.frame, spec.dt) if tensor} | memory)
            compiled = core.compile_model(model, "CPU", settings)
            self._requests = [self._request(openvino, compiled, side) for side in (0, 1)]
        except Exception as error:  # its exceptions are RuntimeErrors, of the frontend or of the plugin
            raise BackendError(
                f"OpenVINO {openvino.__version__} refused the graph: {_one_line(error)}",
                expected="a graph that this version of OpenVINO runs",
                fix="export again, or update openvino",
            ) from error

    def infer(self, pixels: Pixels, dt: float = 0.0) -> Arrays:
        self._input[0] = pixels
        self._dt[0] = dt
        self._requests[self._state.side].infer(share_outputs=True)
        self._state.advance()
        return self._outputs

    def reset(self) -> None:
        self._state.reset()

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        return self._state.snapshot()

    def restore(self, snapshot: Mapping[str, NDArray[np.generic]]) -> None:
        self._state.restore(snapshot)

    def close(self) -> None:
        self._requests.clear()
        self._state.release()

    def _request(self, openvino: Any, compiled: Any, side: int) -> Any:
        """One request per direction of the ping-pong; it shares the arrays, which self keeps alive."""
        request = compiled.create_infer_request()
        tensors = {self.spec.frame.name: self._input, **self._outputs}
        if self.spec.dt:
            tensors[self.spec.dt.name] = self._dt
        for pair in self.spec.states:
            tensors[pair.input] = self._state.buffers(side)[pair.input]
            tensors[pair.output] = self._state.buffers(1 - side)[pair.input]
        for name, array in tensors.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return request


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
    clock, infer = time.monotonic_ns, backend.infer
    samples = []
    backend.reset()
    gc.collect()
    for pixels in islice(cycle(frames), WARM_UP_FRAMES):
        infer(pixels)
    for pixels in list(islice(cycle(frames), steps)):
        begun = clock()
        infer(pixels)
        samples.append(clock() - begun)
    return samples


def _open(engine: str, graph: Path, spec: ModelSpec, threads: int, *, optimize: bool) -> Backend:
    if engine == "openvino":
        return OpenVinoBackend(graph, spec, threads=threads)
    return OnnxRuntimeBackend(graph.read_bytes(), spec, threads=threads, optimize=optimize)


def _answers() -> TextIO:
    """Keep stdout for answers: what an engine prints there goes to stderr instead."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _answer(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main(*sys.argv[1:])
