"""ONNX in, TensorRT plan out: the same few calls for TensorRT 10.3 to 11.4 and for TensorRT-RTX.

The network is strongly typed and carries its quantization in Q/DQ nodes, so there is no precision flag and no
calibrator to set, and only names that exist in every one of those versions are used (`tests/gpu/trt_names.json`).

A plan is code: it is built where it runs and never read from a bundle.
"""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge_cnnlstm.errors import BackendError, ConfigError, DeviceMemoryError, EdgeError, ExportError, PlanError
from edge_cnnlstm.gpu import tensorrt
from edge_cnnlstm.gpu.network import fix_batch, precisions, watch_outputs
from edge_cnnlstm.gpu.progress import Progress, monitor

log = logging.getLogger(__name__)

MIB = 1 << 20
RECIPE = 1
"""Raised when the same graph and configuration are built in another way than before: old plans are then built anew."""

WATCH = "edge_cnnlstm_memory_size"
"""The output that is added over watched ones, float32 [batch]: how large each stream's memory is in total."""

NO_GPU = re.compile(r"cuda runtime|cudaerror|cuda (initialization|driver|error)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What shapes a plan beside the graph: streams that one step advances, and what the builder may use.

    `workspace_bytes` is scratch memory that a layer may ask for, when it is built and when it runs; the default fits a
    board of 8 GB. `tactic_bytes`, a power of two, is what the builder may use to time tactics; None for TensorRT's own
    limit, three quarters of a board's memory. On a board that counts all that the builder itself takes, which has been
    1.7 to 4.5 GB, and what does not fit is left untried. `optimization_level` is TensorRT's, 0 (quick to build) to 5
    (tries the most); None for its default. Raises ConfigError for what TensorRT would refuse.
    """

    batch: int = 1
    workspace_bytes: int = 1024 * MIB
    tactic_bytes: int | None = None
    optimization_level: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch {self.batch}", expected="one stream or more", fix="say how many there are")
        tactics = MIB if self.tactic_bytes is None else self.tactic_bytes
        if self.workspace_bytes < 1 or tactics < MIB or tactics & (tactics - 1):
            raise ConfigError(
                f"limits of {self.workspace_bytes} bytes for a workspace and {tactics} for tactics",
                expected="a workspace, and for tactics a power of two of at least 1 MiB",
                fix="choose other limits, or leave them out",
            )
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise ConfigError(
                f"optimization level {self.optimization_level}",
                expected="0 (quick to build) to 5 (tries the most)",
                fix="choose one of these, or leave it out",
            )

    @property
    def purpose(self) -> str:
        """What a plan is for, in a line: one that differs in this serves nobody else."""
        return f"batch {self.batch}, recipe {RECIPE}"

    @property
    def effort(self) -> str:
        """How it is built, in a line: one that differs in this is faster or slower."""
        tactics, level = self.tactic_bytes, self.optimization_level
        return (
            f"workspace {self.workspace_bytes}, tactics {'default' if tactics is None else tactics}, "
            f"optimization {'default' if level is None else level}"
        )


DEFAULT = Configuration()


@dataclass(frozen=True, slots=True)
class Plan:
    """A serialized engine, and how it came to be.

    `version` names the module and its full version; `layers` counts those of the network. `precisions` says what each
    convolution and matrix product computes in, by name of its ONNX node: "int8", "fp16" or "fp32". `timing_cache` is
    what the next build on this device can start from; None from TensorRT-RTX, which times nothing when it builds.
    """

    data: bytes
    seconds: float
    version: str
    layers: int
    precisions: dict[str, str]
    timing_cache: bytes | None


@dataclass(frozen=True, slots=True)
class Engine:
    """A loaded plan: TensorRT's `engine`, with the module, logger and runtime that it lives on."""

    trt: Any
    logger: Any
    runtime: Any
    engine: Any

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

    def last_words(self) -> str:
        """Return the first error that TensorRT logged since it was last asked, and forget them all."""
        reason = str(self.logger.reason)
        self.logger.errors.clear()
        return reason


def build_plan(
    onnx: bytes,
    name: str,
    configuration: Configuration = DEFAULT,
    *,
    watch: Sequence[str] = (),
    ahead_of_time: bool = False,
    timing_cache: bytes | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Build one graph with the TensorRT of this machine; `name` says which graph it is when it fails.

    `watch` names outputs, float32 [layers, batch, hidden], over which the output WATCH is added: a few bytes that tell
    whether the memory is finite without reading it back. `ahead_of_time` builds with TensorRT-RTX, which needs no GPU:
    it proves that TensorRT's parser and builder take the graph. `timing_cache` is what an earlier Plan returned.

    Raises DependencyError when TensorRT is missing, ExportError with TensorRT's own words when it refuses the graph,
    DeviceMemoryError when it has too little memory, BackendError without a GPU, and ConfigError when it refuses the
    configuration. Ctrl-C cancels the build, and raises KeyboardInterrupt as soon as TensorRT has come back.
    """
    trt = tensorrt.load(ahead_of_time)
    logger = tensorrt.logger(trt)
    tensorrt.forget(logger)
    started = time.monotonic()
    with tensorrt.interrupts_held() as interrupt:
        with _needing_a_gpu(trt, logger):
            builder = trt.Builder(logger)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        # The parser owns the weights: it has to outlive the build.
        parser = trt.OnnxParser(network, logger)
        _parse(trt, parser, onnx, name)
        fix_batch(network, configuration.batch)
        if watch:
            watch_outputs(trt, network, watch, WATCH)
        config = builder.create_builder_config()
        _configure(trt, config, configuration, logger)
        _start_timing_from(trt, config, timing_cache)
        tensorrt.forget(logger)  # a timing cache that was not taken is no reason for what comes
        watcher = monitor(trt, progress, interrupt)
        config.progress_monitor = watcher
        blob = builder.build_serialized_network(network, config)
    if watcher.failure is not None:
        raise watcher.failure
    if blob is None:
        raise _refusal(trt, name, config, logger)
    return Plan(
        bytes(blob),
        time.monotonic() - started,
        tensorrt.version(trt),
        network.num_layers,
        precisions(trt, network),
        _timings(trt, config),
    )


def deserialize(data: bytes, name: str, trt: Any) -> Engine:
    """Load a plan that this very TensorRT built on this very GPU; its context is the caller's to make current first.

    A plan is code: only load what was built here. Raises PlanError with TensorRT's own words when it is of another
    version or GPU, or damaged, DeviceMemoryError when it does not fit, and BackendError when there is no GPU.
    """
    logger = tensorrt.logger(trt)
    tensorrt.forget(logger)
    with tensorrt.interrupts_held():
        with _needing_a_gpu(trt, logger):
            runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        found = f"plan of graph {name!r}: {tensorrt.version(trt)} cannot load it: {logger.reason}"
        raise _failure_of_gpu(found, logger) or PlanError(
            found,
            expected="a plan that this version of TensorRT built on this GPU",
            fix="build it again on this machine: edge-cnnlstm build --again",
        )
    return Engine(trt, logger, runtime, engine)


def _parse(trt: Any, parser: Any, onnx: bytes, name: str) -> None:
    if parser.parse(onnx):
        return
    problems = [parser.get_error(index) for index in range(parser.num_errors)]
    words = "".join(f"\n    {_words(problem)}" for problem in problems)
    raise ExportError(
        f"graph {name!r}: the parser of {tensorrt.version(trt)} refused it:{words or ' no reason given'}",
        expected="a graph of operators that TensorRT builds",
        fix="change the layers that these nodes are named after, or leave them out of the export",
    )


def _words(problem: Any) -> str:
    code = problem.code()
    return f"node {problem.node_name() or '?'} ({problem.node_operator() or '?'}): {code.name}: {problem.desc()}"


def _configure(trt: Any, config: Any, configuration: Configuration, logger: Any) -> None:
    # What the audit reads. It describes the layers and changes none; plans of TensorRT-RTX are no larger for it.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # On by default, it would round what the graph says is FP32 to ten bits before each product.
    config.clear_flag(trt.BuilderFlag.TF32)
    if configuration.optimization_level is not None:
        config.builder_optimization_level = configuration.optimization_level
    limits = {trt.MemoryPoolType.WORKSPACE: configuration.workspace_bytes}
    if configuration.tactic_bytes is not None:
        limits[trt.MemoryPoolType.TACTIC_DRAM] = configuration.tactic_bytes
    for pool, limit in limits.items():
        config.set_memory_pool_limit(pool, limit)
        # It returns nothing: what it does not accept it logs, and keeps its default.
        if config.get_memory_pool_limit(pool) != limit:
            raise ConfigError(
                f"{tensorrt.version(trt)} does not take a limit of {limit} bytes for {pool.name}: {logger.reason}",
                expected="a limit that fits this device",
                fix="choose another limit: edge-cnnlstm build --workspace-mib, --tactic-mib",
            )


def _start_timing_from(trt: Any, config: Any, given: bytes | None) -> None:
    if not _times_tactics(trt):
        return
    for content in dict.fromkeys((given or b"", b"")):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return
        log.warning("TensorRT does not take a timing cache of %d bytes: tactics are timed anew", len(content))


def _timings(trt: Any, config: Any) -> bytes | None:
    cache = config.get_timing_cache() if _times_tactics(trt) else None
    serialized = None if cache is None else cache.serialize()
    return None if serialized is None else bytes(serialized)


def _times_tactics(trt: Any) -> bool:
    """TensorRT-RTX chooses when it loads the plan; asked for a timing cache, it warns, and looks for a GPU."""
    return bool(trt.__name__ == "tensorrt")


@contextlib.contextmanager
def _needing_a_gpu(trt: Any, logger: Any) -> Iterator[None]:
    """TensorRT's binding raises TypeError for an object that its library does not make: it found no GPU."""
    try:
        yield
    except TypeError as error:
        found = f"{tensorrt.version(trt)} does not start: {logger.reason}"
        raise _failure_of_gpu(found, logger) or _no_gpu(found) from error


def _refusal(trt: Any, name: str, config: Any, logger: Any) -> EdgeError:
    found = f"graph {name!r}: the builder of {tensorrt.version(trt)} refused it: {logger.reason}"
    pools = trt.MemoryPoolType.WORKSPACE, trt.MemoryPoolType.TACTIC_DRAM
    workspace, tactics = (f"{config.get_memory_pool_limit(pool) / MIB:,.1f} MiB" for pool in pools)
    allowed = f" (allowed: a workspace of {workspace}, {tactics} to time tactics)"
    return _failure_of_gpu(found, logger, allowed) or ExportError(
        found,
        expected="a graph of operators that TensorRT builds",
        fix="change the layer that the node is named after, or leave it out of the export",
    )


def _failure_of_gpu(found: str, logger: Any, allowed: str = "") -> BackendError | None:
    """Return what TensorRT's words say of the GPU, None when they say nothing of it; `allowed` to a builder."""
    if logger.shortage:
        more = "" if logger.shortage in found else f"; {logger.shortage}"
        limits = "; where too little was allowed: edge-cnnlstm build --workspace-mib, --tactic-mib" if allowed else ""
        return DeviceMemoryError(
            found + more + allowed,
            expected="enough memory, which a Jetson's GPU shares with everything else",
            fix=f"close what else fills the device's memory, or open fewer streams{limits}",
        )
    return _no_gpu(found) if NO_GPU.search(logger.reason) else None


def _no_gpu(found: str) -> BackendError:
    return BackendError(
        found,
        expected="an NVIDIA GPU, and a driver that is new enough for this TensorRT",
        fix=f"check both with nvidia-smi, on a Jetson with tegrastats; {tensorrt.AHEAD_OF_TIME}",
    )
