from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from threading import Thread
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from onnx import TensorProto, helper

from edge_cnnlstm.errors import BackendError, ConfigError, DeviceMemoryError, EdgeError, ExportError, PlanError
from edge_cnnlstm.gpu import engine, tensorrt
from edge_cnnlstm.gpu.engine import Configuration, build_plan, deserialize

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is built for Linux only")


def interrupted() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def steps(onnx: bytes) -> list[tuple[str, int, int]]:
    """What a build tells of its progress."""
    told: list[tuple[str, int, int]] = []
    build_plan(onnx, "tiny", ahead_of_time=True, progress=lambda *step: told.append(step))
    return told


def test_a_plan_says_how_it_came_to_be(tiny_onnx: bytes) -> None:
    plan = build_plan(tiny_onnx, "tiny", ahead_of_time=True)
    watched = build_plan(tiny_onnx, "tiny", Configuration(batch=3), watch=["h_next", "c_next"], ahead_of_time=True)

    assert plan.version == f"tensorrt_rtx {trt.__version__}"
    assert len(plan.data) > 1000
    assert plan.timing_cache is None
    assert len(plan.precisions) == 4
    # Two absolute values, two sums, and one over both.
    assert watched.layers == plan.layers + 5
    assert watched.precisions == plan.precisions


def test_watching_what_is_no_output_is_refused(tiny_onnx: bytes) -> None:
    with pytest.raises(ExportError, match="'memory' is to be watched, and is not among digit_logits"):
        build_plan(tiny_onnx, "tiny", watch=["memory"], ahead_of_time=True)


def test_a_dimension_of_another_name_is_nobodys_to_fix(tiny_onnx: bytes) -> None:
    with pytest.raises(ExportError, match=r"(?s)'tiny'.*builder.*refused"):
        build_plan(tiny_onnx.replace(b"batch", b"width"), "tiny", Configuration(batch=8), ahead_of_time=True)


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", bytes(100)])
def test_what_is_not_onnx_is_refused_in_the_parsers_words(content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="edge_cnnlstm")

    with pytest.raises(ExportError, match=r"(?s)'broken'.*tensorrt_rtx.*refused"):
        build_plan(content, "broken", ahead_of_time=True)


def test_every_node_that_the_parser_refuses_is_listed() -> None:
    nodes = [
        helper.make_node("Det", ["x"], ["y"], "determine"),
        helper.make_node("Relu", ["y"], ["z"], "rectify"),
        helper.make_node("Unheard", ["z"], ["w"], "listen"),
    ]
    tensors = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 2]) for name in "xw")
    graph = helper.make_graph(nodes, "refused", *([tensor] for tensor in tensors))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    with pytest.raises(ExportError) as caught:
        build_plan(model.SerializeToString(), "refused", ahead_of_time=True)

    listed = [line.strip() for line in caught.value.found.splitlines()[1:]]
    assert [line.partition(":")[0] for line in listed] == ["node determine (Det)", "node listen (Unheard)"]
    assert "UNSUPPORTED_NODE" in listed[0]
    assert "Plugin not found" in listed[1]


def test_too_little_memory_says_how_much_was_allowed(tiny_onnx: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="edge_cnnlstm.gpu")

    with pytest.raises(
        DeviceMemoryError, match=r"(?s)workspace limit.*of 0\.0 MiB, [\d,]+\.0 MiB to time tactics.*--workspace-mib"
    ) as caught:
        build_plan(tiny_onnx, "tiny", Configuration(workspace_bytes=1), ahead_of_time=True)

    assert caplog.records[0].message in caught.value.found


# What TensorRT 10 has logged on full devices, in these orders: warnings (W) and errors (E).
FULL = [
    [
        "E [defaultAllocator.cpp::allocate::57] Error Code 1: Cuda Runtime (In allocate at defaultAllocator.cpp:57)",
        "W Requested amount of GPU memory (20132809216 bytes) could not be allocated.",
        "E [executionContext.cpp::init::625] Error Code 2: OutOfMemory (Requested size was 20132809216 bytes.)",
    ],
    [
        "E 1: [defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)",
        "W Requested amount of GPU memory (20132809216 bytes) could not be allocated.",
        "E 2: [safeDeserialize.cpp::load::269] Error Code 2: OutOfMemory (no further information)",
    ],
]
NO_WAY = (
    "E [optimizer.cpp::computeCosts] Error Code 10: Internal Error (Could not find any implementation for memory/Add.)"
)
SKIPPED = "W Tactic Device request: 4229MB Available: 2658MB. Device memory is insufficient to use tactic."
NO_CONTEXT = "E createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: {}. Please)"


def say(words: list[str]) -> Any:
    """Let TensorRT's logger hear this, and return it."""
    logger = tensorrt.logger(trt)
    tensorrt.forget(logger)
    for line in words:
        logger.log({"E": trt.ILogger.ERROR, "W": trt.ILogger.WARNING}[line[0]], line[2:])
    return logger


def refusal(words: list[str]) -> EdgeError:
    """What the builder's refusal becomes that comes with these words."""
    config = trt.Builder(tensorrt.logger(trt)).create_builder_config()
    return engine._refusal(trt, "tiny", config, say(words))


