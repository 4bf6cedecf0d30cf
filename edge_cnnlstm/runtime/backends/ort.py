"""ONNX Runtime on the CPU: addresses bound once, nothing allocated per frame."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.optional import load_onnxruntime
from edge_cnnlstm.runtime.state import RecurrentState
from edge_cnnlstm.spec import BATCH, ModelSpec

QUANTIZES_FP16_SINCE = (1, 30)
"""Earlier releases truncate where FP16 `QuantizeLinear` should round: seen in 1.23, 1.24, 1.26 and 1.29."""

FATAL = 4
"""Of ONNX Runtime's log levels: what it refuses is raised, and need not be printed too."""

CPU = "CPUExecutionProvider"


def quantizes_fp16() -> bool:
    """Return whether this ONNX Runtime computes the TensorRT dialect right."""
    major, minor, *_ = load_onnxruntime().__version__.split(".")
    return (int(major), int(minor)) >= QUANTIZES_FP16_SINCE


def open_session(graph: bytes, *, threads: int = 1, optimize: bool = True, batch: int = 1) -> Any:
    """Load a graph into ONNX Runtime on the CPU, so that integers are multiplied exactly on every processor.

    `batch` is the number of streams that it is optimized for.

    x86 processors without VNNI add products of uint8 and int8 in 16 bits, where they saturate
    (onnxruntime.ai/docs/performance/model-optimizations/quantization.html). For these ONNX Runtime can widen weights;
    where it cannot, because two operators share them, they are multiplied as FP32. Raises BackendError when ONNX
    Runtime refuses the graph.
    """

    def attempt(entries: Mapping[str, str]) -> Any:
        return create_session(graph, [CPU], entries, threads=threads, optimize=optimize, batch=batch)

    try:
        return attempt({"session.x64quantprecision": "1"})
    except BackendError:
        return attempt({"session.disable_quant_qdq": "1"})


def create_session(
    graph: bytes,
    providers: Sequence[str | tuple[str, Mapping[str, str]]],
    entries: Mapping[str, str],
    *,
    threads: int = 1,
    optimize: bool = True,
    batch: int = 1,
) -> Any:
    """Load a graph into ONNX Runtime, for so many streams, on the first of the providers that can run each node.

    A provider may come with its options; `entries` configure the session. Raises BackendError when ONNX Runtime refuses
    the graph.
    """
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    options.add_free_dimension_override_by_name(BATCH, batch)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # A graph may name files to read weights from, in whatever folder we run. Only what was verified counts.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    try:
        # Without the last argument it would try again on the CPU, and say so on standard output.
        return ort.InferenceSession(graph, options, providers=list(providers), enable_fallback=0)
    except Exception as error:  # pybind raises a dozen unrelated types, RuntimeError among them
        raise BackendError(
            f"ONNX Runtime {ort.__version__} refused the graph: {error}",
            expected="a graph that this version of ONNX Runtime runs",
            fix="export again, or update onnxruntime",
        ) from error


class OnnxRuntimeBackend:
    """A step graph in ONNX Runtime.

    `graph` is a verified ONNX file; `spec` says for how many streams. `threads` is the number of cores one step may
    use; a small network is fastest on one. `optimize=False` runs the graph node by node, as written. Raises
    BackendError when ONNX Runtime refuses the graph or the graph is not what `spec` says.
    """

    name = "onnxruntime"

    def __init__(self, graph: bytes, spec: ModelSpec, *, threads: int = 1, optimize: bool = True) -> None:
        self.spec = spec
        self._session = open_session(graph, threads=threads, optimize=optimize, batch=spec.batch)
        check_signature(self._session, spec)
        self.frames: Pixels = np.zeros(spec.frame.shape, np.uint8)
        self.dt = np.zeros((spec.batch, 1), np.float32)
        self.state = RecurrentState(spec.states)
        self._outputs = {output.name: output.zeros() for output in spec.outputs}
        # One binding per direction of the ping-pong. They hold raw addresses; self keeps the arrays alive.
        self._bindings = [self._bind(reads=0, writes=1), self._bind(reads=1, writes=0)]

    def infer(self) -> Arrays:
        self.rehearse()
        self.state.advance()
        return self._outputs

    def rehearse(self) -> None:
        if self._session is None:
            raise ClosedError("a closed backend", expected="an open one", fix="open the bundle again")
        try:
            self._session.run_with_iobinding(self._bindings[self.state.side])
        except Exception as error:  # pybind raises a dozen unrelated types, RuntimeError among them
            raise failed_step(error) from error

    def close(self) -> None:
        self._bindings.clear()
        self._session = None
        self.state.release()

    def _bind(self, *, reads: int, writes: int) -> Any:
        binding = self._session.io_binding()
        bind_array(binding.bind_input, self.spec.frame.name, self.frames)
        if self.spec.dt is not None:
            bind_array(binding.bind_input, self.spec.dt.name, self.dt)
        for name, buffer in self._outputs.items():
            bind_array(binding.bind_output, name, buffer)
        for pair in self.spec.states:
            bind_array(binding.bind_input, pair.input, self.state.buffers(reads)[pair.input])
            bind_array(binding.bind_output, pair.output, self.state.buffers(writes)[pair.input])
        return binding


def failed_step(error: Exception) -> BackendError:
    """Return what a step that failed raises."""
    return BackendError(
        f"ONNX Runtime failed during a step: {error}",
        expected="every step to succeed",
        fix="the state is as it was before this frame: reset the stream or go on with the next frame",
    )


def bind_array(bind: Any, name: str, buffer: NDArray[np.generic]) -> None:
    """Bind an array of the host by its address; the caller keeps it alive."""
    bind(name, "cpu", 0, buffer.dtype, buffer.shape, buffer.ctypes.data)


def check_signature(session: Any, spec: ModelSpec) -> None:
    """Raise BackendError unless a graph agrees about every shape and type: only then are raw addresses safe."""
    types = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
    expected = {tensor.name: (tensor.shape, types[tensor.dtype]) for tensor in spec.inputs}
    expected |= {pair.input: (pair.shape, types[pair.dtype]) for pair in spec.states}
    expected |= {pair.output: (pair.shape, types[pair.dtype]) for pair in spec.states}
    expected |= {output.name: (output.shape, types[output.dtype]) for output in spec.outputs}
    found = {
        tensor.name: (tuple(tensor.shape), tensor.type) for tensor in (*session.get_inputs(), *session.get_outputs())
    }
    if found != expected:
        raise BackendError(
            f"the graph's inputs and outputs are {found}",
            expected=f"what the manifest says: {expected}",
            fix="export the bundle again",
        )
