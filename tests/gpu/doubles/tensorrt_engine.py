"""A double of a deserialized TensorRT engine: ONNX Runtime on the addresses that it was given, when its turn comes.

It proves order and ownership, not TensorRT. What it does not understand it refuses, as TensorRT does, with False or
None and a word in its log.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.gpu.engine import WATCH
from edge_cnnlstm.runtime.backends.ort import open_session
from edge_cnnlstm.spec import ModelSpec
from tests.gpu.doubles.driver import Bytes, CUresult, Refused

ALIGNMENT = 256
Signature = dict[str, tuple[str, tuple[int, ...], str]]


@cache
def session(onnx: bytes, batch: int) -> Any:
    return open_session(onnx, batch=batch)


def signature(spec: ModelSpec) -> Signature:
    """Return what an engine of this network reads and writes, in the order of its graph."""
    found: Signature = {spec.frame.name: ("input", spec.frame.shape, spec.frame.dtype)}
    if spec.dt is not None:
        found[spec.dt.name] = ("input", spec.dt.shape, spec.dt.dtype)
    found |= {pair.input: ("input", pair.shape, pair.dtype) for pair in spec.states}
    found |= {output.name: ("output", output.shape, output.dtype) for output in spec.outputs}
    found |= {pair.output: ("output", pair.shape, pair.dtype) for pair in spec.states}
    return found | ({WATCH: ("output", (spec.batch,), "float32")} if spec.states else {})


class Ground(Protocol):
    """A double of the driver, as an engine sees it."""

    execution_contexts: int

    @property
    def lives(self) -> int:
        """How many contexts of the GPU have gone."""

    @property
    def was_reset(self) -> bool:
        """Whether one of them was."""

    def foreign(self, name: str) -> AbstractContextManager[None]:
        """Let an engine make a call of its own; raises Refused."""

    def launch(self, handle: int, run: Callable[[], None]) -> None:
        """Queue a run on a stream, or record it; it may raise Refused."""

    def is_recording(self, handle: int) -> bool: ...

    def cuStreamSynchronize(self, handle: int) -> None: ...  # noqa: N802 - the name is CUDA's

    def on_device(self, address: int, nbytes: int) -> Bytes:
        """Return what the GPU sees there; raises Refused where that is not its own."""

    def complain(self, words: str) -> None: ...


class Engine:
    """What `edge_cnnlstm.gpu.engine.Engine` offers, and what its `engine` offers, in one.

    `strays` is by how much the first answer is wrong when a graph replays it. `synchronizes`: every run waits for the
    stream first, which no recording allows.
    """

    def __init__(self, driver: Ground, onnx: bytes, spec: ModelSpec, *, strays: float, synchronizes: bool) -> None:
        self.driver, self.spec = driver, spec
        self.strays, self.synchronizes = strays, synchronizes
        self.session = session(onnx, spec.batch)
        self.errors: list[str] = []
        self._signature = signature(spec)
        self.sizes = {
            name: int(np.prod(shape)) * np.dtype(dtype).itemsize for name, (_, shape, dtype) in self._signature.items()
        }
        """Bytes of each tensor."""

    @property
    def engine(self) -> Engine:
        return self

    def tensors(self) -> Signature:
        return self._signature

    def last_words(self) -> str | None:
        return self.errors[-1] if self.errors else None

    def create_execution_context(self) -> ExecutionContext | None:
        try:
            with self.driver.foreign("create_execution_context"):
                return ExecutionContext(self)
        except Refused as refusal:
            self.errors.append(f"IExecutionContext::init: {refusal}")
            return None


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        self._engine, self._driver = engine, engine.driver
        self._addresses: dict[str, int] = {}
        self._tensors: dict[str, NDArray[Any]] = {}
        self._written: list[NDArray[Any]] = []
        self._binding: Any = None
        self._lives = engine.driver.lives
        self._runs = [partial(_run, weakref.ref(self), strays) for strays in (0.0, engine.strays)]
        """What runs when it is enqueued, and what a graph replays."""
        self._driver.execution_contexts += 1

    def __del__(self) -> None:
        self._driver.execution_contexts -= 1
        if self._driver.lives != self._lives and not self._driver.was_reset:
            self._driver.complain("an execution context outlived the GPU's context")

    def set_tensor_address(self, name: str, address: int) -> bool:
        try:
            with self._driver.foreign("set_tensor_address"):
                pass
        except Refused as refusal:
            return self._refuse(f"setTensorAddress: {refusal}")
        if name not in self._engine.tensors() or address % ALIGNMENT:
            return self._refuse(f"setTensorAddress: {name} at {address:#x}")
        self._addresses[name] = address
        self._tensors, self._binding = {}, None
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        driver = self._driver
        if missing := self._engine.tensors().keys() - self._addresses.keys():
            return self._refuse(f"enqueueV3: no address for {sorted(missing)}")
        try:
            with driver.foreign("execute_async_v3"):
                run = self._runs[driver.is_recording(stream_handle)]
                if self._engine.synchronizes:
                    driver.cuStreamSynchronize(stream_handle)
                driver.launch(stream_handle, run)
        except Refused as refusal:
            return self._refuse(f"enqueueV3: {refusal}")
        return True

    def run(self, strays: float) -> None:
        sizes = self._engine.sizes
        seen = {name: self._driver.on_device(address, sizes[name]) for name, address in self._addresses.items()}
        if not self._tensors:
            self._bind(seen)
        for written in self._written:
            written.fill(np.nan)
        self._engine.session.run_with_iobinding(self._binding)
        if WATCH in self._tensors:
            memory = [np.abs(self._tensors[pair.output]) for pair in self._engine.spec.states]
            self._tensors[WATCH][...] = sum(part.sum(axis=(0, *range(2, part.ndim))) for part in memory)
        if strays:
            self._tensors[self._engine.spec.outputs[0].name] += np.float32(strays)

    def _bind(self, seen: dict[str, Bytes]) -> None:
        self._check_apart()
        self._binding = self._engine.session.io_binding()
        for name, (direction, shape, dtype) in self._engine.tensors().items():
            self._tensors[name] = seen[name].view(dtype).reshape(shape)
            bind = self._binding.bind_input if direction == "input" else self._binding.bind_output
            if name != WATCH:
                bind(name, "cpu", 0, np.dtype(dtype), shape, seen[name].ctypes.data)
        outputs = [name for name, (direction, _, _) in self._engine.tensors().items() if direction == "output"]
        self._written = [self._tensors[name] for name in outputs]

    def _check_apart(self) -> None:
        sizes = self._engine.sizes
        spans = sorted((address, address + sizes[name], name) for name, address in self._addresses.items())
        for (_, end, name), (begin, _, other) in itertools.pairwise(spans):
            if end > begin:
                self._driver.complain(f"{name} and {other} lie on each other")
                raise Refused(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)

    def _refuse(self, words: str) -> bool:
        self._engine.errors.append(f"IExecutionContext::{words}")
        return False


def _run(context: weakref.ref[ExecutionContext], strays: float) -> None:
    if (living := context()) is None:
        raise Refused(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
    living.run(strays)