def loading(words: list[str], monkeypatch: pytest.MonkeyPatch, *, starts: bool = True) -> EdgeError:
    """What it becomes that a runtime says this and loads nothing, or does not even start."""

    def runtime(_logger: Any) -> Any:
        say(words)
        if not starts:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return SimpleNamespace(deserialize_cuda_engine=lambda _: None)

    monkeypatch.setattr(trt, "Runtime", runtime)
    with pytest.raises(EdgeError) as caught:
        deserialize(b"plan", "tiny", trt)
    return caught.value


def test_a_gpu_that_fails_is_not_the_graphs_fault() -> None:
    found = refusal(
        ["E IBuilder::buildSerializedNetwork: Error Code 1: Cuda Runtime (cudaError 35: driver version is)"]
    )

    assert type(found) is BackendError
    assert "NVIDIA GPU" in found.expected


def test_a_builder_that_finds_no_room_says_how_much_it_needed_and_was_allowed() -> None:
    for words in FULL:
        found = refusal(words)
        assert isinstance(found, DeviceMemoryError)
        assert "20132809216 bytes" in found.found
        assert "(allowed: a workspace of " in found.found
    skipped = refusal([SKIPPED, NO_WAY])
    assert isinstance(skipped, DeviceMemoryError)
    assert "any implementation for memory/Add" in skipped.found
    assert "request: 4229MB Available: 2658MB" in skipped.found
    assert "--tactic-mib" in skipped.fix


def test_a_node_that_is_named_after_the_memory_is_no_want_of_it() -> None:
    assert type(refusal([NO_WAY])) is ExportError


def test_a_plan_that_has_no_room_says_how_much_it_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in FULL:
        found = loading(words, monkeypatch)
        assert isinstance(found, DeviceMemoryError)
        assert "20132809216 bytes" in found.found
        assert "--workspace-mib" not in found.fix


def test_a_runtime_that_does_not_start_on_a_full_gpu_is_told_from_one_without_a_driver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert type(loading([NO_CONTEXT.format(2)], monkeypatch, starts=False)) is DeviceMemoryError
    assert type(loading([NO_CONTEXT.format(35)], monkeypatch, starts=False)) is BackendError


def test_an_empty_plan_is_no_want_of_memory() -> None:
    with pytest.raises(PlanError, match="empty memory buffer"):
        deserialize(b"", "tiny", trt)


@pytest.mark.parametrize(
    "change",
    [
        {"batch": 0}, {"workspace_bytes": 0}, {"tactic_bytes": 0}, {"tactic_bytes": 3 << 20}, {"tactic_bytes": 1 << 10},
        {"optimization_level": -1}, {"optimization_level": 6},
    ],
)  # fmt: skip
def test_a_configuration_that_tensorrt_would_refuse_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Configuration(**change)


def test_a_limit_that_tensorrt_does_not_take_is_not_passed_over() -> None:
    logger = tensorrt.logger(trt)
    config = trt.Builder(logger).create_builder_config()
    logger.errors.clear()
    unchecked: Any = SimpleNamespace(workspace_bytes=1 << 20, tactic_bytes=3 << 20, optimization_level=None)

    with pytest.raises(
        ConfigError, match=r"(?s)does not take a limit of 3145728 bytes for TACTIC_DRAM.*Parameter check"
    ):
        engine._configure(trt, config, unchecked, logger)


def test_the_builder_is_told_all_that_is_configured() -> None:
    logger = tensorrt.logger(trt)
    config = trt.Builder(logger).create_builder_config()

    engine._configure(trt, config, Configuration(1, 3 << 20, 4 << 20, optimization_level=5), logger)

    assert config.builder_optimization_level == 5
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 3 << 20
    assert config.get_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM) == 4 << 20
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert not config.get_flag(trt.BuilderFlag.TF32)


def test_a_configuration_is_told_by_all_that_it_holds() -> None:
    assert Configuration().purpose == "batch 1, recipe 1"
    assert Configuration().effort == "workspace 1073741824, tactics default, optimization default"
    others = [Configuration(2), Configuration(1, 1 << 20), Configuration(tactic_bytes=1 << 30)]
    others += [Configuration(optimization_level=level) for level in range(6)]
    told = {(configuration.purpose, configuration.effort) for configuration in [Configuration(), *others]}
    assert len(told) == 10
    assert len({effort for _, effort in told}) == 9


