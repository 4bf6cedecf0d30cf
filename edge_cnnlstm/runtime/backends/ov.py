"""OpenVINO on x86 and Arm CPUs: buffers shared once, nothing copied but the frame."""

from __future__ import annotations

import io
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.optional import load_openvino
from edge_cnnlstm.runtime.state import RecurrentState
from edge_cnnlstm.spec import ModelSpec

SETTINGS = {
    # Without the hint OpenVINO computes FP32 graphs in BF16 where the processor can.
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": 1,
}


@cache
def _core() -> Any:
    """Return OpenVINO's one core, which lives as long as the process.

    Each new one gives the calling thread a signal stack, and frees it when it goes. When an older core goes before a
    younger one, or in another thread, the thread is left with memory that is no longer there, and the next signal
    kills the process: seen in 2026.4, after a swap of engines.
    """
    return load_openvino().Core()


class OpenVinoBackend:
    """A step graph in OpenVINO on the CPU.

    `graph` is a verified ONNX file; `spec` says for how many streams. `threads` is the number of cores one step may
    use. Raises BackendError when OpenVINO refuses the graph or the graph is not what `spec` says.
    """

    name = "openvino"

    def __init__(self, graph: bytes, spec: ModelSpec, *, threads: int = 1) -> None:
        openvino = load_openvino()
        self.spec = spec
        self.frames: Pixels = np.zeros(spec.frame.shape, np.uint8)
        self.dt = np.zeros((spec.batch, 1), np.float32)
        self.state = RecurrentState(spec.states)
        self._outputs = {output.name: output.zeros() for output in spec.outputs}
        try:
            core = _core()
            model = core.read_model(io.BytesIO(graph))
            model.reshape({name: array.shape for name, array in self._inputs(0).items()})
            compiled = core.compile_model(model, "CPU", SETTINGS | {"INFERENCE_NUM_THREADS": threads})
        except Exception as error:  # its exceptions are RuntimeErrors, of the frontend or of the plugin
            raise BackendError(
                f"OpenVINO {openvino.__version__} refused the graph: {' '.join(str(error).split())}",
                expected="a graph that this version of OpenVINO runs",
                fix="export again, or update openvino",
            ) from error
        self._check_signature(compiled)
        # One request per direction of the ping-pong. They share the arrays, which self keeps alive.
        self._requests = [self._request(openvino, compiled, side) for side in (0, 1)]
        # What its class adds to the base looks at inputs and wraps outputs, which are in these arrays: 7 µs a step.
        (base,) = openvino.InferRequest.__bases__
        self._runs = [
            partial(base.infer, each, {}, share_outputs=True, decode_strings=False) for each in self._requests
        ]

    def infer(self) -> Arrays:
        self.rehearse()
        self.state.advance()
        return self._outputs

    def rehearse(self) -> None:
        if not self._runs:
            raise ClosedError("a closed backend", expected="an open one", fix="open the bundle again")
        try:
            self._runs[self.state.side]()
        except Exception as error:  # as above
            raise BackendError(
                f"OpenVINO failed during a step: {' '.join(str(error).split())}",
                expected="every step to succeed",
                fix="the state is as it was before this frame: reset the stream or go on with the next frame",
            ) from error

    def close(self) -> None:
        self._requests, self._runs = [], []
        self.state.release()

    def _inputs(self, side: int) -> dict[str, NDArray[Any]]:
        dt = {} if self.spec.dt is None else {self.spec.dt.name: self.dt}
        memory = {pair.input: self.state.buffers(side)[pair.input] for pair in self.spec.states}
        return {self.spec.frame.name: self.frames, **dt, **memory}

    def _written(self, side: int) -> dict[str, NDArray[Any]]:
        memory = {pair.output: self.state.buffers(side)[pair.input] for pair in self.spec.states}
        return {**self._outputs, **memory}

    def _request(self, openvino: Any, compiled: Any, side: int) -> Any:
        request = compiled.create_infer_request()
        for name, array in {**self._inputs(side), **self._written(1 - side)}.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        return request

    def _check_signature(self, compiled: Any) -> None:
        """Shared arrays are only safe when the graph agrees about every shape and type."""
        arrays = {**self._inputs(0), **self._written(1)}
        expected = {name: (array.shape, array.dtype) for name, array in arrays.items()}
        found = {
            # A port may have several names, the graph's own among them.
            next(iter(port.names & expected.keys()), port.any_name): (
                tuple(port.shape),
                np.dtype(port.element_type.to_dtype()),
            )
            for port in (*compiled.inputs, *compiled.outputs)
        }
        if found != expected:
            raise BackendError(
                f"the graph's inputs and outputs are {found}",
                expected=f"what the manifest says: {expected}",
                fix="export the bundle again",
            )
