"""What takes TensorRT's place on a GPU that TensorRT does not run on: real CUDA kernels, shaped like its engine.

It proves the runtime around an engine, and tells what that costs; of TensorRT it tells nothing. It is driven as an
engine is: whatever a call refuses it answers with False or None, and its last words say why.
"""

from __future__ import annotations

import ctypes
import shutil
import weakref
from functools import cache
from typing import Any

import numpy as np

from benchmarks.device.network import KERNELS, SOURCE, Network, Step
from edge_cnnlstm.errors import BackendError, DependencyError
from edge_cnnlstm.gpu.capture import load_bindings

NAME = "stand-in"
THREADS = 128


class Refused(Exception):  # noqa: N818 - it never leaves this module
    """What CUDA did not do, in its own words."""


class StandIn:
    """A network's weights and kernels in the current context, as `edge_cnnlstm.gpu.engine.Engine` has a plan's.

    Everything is freed with its last reference. Raises DependencyError without nvcc or cuda-bindings, and BackendError
    with CUDA's words for what it refuses, too little memory included.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.driver = load_bindings()
        self.words = "no reason given"
        try:
            self._module = Held(_call("cuModuleLoadData", compiled()), "cuModuleUnload")
            self.kernels = [_call("cuModuleGetFunction", self._module.handle, name.encode()) for name in KERNELS]
            self._memory = {name: _uploaded(array) for name, array in network.weights.items()}
        except Refused as refusal:
            raise BackendError(
                f"the kernels that stand in for an engine: {refusal}",
                expected="a GPU with memory for them, and a driver that takes what this nvcc makes",
                fix="close what else fills the GPU, or take the nvcc of the driver's CUDA",
            ) from refusal

    @property
    def engine(self) -> StandIn:
        """Itself: the part of an engine that makes contexts."""
        return self

    @property
    def weights(self) -> dict[str, int]:
        """Where each array of weights lies on the GPU."""
        return {name: int(memory.handle) for name, memory in self._memory.items()}

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...], str]]:
        """Return direction, shape and dtype of everything that a step reads and writes, by name."""
        return self.network.tensors()

    def last_words(self) -> str:
        """Return what CUDA said of what it refused last."""
        return self.words

    def create_execution_context(self) -> Context | None:
        """Return a new context, with scratch memory of its own; None where there is none left."""
        try:
            return Context(self)
        except Refused as refusal:
            self.words = str(refusal)
            return None


class Context:
    """One set of addresses, and the scratch memory of a step; it keeps the engine alive."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._scratch = Held(_call("cuMemAlloc", stand_in.network.columns), "cuMemFree")
        self._blocks = -(-stand_in.network.largest() // THREADS)
        self._addresses: dict[str, int] = {}
        self._step: Step | None = None
        self._arguments = (ctypes.c_void_p * 1)()

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Say where a tensor lies; False for one that there is not."""
        if name not in self._stand_in.tensors():
            self._stand_in.words = f"no tensor is called {name!r}"
            return False
        self._addresses[name] = address
        self._step = None
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Put a step on a stream, the driver's handle; False when an address is missing or CUDA refuses a launch."""
        launch, arguments = self._stand_in.driver.cuLaunchKernel, ctypes.addressof(self._arguments)
        if self._step is None and not self._wired():
            return False
        for kernel in self._stand_in.kernels:
            (status,) = launch(kernel, self._blocks, 1, 1, THREADS, 1, 1, 0, stream, arguments, 0)
            if int(status):
                self._stand_in.words = _words("cuLaunchKernel", status)
                return False
        return True

    def _wired(self) -> bool:
        network = self._stand_in.network
        if missing := network.tensors().keys() - self._addresses.keys():
            self._stand_in.words = f"no address for {sorted(missing)}"
            return False
        self._step = network.step(self._addresses, self._stand_in.weights, int(self._scratch.handle))
        self._arguments[0] = ctypes.addressof(self._step)
        return True


class Held:
    """Something of the driver's that is given back with its last reference, whichever context is current by then."""

    def __init__(self, handle: Any, giving_back: str) -> None:
        self.handle = handle
        finalizer = weakref.finalize(self, _give_back, giving_back, handle, _call("cuCtxGetCurrent"))
        # Once the interpreter exits the context may be gone, and everything in it with it.
        finalizer.atexit = False


@cache
def compiled() -> bytes:
    """Return the kernels as code for this GPU, which PyCUDA keeps in its cache; DependencyError without nvcc."""
    if shutil.which("nvcc") is None:
        raise DependencyError(
            "no nvcc on the PATH", expected="CUDA's compiler", fix="PATH=/usr/local/cuda/bin:$PATH, or install CUDA"
        )
    from pycuda import compiler

    # With an #include in it PyCUDA would start nvcc even for what is in its cache.
    return bytes(compiler.compile(SOURCE.read_text(), no_extern_c=True))


def _uploaded(array: np.ndarray) -> Held:
    memory = Held(_call("cuMemAlloc", array.nbytes), "cuMemFree")
    _call("cuMemcpyHtoD", memory.handle, array.ctypes.data, array.nbytes)
    return memory


def _give_back(how: str, handle: Any, context: Any) -> None:
    """Nothing is to be done about what fails here: the context died, or it took all of this with it."""
    driver = load_bindings()
    (status,) = driver.cuCtxPushCurrent(context)
    if not int(status):
        getattr(driver, how)(handle)
        driver.cuCtxPopCurrent()


def _call(name: str, *arguments: Any) -> Any:
    """Call a function of the driver and return what it returns beside its status; raises Refused."""
    status, *values = getattr(load_bindings(), name)(*arguments)
    if int(status):
        raise Refused(_words(name, status))
    return values[0] if values else None


def _words(name: str, status: Any) -> str:
    _, words = load_bindings().cuGetErrorString(status)
    return f"{name}: {words.decode() if words else status}"