@pytest.mark.parametrize(
    "words",
    [
        "Error Code 1: Cuda Runtime (out of memory)",
        "Error Code 2: OutOfMemory (Requested size was 1073741824 bytes.)",
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (cudaErrorMemoryAllocation)",
    ],
)
def test_an_engine_that_finds_no_room_is_no_reason_to_build_it_again(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def deserialize_cuda_engine(self, _data: bytes) -> None:
            self.logger.log(trt.ILogger.ERROR, words)

    monkeypatch.setattr(trt, "Runtime", Runtime)
    with pytest.raises(DeviceMemoryError, match="cannot load it") as raised:
        engine.deserialize(b"plan", "tiny", trt)
    assert not isinstance(raised.value, PlanError)


def test_progress_is_told_phase_by_phase(tiny_onnx: bytes) -> None:
    told = steps(tiny_onnx)

    assert len(told) > 50
    assert len({phase for phase, _, _ in told}) > 3
    assert all(0 <= done <= total for _, done, total in told)
    first, _, total = told[0]
    whole = [done for phase, done, _ in told if phase == first]
    assert whole == list(range(total + 1))


def test_what_progress_raises_cancels_the_build_and_comes_out(
    tiny_onnx: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    failure = OSError("the terminal is gone")

    def tell(phase: str, _done: int, _total: int) -> None:
        told.append(phase)
        if len(told) == 20:
            raise failure

    with pytest.raises(OSError, match="the terminal is gone") as caught:
        build_plan(tiny_onnx, "tiny", ahead_of_time=True, progress=tell)

    assert caught.value is failure
    assert len(told) == 20
    assert "Exception caught" not in capfd.readouterr().err


@pytest.mark.parametrize("moment", [1, 2, 40])
def test_ctrl_c_cancels_the_build_and_is_raised_once_tensorrt_is_back(
    tiny_onnx: bytes, moment: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before, told = signal.getsignal(signal.SIGINT), []

    def tell(phase: str, _done: int, _total: int) -> None:
        told.append(phase)
        if len(told) == moment:
            interrupted()

    with pytest.raises(KeyboardInterrupt):
        build_plan(tiny_onnx, "tiny", ahead_of_time=True, progress=tell)

    assert len(told) < len(steps(tiny_onnx)) / 2
    assert signal.getsignal(signal.SIGINT) is before
    assert "Exception caught" not in capfd.readouterr().err


def test_ctrl_c_while_tensorrt_logs_is_not_lost(tiny_onnx: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    class Interrupting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logger.removeHandler(self)
            interrupted()

    logger = logging.getLogger("edge_cnnlstm.gpu.tensorrt")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Interrupting())
    try:
        with pytest.raises(KeyboardInterrupt):
            build_plan(tiny_onnx, "tiny", ahead_of_time=True)
    finally:
        logger.setLevel(level)

    assert "Exception caught" not in capfd.readouterr().err


def test_a_build_beside_another_still_says_why_it_failed(tiny_onnx: bytes) -> None:
    logger = tensorrt.logger(trt)
    beside = trt.Builder(logger)

    with pytest.raises(BackendError, match="workspace limit"):
        build_plan(tiny_onnx, "tiny", Configuration(workspace_bytes=1), ahead_of_time=True)

    assert beside is not None


def test_another_thread_than_the_main_one_builds_too(tiny_onnx: bytes) -> None:
    plans: list[engine.Plan] = []

    thread = Thread(target=lambda: plans.append(build_plan(tiny_onnx, "tiny", ahead_of_time=True)))
    thread.start()
    thread.join()

    assert len(plans) == 1


class Timings:
    """Stands in for a builder configuration of TensorRT, which times tactics: TensorRT-RTX does not."""

    def __init__(self, accepts: Callable[[bytes], bool]) -> None:
        self.accepts, self.cache = accepts, None

    def create_timing_cache(self, content: bytes) -> Any:
        return SimpleNamespace(content=content, serialize=lambda: content + b" and more")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.cache = cache if self.accepts(cache.content) else self.cache
        return self.accepts(cache.content)

    def get_timing_cache(self) -> Any:
        return self.cache


@pytest.mark.parametrize(
    ("given", "accepts", "kept", "warnings"),
    [
        (b"old", lambda content: True, b"old and more", 0),
        (None, lambda content: True, b" and more", 0),
        (b"of another GPU", lambda content: not content, b" and more", 1),
        (b"of another GPU", lambda content: False, None, 2),
    ],
)
def test_a_timing_cache_is_replayed_or_begun_anew(
    given: bytes | None,
    accepts: Callable[[bytes], bool],
    kept: bytes | None,
    warnings: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    there, config = SimpleNamespace(__name__="tensorrt"), Timings(accepts)

    engine._start_timing_from(there, config, given)

    assert engine._timings(there, config) == kept
    assert len(caplog.records) == warnings


@pytest.mark.parametrize("cut", [slice(0), slice(64), slice(1000), slice(-100), slice(100, None)])
def test_a_damaged_plan_is_refused_in_tensorrts_words(tiny_onnx: bytes, cut: slice) -> None:
    plan = build_plan(tiny_onnx, "tiny", ahead_of_time=True)

    with pytest.raises(BackendError, match=r"(?s)'tiny'.*cannot load it: .*Error Code.*build it again on this machine"):
        deserialize(plan.data[cut], "tiny", trt)


def test_a_tensorrt_that_does_not_start_says_that_it_needs_a_gpu() -> None:
    def refuse(_logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    blind: Any = ModuleType("tensorrt")
    blind.__version__, blind.ILogger, blind.Runtime = "10.3.0", trt.ILogger, refuse

    with pytest.raises(BackendError, match=r"(?s)tensorrt 10\.3\.0 does not start.*NVIDIA GPU.*--ahead-of-time"):
        deserialize(b"plan", "tiny", blind)
