"""ONNX Runtime on an NVIDIA GPU, by itself or through TensorRT: the memory never leaves the device.

None of this has run on a GPU yet. What does not need one has: the same class keeps the whole contract on the CPU, and
the refusals were seen with `onnxruntime` 1.32, and with `onnxruntime-gpu` 1.20 and 1.31 where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError, DependencyError
from edge_cnnlstm.runtime.backends.base import Arrays
from edge_cnnlstm.runtime.backends.ort import bind_array, check_signature, create_session, failed_step
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.optional import is_installed, load_onnxruntime
from edge_cnnlstm.runtime.state import Arrays as Snapshot
from edge_cnnlstm.runtime.state import RecurrentState
from edge_cnnlstm.spec import ModelSpec, StatePair, TensorSpec

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
Options = dict[str, str]
Provider = tuple[str, Options]

EVERY_NODE_ON_THE_GPU = {"session.disable_cpu_ep_fallback": "1"}
"""Refuses a graph with any node on the CPU, shape arithmetic included, of which exported graphs have none."""


class OnnxRuntimeDeviceBackend:
    """A step graph in a session of ONNX Runtime that computes on a device, and whose memory lies there.

    `device` is what ONNX Runtime calls it: "cuda", or "cpu", where tests run this class. A step copies `frames` and
    `dt` up and the outputs down, from and to arrays that are allocated once, and nothing of the memory. (They are
    pageable: ONNX Runtime's Python API has no page-locked ones up to 1.32, "cuda_pinned" is no device that it knows.)
    `captured` says that the session replays CUDA graphs. Raises BackendError when the graph is not what `spec` says.
    """

    name = "onnxruntime-device"

    def __init__(self, session: Any, spec: ModelSpec, device: str, *, captured: bool = False) -> None:
        check_signature(session, spec)
        self.spec = spec
        self._session = session
        self.frames: Pixels = np.zeros(spec.frame.shape, np.uint8)
        self.dt = np.zeros((spec.batch, 1), np.float32)
        self.state = DeviceMemory(spec.states, device)
        # ONNX Runtime copies an input that lies on the host when it is bound, not when it runs.
        inputs = [(spec.frame, self.frames), *([(spec.dt, self.dt)] if spec.dt else [])]
        self._uploads = [(tensor.name, _allocated(tensor, device), array) for tensor, array in inputs]
        self._outputs = {output.name: output.zeros() for output in spec.outputs}
        # A replay is what was captured and no more: ONNX Runtime makes none of its copies to the host after it.
        self._downloads = {output.name: _allocated(output, device) for output in spec.outputs if captured}
        self._bindings = [self._bind(reads=0, writes=1), self._bind(reads=1, writes=0)]
        self._runs = [_named_run(graph_id) for graph_id in (1, 2)]

    def infer(self) -> Arrays:
        self.rehearse()
        self.state.advance()
        return self._outputs

    def rehearse(self) -> None:
        if self._session is None:
            raise ClosedError("a closed backend", expected="an open one", fix="open the bundle again")
        side = self.state.side
        try:
            for _, value, array in self._uploads:
                value.update_inplace(array)
            self._session.run_with_iobinding(self._bindings[side], self._runs[side])
            for name, value in self._downloads.items():
                np.copyto(self._outputs[name], value.numpy())
        except Exception as error:  # pybind raises a dozen unrelated types, RuntimeError among them
            raise failed_step(error) from error

    def close(self) -> None:
        self._bindings.clear()
        self._session = None
        self._uploads.clear()
        self._downloads.clear()
        self.state.release()

    def _bind(self, *, reads: int, writes: int) -> Any:
        binding = self._session.io_binding()
        for name, value, _ in self._uploads:
            binding.bind_ortvalue_input(name, value)
        for name, array in self._outputs.items():
            if name in self._downloads:
                binding.bind_ortvalue_output(name, self._downloads[name])
            else:
                bind_array(binding.bind_output, name, array)
        for pair in self.spec.states:
            binding.bind_ortvalue_input(pair.input, self.state.values(reads)[pair.input])
            binding.bind_ortvalue_output(pair.output, self.state.values(writes)[pair.input])
        return binding


class OnnxRuntimeCudaBackend(OnnxRuntimeDeviceBackend):
    """A step graph in ONNX Runtime's own CUDA kernels.

    `graph` is a verified ONNX file; `spec` says for how many streams. `optimize=False` runs the graph node by node, as
    written. `graphs=True` replays one CUDA graph for each direction of the ping-pong instead of launching every kernel;
    ONNX Runtime captures them at the first two steps, once more for each thread that steps, and while it does no other
    thread of the process may allocate or copy on the GPU. FP32 is computed in FP32, never in TF32; cuDNN tries every
    algorithm for a convolution before the first step. Raises DependencyError where ONNX Runtime has no CUDA, its
    libraries or no GPU, and BackendError when it refuses the graph, or the graph is not what `spec` says, or has a node
    that there is no CUDA kernel for.
    """

    name = "onnxruntime-cuda"

    def __init__(self, graph: bytes, spec: ModelSpec, *, optimize: bool = True, graphs: bool = False) -> None:
        session = _open_session(graph, spec, [(CUDA, cuda_options(graphs=graphs))], optimize=optimize)
        super().__init__(session, spec, "cuda", captured=graphs)

    @staticmethod
    def available() -> bool:
        """Return whether this build of ONNX Runtime has CUDA; opening it shows whether there is a GPU."""
        return has_provider(CUDA)


class OnnxRuntimeTensorrtBackend(OnnxRuntimeDeviceBackend):
    """A step graph in TensorRT as ONNX Runtime drives it; what TensorRT does not take runs in CUDA kernels.

    `graph` is a verified ONNX file, of TensorRT's dialect; `spec` says for how many streams. TensorRT builds its plans
    when this is opened, which takes seconds to minutes. They are kept only if `cache` names a folder, and then read
    from it: plans are code, so the caller has made sure that nobody else can write there, and gives each version of
    ONNX Runtime and TensorRT a folder of its own, as the names of the files do not tell them apart. Errors as
    `OnnxRuntimeCudaBackend` raises them.
    """

    name = "onnxruntime-tensorrt"

    def __init__(self, graph: bytes, spec: ModelSpec, *, cache: Path | None = None) -> None:
        _refuse_plans(graph)
        providers = [(TENSORRT, tensorrt_options(cache)), (CUDA, cuda_options())]
        # TensorRT optimizes by itself, and must find each Q/DQ where the export placed it.
        super().__init__(_open_session(graph, spec, providers, optimize=False), spec, "cuda")

    @staticmethod
    def available() -> bool:
        """Return whether this build of ONNX Runtime has TensorRT; opening it shows whether there is a GPU."""
        return has_provider(TENSORRT)


class DeviceMemory:
    """Memory in ONNX Runtime's tensors on a device, allocated once.

    A step reads one side and writes the other, as in `RecurrentState`, and copies nothing. The rest goes through the
    host, as ONNX Runtime copies whole tensors only, between device and host: whatever asks for the memory copies it
    down once a step, for however many slots; whatever changes it copies it up again. `is_finite` is no exception. A
    second session could look at it on the device, but launching that costs more than to copy some kilobytes; who wants
    neither switches the rule `not_finite` off.
    """

    def __init__(self, pairs: tuple[StatePair, ...], device: str) -> None:
        self._mirror = RecurrentState(pairs)
        self._values = tuple({pair.input: _allocated(pair, device) for pair in pairs} for _ in range(2))
        self._mirrored = {0, 1}

    @property
    def side(self) -> int:
        """The side that the next step reads."""
        return self._mirror.side

    def values(self, side: int) -> Mapping[str, Any]:
        """Return one side's OrtValues by the name of their graph input; they stay the memory's."""
        return self._values[side]

    def advance(self) -> None:
        """Make what the last step wrote the state of the next."""
        self._mirror.advance()
        self._mirrored.discard(self.side)

    def release(self) -> None:
        """Give the memory up: from now on every use of it raises ClosedError."""
        self._mirror.release()
        self._values = ({}, {})

    def reset(self, slot: int | None = None) -> None:
        self._download(self.side)
        self._mirror.reset(slot)
        self._upload()

    def snapshot(self, slot: int | None = None) -> Snapshot:
        self._download(self.side)
        return self._mirror.snapshot(slot)

    def restore(self, snapshot: Mapping[str, NDArray[np.generic]], slot: int | None = None) -> None:
        self._download(self.side)
        self._mirror.restore(snapshot, slot)
        self._upload()

    def hold(self, slots: Iterable[int]) -> None:
        slots = tuple(slots)
        if slots:
            self._download(0)
            self._download(1)
        self._mirror.hold(slots)
        if slots:
            self._upload()

    def is_finite(self, slot: int | None = None) -> bool:
        self._download(self.side)
        return self._mirror.is_finite(slot)

    def _download(self, side: int) -> None:
        if side in self._mirrored:
            return
        buffers = self._mirror.buffers(side)
        try:
            for name, value in self._values[side].items():
                np.copyto(buffers[name], value.numpy())
        except Exception as error:  # pybind raises RuntimeError, and types of its own
            raise _failed_copy(error) from error
        self._mirrored.add(side)

    def _upload(self) -> None:
        side = self.side
        buffers = self._mirror.buffers(side)
        self._mirrored.discard(side)
        try:
            for name, value in self._values[side].items():
                value.update_inplace(buffers[name])
        except Exception as error:  # as above
            raise _failed_copy(error) from error
        self._mirrored.add(side)


def has_provider(provider: str) -> bool:
    """Return whether ONNX Runtime is installed, and in a build that has this execution provider."""
    return is_installed("onnxruntime") and provider in load_onnxruntime().get_available_providers()


def require_gpu(provider: str) -> None:
    """Raise DependencyError unless ONNX Runtime has this execution provider, loads CUDA and finds a GPU."""
    if not has_provider(provider):
        raise _missing(provider, "no installed build has it")
    ort = load_onnxruntime()
    # Finds the CUDA that pip installed, where no loader looks; 1.20 does not have it.
    if preload := getattr(ort, "preload_dlls", None):
        preload()
    try:
        ort.OrtValue.ortvalue_from_shape_and_type([1], np.uint8, "cuda", 0)
    except Exception as error:  # pybind raises RuntimeError, and types of its own
        raise _missing(provider, str(error)) from error


def check_provider(session: Any, provider: str) -> None:
    """Raise DependencyError when a session came about without the execution provider that it was asked for."""
    if session.get_providers()[0] != provider:
        raise _missing(provider, f"it goes on with {', '.join(session.get_providers())} instead")


def cuda_options(*, graphs: bool = False) -> Options:
    """Return the CUDA provider's options; what is not there is left as ONNX Runtime has it."""
    return {
        "device_id": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "do_copy_in_default_stream": "1",  # the documentation warns of races without
        "enable_cuda_graph": str(int(graphs)),
        "use_tf32": "0",  # on by default: ten bits of mantissa, where the golden rollout was computed with 23
    }


def tensorrt_options(cache: Path | None) -> Options:
    """Return the TensorRT provider's options; given any, it reads none from the environment.

    Both precision flags stay off. Without them ONNX Runtime builds a strongly typed network, in which the Q/DQ and
    casts of the graph decide; with either the network is weakly typed, and FP32 layers may run in less. CUDA graphs
    stay off too: whether this provider keeps one for each direction of the ping-pong is not documented, and replaying
    the wrong one would be a wrong answer without an error.
    """
    options = {"device_id": "0", "trt_fp16_enable": "0", "trt_int8_enable": "0", "trt_cuda_graph_enable": "0"}
    if cache is None:
        return options | {"trt_engine_cache_enable": "0"}
    return options | {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}


def _open_session(graph: bytes, spec: ModelSpec, providers: Sequence[Provider], *, optimize: bool) -> Any:
    """Load a graph on the first of the providers, all of it on the GPU, or say what stands in the way."""
    wanted = providers[0][0]
    require_gpu(wanted)
    try:
        session = create_session(graph, providers, EVERY_NODE_ON_THE_GPU, optimize=optimize, batch=spec.batch)
    except BackendError as error:
        cause = error.__cause__
        # What ONNX Runtime says of a graph has a type of its own. A provider that it cannot set up is a RuntimeError,
        # in 1.20 behind the failure of its attempt to go on without.
        if cause and RuntimeError in (type(cause), type(cause.__cause__)):
            raise _missing(wanted, str(cause.__cause__ or cause)) from error
        raise BackendError(
            error.found,
            expected=f"a graph of which {wanted} runs every node",
            fix="take another of the bundle's graphs, or another backend",
        ) from error
    check_provider(session, wanted)
    return session


def _refuse_plans(graph: bytes) -> None:
    """A node of this type holds or names a plan, which ONNX Runtime would load; plans are code, and never shipped."""
    if b"EPContext" in graph:
        raise BackendError(
            "a graph that brings a plan along, in an EPContext node",
            expected="a graph of operators, from which this machine builds its plan",
            fix="export the bundle again",
        )


def _missing(provider: str, why: str) -> DependencyError:
    has = load_onnxruntime().get_available_providers() if is_installed("onnxruntime") else []
    return DependencyError(
        f"ONNX Runtime cannot use {provider}: {why.strip()}",
        expected=f"a GPU, and {provider} in an ONNX Runtime that has {', '.join(has) or 'not been installed'}",
        fix="pip uninstall onnxruntime; pip install 'edge-cnnlstm[ort-gpu]', and the CUDA, cuDNN and TensorRT that its "
        "version needs: see onnxruntime.ai/docs/execution-providers",
    )


def _allocated(tensor: TensorSpec | StatePair, device: str) -> Any:
    """Return a new zeroed OrtValue on a device; it is the caller's."""
    value = load_onnxruntime().OrtValue.ortvalue_from_shape_and_type(list(tensor.shape), tensor.dtype, device, 0)
    value.update_inplace(tensor.zeros())
    return value


def _named_run(graph_id: int) -> Any:
    """Return options by which a run finds its CUDA graph again; 0 is taken. Without CUDA graphs they say nothing."""
    run = load_onnxruntime().RunOptions()
    run.add_run_config_entry("gpu_graph_id", str(graph_id))
    return run


def _failed_copy(error: Exception) -> BackendError:
    return BackendError(
        f"ONNX Runtime failed to copy the memory: {error}",
        expected="memory that can be read and written",
        fix="open the bundle again",
    )
