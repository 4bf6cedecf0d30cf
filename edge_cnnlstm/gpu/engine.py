"""ONNX in, TensorRT plan out: the same few calls for TensorRT 10.3 to 11.4 and for TensorRT-RTX.

The network is strongly typed and carries its quantization in Q/DQ nodes, so there is no precision flag and no
calibrator to set, and only names that exist in every one of those versions are used.

A plan is code: it is built where it runs and never read from a bundle.
"""

from __future__ import annotations

import importlib
import logging
import time
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from edge_cnnlstm.errors import DependencyError, ExportError
from edge_cnnlstm.spec import BATCH

log = logging.getLogger(__name__)

WORKSPACE_BYTES = 1 << 30
"""Scratch memory that the builder may use; an 8 GB board shares its memory with everything else."""


WATCH = "edge_cnnlstm_memory_size"
"""The output that a build adds: float32 [streams], the sum of absolute values of each stream's next memory."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A deserialized plan, with what must live as long as it does."""

    trt: ModuleType
    runtime: Any
    engine: Any
    logger: Any

    def tensors(self) -> dict[str, tuple[str, tuple[int, ...], str]]:
        """Return direction (input or output), shape and dtype of everything that it reads and writes, by name."""
        trt, engine = self.trt, self.engine
        directions = {trt.TensorIOMode.INPUT: "input", trt.TensorIOMode.OUTPUT: "output"}
        types = {trt.DataType.UINT8: "uint8", trt.DataType.FLOAT: "float32"}
        found = {}
        for name in (engine.get_tensor_name(at) for at in range(engine.num_io_tensors)):
            dtype = engine.get_tensor_dtype(name)
            direction = directions.get(engine.get_tensor_mode(name), "neither")
            found[name] = direction, tuple(engine.get_tensor_shape(name)), types.get(dtype, str(dtype))
        return found

    def last_words(self) -> str | None:
        """Return the last error that TensorRT logged."""
        return self.logger.errors[-1] if self.logger.errors else None


@dataclass(frozen=True, slots=True)
class Plan:
    """A serialized engine, and how it came to be. `version` names the module and its full version."""

    data: bytes
    seconds: float
    version: str
    layers: int


def build_plan(onnx: bytes, name: str, *, batch: int = 1, ahead_of_time: bool = False) -> Plan:
    """Build one graph for so many streams, with the TensorRT of this machine.

    `ahead_of_time` builds with TensorRT-RTX, which needs no GPU: it proves that TensorRT's parser and builder
    take the graph. Raises DependencyError when TensorRT is missing, and ExportError with TensorRT's own words
    when it refuses the graph; `name` says which graph that was.
    """
    trt = _tensorrt(ahead_of_time)
    started = time.monotonic()
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx):
        problems = [parser.get_error(i) for i in range(parser.num_errors)]
        words = "; ".join(f"node {problem.node_name() or '?'}: {problem.desc()}" for problem in problems)
        raise _refused(trt, name, "parser", words)
    _fix_batch(network, batch)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refused(trt, name, "builder", "; ".join(logger.errors))
    return Plan(bytes(plan), time.monotonic() - started, _version(trt), network.num_layers)


def _fix_batch(network: Any, batch: int) -> None:
    """Give the inputs their final shapes: with these known, the builder needs no profile and computes no shapes."""
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        tensor.shape = [
            batch if tensor.get_dimension_name(axis) == BATCH else size for axis, size in enumerate(tensor.shape)
        ]


def _tensorrt(ahead_of_time: bool) -> ModuleType:
    module, package = ("tensorrt_rtx", "tensorrt-rtx") if ahead_of_time else ("tensorrt", "tensorrt")
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"cannot import {module}: {error}",
            expected="TensorRT's Python binding",
            fix=f"pip install {package}"
            if ahead_of_time
            else "on a Jetson: apt-get install python3-libnvinfer and a virtual environment with "
            "--system-site-packages; elsewhere: build ahead of time with TensorRT-RTX",
        ) from error


def _logger(trt: Any) -> Any:
    """Return a TensorRT logger that speaks through `logging` and keeps the errors for the exception."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base class exists only once TensorRT is imported
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)
                log.error(message)
            elif severity == trt.ILogger.Severity.WARNING:
                log.warning(message)
            else:
                log.debug(message)

    return Logger()


def _version(trt: Any) -> str:
    return f"{trt.__name__} {trt.__version__}"


def _refused(trt: Any, name: str, who: str, words: str) -> ExportError:
    return ExportError(
        f"graph {name!r}: the {who} of {_version(trt)} refused it: {words or 'no reason given'}",
        expected="a graph of operators that TensorRT builds",
        fix="change the layer that the node is named after, or leave it out of the export",
    )
