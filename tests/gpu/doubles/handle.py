"""What a test may know of a double, and the one that is written in Python.

Where the environment variable EDGE_CNNLSTM_LIBCUDA names the stand-in for libcuda, the same tests run on the other
one, with the real PyCUDA and the real cuda-bindings (real_packages.py).
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import ModuleType
from typing import Any, Protocol

import pytest

from edge_cnnlstm.gpu import capture, context
from edge_cnnlstm.spec import ModelSpec
from tests.gpu.doubles import cuda_bindings, pycuda_driver, tensorrt_engine
from tests.gpu.doubles.driver import CUresult, Driver, Fault

LIBRARY = "EDGE_CNNLSTM_LIBCUDA"
OUT_OF_MEMORY = 2
ILLEGAL_ADDRESS = 700
UNKNOWN = 999


class Double(Protocol):
    """A GPU that records, and fails when it is told to."""

    prelude: str
    """Python that puts the same double into a fresh process, as `double`, and lets it end with 3 if that ends badly."""

    def install(self, put: Callable[[str, Any], None]) -> None:
        """Let `import` find it, by putting modules where that looks."""

    def engine(
        self, onnx: bytes, spec: ModelSpec, *, strays: float = 0.0, synchronizes: bool = False
    ) -> Callable[[], Any]:
        """Return what loads an engine of this network; `strays`: its answers do so in a graph, and by how much."""

    def calls(self) -> list[str]:
        """Return the calls since the last `forget`: names of the driver's functions, and of the engine's."""

    def forget(self) -> None:
        """Forget calls, bytes, complaints and the fault that was ordered."""

    def moved(self) -> dict[str, int]:
        """Return the bytes copied up, down and across since the last `forget`."""

    def alive(self) -> dict[str, int]:
        """Return what was made and not given back, by kind."""

    def retained(self) -> int:
        """Return how often the primary context was retained and not released."""

    def pushed(self) -> int:
        """Return how many contexts this thread has on PyCUDA's stack."""

    def current(self) -> int:
        """Return how many contexts this thread has on CUDA's own stack."""

    def complaints(self) -> list[str]:
        """Return what a real driver or PyCUDA would not have forgiven."""

    def fail(self, pattern: str = "*", result: int = UNKNOWN, nth: int = 1, *, for_ever: bool = False) -> None:
        """Fail the n-th call that fits a shell's pattern, and all later ones if for ever.

        `execute` is each piece of work as it runs; that failure kills the context.
        """

    def failed(self) -> str | None:
        """Return the call that was failed."""

    def limit_memory(self, nbytes: int) -> None: ...

    def integrated(self) -> None:
        """Be a GPU that shares its memory with the processor."""

    def spoil_graph(self, nth: int, without: str) -> None:
        """Leave the copy `up`, the `run` or the copy `down` out of the n-th graph from now on."""

    def remove(self, what: str) -> None:
        """Take away `pycuda`, `libcuda`, the `gpu` or `cuda-bindings`."""


def prelude(module: str, double: str) -> str:
    return (
        "import atexit, os, sys\n"
        f"from {module} import {double}\n"
        f"double = {double}(); double.install(sys.modules.__setitem__)\n"
        "def check():\n"
        "    left = double.complaints(), double.alive(), double.retained(), double.pushed()\n"
        "    if left != ([], {}, 0, 0): print(left, flush=True); os._exit(3)\n"
        "atexit.register(check)\n"
    )


class PythonDouble:
    prelude = prelude(__name__, "PythonDouble")

    def __init__(self) -> None:
        self._driver = Driver()
        self._pycuda: Any = pycuda_driver.make(self._driver)
        self._put: Callable[[str, Any], None] = sys.modules.__setitem__

    def install(self, put: Callable[[str, Any], None]) -> None:
        self._put = put
        packages: dict[str, Any] = {name: ModuleType(name) for name in ("pycuda", "cuda", "cuda.bindings")}
        bindings = cuda_bindings.make(self._driver)
        packages["pycuda"].driver = self._pycuda
        packages["cuda.bindings"].driver = bindings
        packages["cuda.bindings"].__version__ = "13.5.0"
        for name, module in {**packages, "pycuda.driver": self._pycuda, "cuda.bindings.driver": bindings}.items():
            put(name, module)

    def engine(
        self, onnx: bytes, spec: ModelSpec, *, strays: float = 0.0, synchronizes: bool = False
    ) -> Callable[[], Any]:
        return lambda: tensorrt_engine.Engine(self._driver, onnx, spec, strays=strays, synchronizes=synchronizes)

    def calls(self) -> list[str]:
        return list(self._driver.calls)

    def forget(self) -> None:
        self._driver.calls.clear()
        self._driver.moved.clear()
        self._driver.complaints.clear()
        self._driver.fault = self._driver.failed = None

    def moved(self) -> dict[str, int]:
        return dict(self._driver.moved)

    def alive(self) -> dict[str, int]:
        return self._driver.alive()

    def retained(self) -> int:
        return self._driver.retained

    def pushed(self) -> int:
        pushed: int = self._pycuda.pushed()
        return pushed

    def current(self) -> int:
        return len(self._driver.stack)

    def complaints(self) -> list[str]:
        return list(self._driver.complaints)

    def fail(self, pattern: str = "*", result: int = UNKNOWN, nth: int = 1, *, for_ever: bool = False) -> None:
        self._driver.failed = None
        self._driver.fault = Fault(pattern, CUresult(result), nth, for_ever)

    def failed(self) -> str | None:
        return self._driver.failed

    def limit_memory(self, nbytes: int) -> None:
        self._driver.memory_bytes = nbytes

    def integrated(self) -> None:
        self._driver.integrated = True

    def spoil_graph(self, nth: int, without: str) -> None:
        self._driver.spoil = (nth, without)

    def remove(self, what: str) -> None:
        if what == "gpu":
            self._driver.present = False
        elif what == "libcuda":
            self._put("pycuda.driver", None)
        elif what == "pycuda":
            self._put("pycuda", None)
            self._put("pycuda.driver", None)
        else:
            self._put("cuda.bindings", None)
            capture.load_bindings.cache_clear()


@contextmanager
def fresh() -> Iterator[Double]:
    """Put a double where PyCUDA and cuda-bindings would be, as in a process that has just begun; and end that process.

    At its end everything must have been given back.
    """
    strangers = set(threading.enumerate())
    with chosen() as double, pytest.MonkeyPatch.context() as patch:
        double.install(lambda name, module: patch.setitem(sys.modules, name, module))
        forget_found()
        try:
            yield double
        finally:
            end_of_process(strangers)
            forget_found()


def chosen() -> AbstractContextManager[Double]:
    if LIBRARY not in os.environ:
        return nullcontext(PythonDouble())
    from tests.gpu.doubles.real_packages import listening

    return listening()


def forget_found() -> None:
    context.gpu.cache_clear()
    capture.load_bindings.cache_clear()


def end_of_process(strangers: set[threading.Thread]) -> None:
    """Do what the interpreter does when it exits; of threads that other tests left, that process knows nothing."""
    if context.gpu.cache_info().currsize:
        found = context.gpu()
        atexit.unregister(found._at_exit)
        own = [thread for thread in threading.enumerate() if thread not in strangers]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading, "enumerate", lambda: own)
            found._at_exit()
