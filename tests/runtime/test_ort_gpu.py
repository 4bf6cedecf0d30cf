from __future__ import annotations

import gc
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.errors import BackendError, DependencyError
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.backends.ort import CPU, OnnxRuntimeBackend, create_session, open_session
from edge_cnnlstm.runtime.backends.ort_gpu import (
    CUDA,
    EVERY_NODE_ON_THE_GPU,
    TENSORRT,
    OnnxRuntimeCudaBackend,
    OnnxRuntimeDeviceBackend,
    OnnxRuntimeTensorrtBackend,
    check_provider,
    cuda_options,
    has_provider,
    require_gpu,
    tensorrt_options,
)
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.spec import ModelSpec, TensorSpec
from tests.conftest import tiny_frames
from tests.runtime.backend_contract import BackendContract, assert_same, copied
from tests.runtime.batch_contract import STREAMS, BatchContract
from tests.runtime.doubles import for_streams

GPU_BACKENDS: list[tuple[type[Any], str]] = [(OnnxRuntimeCudaBackend, CUDA), (OnnxRuntimeTensorrtBackend, TENSORRT)]


def on_the_cpu(graph: bytes, spec: ModelSpec, *, captured: bool = False) -> OnnxRuntimeDeviceBackend:
    return OnnxRuntimeDeviceBackend(open_session(graph, batch=spec.batch), spec, "cpu", captured=captured)


def finds_a_gpu() -> bool:
    try:
        require_gpu(CUDA)
    except DependencyError:
        return False
    return True


class TestOnTheCpu(BackendContract):
    def backend(self) -> Backend:
        return on_the_cpu(self.onnx, self.spec)


class TestOnTheCpuWithItsOutputsFetched(BackendContract):
    def backend(self) -> Backend:
        return on_the_cpu(self.onnx, self.spec, captured=True)


class TestOnTheCpuForSeveral(BatchContract):
    def backend(self, streams: int) -> Backend:
        return on_the_cpu(for_streams(self.onnx, streams), self.spec.batched(streams))


class TestOnTheCpuForSeveralOfADynamicGraph(BatchContract):
    def backend(self, streams: int) -> Backend:
        return on_the_cpu(self.onnx, self.spec.batched(streams))


@pytest.mark.parametrize("captured", [False, True])
def test_the_time_since_the_last_frame_reaches_the_network(
    tiny_dt_onnx: bytes, tiny_dt_spec: ModelSpec, tiny_dt_golden: Golden, captured: bool
) -> None:
    engine = on_the_cpu(tiny_dt_onnx, tiny_dt_spec, captured=captured)
    assert prove(engine, tiny_dt_golden, tiny_dt_golden.expected["tiny"], 1e-5).largest <= 1e-5


@pytest.mark.parametrize("captured", [False, True])
def test_it_computes_what_the_backend_for_cpus_computes_bit_for_bit(
    tiny_onnx: bytes, tiny_spec: ModelSpec, captured: bool
) -> None:
    engine, reference = on_the_cpu(tiny_onnx, tiny_spec, captured=captured), OnnxRuntimeBackend(tiny_onnx, tiny_spec)
    for pixels in tiny_frames(20, seed=3):
        assert_same(advance(engine, pixels), advance(reference, pixels))
    assert_same(engine.state.snapshot(), reference.state.snapshot())


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many tensors went up to the device and down from it."""
    from onnxruntime import OrtValue

    counted: Counter[str] = Counter()
    update_inplace, numpy = OrtValue.update_inplace, OrtValue.numpy

    def up(value: Any, array: NDArray[np.generic]) -> None:
        counted["up"] += 1
        update_inplace(value, array)

    def down(value: Any) -> Any:
        counted["down"] += 1
        return numpy(value)

    monkeypatch.setattr(OrtValue, "update_inplace", up)
    monkeypatch.setattr(OrtValue, "numpy", down)
    return counted


def test_a_step_copies_the_frame_and_nothing_of_the_memory(
    tiny_onnx: bytes, tiny_spec: ModelSpec, copies: Counter[str]
) -> None:
    engine = on_the_cpu(tiny_onnx, tiny_spec)
    copies.clear()
    for pixels in tiny_frames(10, seed=1):
        advance(engine, pixels)
        engine.rehearse()
        engine.state.hold([])
    assert copies == {"up": 20}


def test_the_memory_is_copied_down_once_a_step_for_however_many_slots_ask(
    tiny_onnx: bytes, tiny_spec: ModelSpec, copies: Counter[str]
) -> None:
    engine = on_the_cpu(tiny_onnx, tiny_spec.batched(STREAMS))
    for pixels in tiny_frames(4, seed=1):
        advance(engine, pixels)
        copies.clear()
        assert all(engine.state.is_finite(slot) for slot in (*range(STREAMS), None))
        engine.state.snapshot()
        assert copies == {"down": len(tiny_spec.states)}


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_a_step_is_held_back_also_where_nobody_had_looked_at_the_memory_before(
    tiny_onnx: bytes, tiny_spec: ModelSpec, steps: int
) -> None:
    spec = tiny_spec.batched(STREAMS)
    engine, reference = on_the_cpu(tiny_onnx, spec), OnnxRuntimeBackend(tiny_onnx, spec)
    for pixels in tiny_frames(steps, seed=4):
        advance(engine, pixels)
        advance(reference, pixels)
    for each in (engine, reference):
        each.state.hold([0, 2])
    assert_same(engine.state.snapshot(), reference.state.snapshot())


def test_a_step_moves_no_buffer(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    engine = on_the_cpu(tiny_onnx, tiny_spec)
    tensors = [value for side in (0, 1) for value in engine.state.values(side).values()]
    addresses = [value.data_ptr() for value in tensors]
    outputs = advance(engine, tiny_frames(1, seed=0)[0])
    engine.state.restore(engine.state.snapshot())
    again = advance(engine, tiny_frames(1, seed=1)[0])
    assert [value.data_ptr() for side in (0, 1) for value in engine.state.values(side).values()] == addresses
    assert all(again[name] is array for name, array in outputs.items())


@pytest.mark.parametrize("steps", [1, 2])
def test_a_step_that_fails_leaves_the_memory_as_it_was(
    tiny_onnx: bytes, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    from onnxruntime import InferenceSession

    engine = on_the_cpu(tiny_onnx, tiny_spec)
    frames = tiny_frames(steps + 1, seed=2)
    for pixels in frames[:steps]:
        advance(engine, pixels)
    before = engine.state.snapshot()
    expected = copied(advance(engine, frames[-1]))
    engine.state.restore(before)
    run = InferenceSession.run_with_iobinding

    def run_and_fail(*arguments: Any) -> None:
        run(*arguments)
        raise RuntimeError("CUDA error 700")

    with monkeypatch.context() as patch:
        patch.setattr(InferenceSession, "run_with_iobinding", run_and_fail)
        with pytest.raises(BackendError, match="CUDA error 700"):
            advance(engine, frames[0])
    assert_same(engine.state.snapshot(), before)
    assert_same(advance(engine, frames[-1]), expected)


@pytest.mark.parametrize("call", ["reset", "snapshot"])
def test_memory_that_cannot_be_copied_is_a_backend_error(
    tiny_onnx: bytes, tiny_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    from onnxruntime import OrtValue

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error 700")

    engine = on_the_cpu(tiny_onnx, tiny_spec)
    advance(engine, tiny_frames(1, seed=0)[0])
    monkeypatch.setattr(OrtValue, "update_inplace" if call == "reset" else "numpy", fail)
    with pytest.raises(BackendError, match="failed to copy the memory: CUDA error 700"):
        getattr(engine.state, call)()


def test_closing_lets_go_of_every_tensor_on_the_device(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    engine = on_the_cpu(tiny_onnx, tiny_spec, captured=True)
    advance(engine, tiny_frames(1, seed=0)[0])
    tensors = [weakref.ref(value) for side in (0, 1) for value in engine.state.values(side).values()]
    tensors += [weakref.ref(value) for value in engine._downloads.values()]
    tensors += [weakref.ref(value) for _, value, _ in engine._uploads]
    assert all(tensor() is not None for tensor in tensors)
    engine.close()
    gc.collect()
    assert all(tensor() is None for tensor in tensors)


def test_a_graph_that_is_not_what_the_spec_says_is_refused_on_a_device_too(
    tiny_onnx: bytes, tiny_spec: ModelSpec
) -> None:
    with pytest.raises(BackendError, match="inputs and outputs"):
        on_the_cpu(tiny_onnx, replace(tiny_spec, frame=TensorSpec("frame", (1, 8, 9, 3), "uint8")))


@pytest.mark.parametrize(("backend", "provider"), GPU_BACKENDS)
def test_where_there_is_no_gpu_the_error_says_what_was_asked_for_what_there_is_and_what_to_install(
    tiny_onnx: bytes, tiny_spec: ModelSpec, backend: type[Any], provider: str
) -> None:
    if finds_a_gpu():
        pytest.skip("there is a GPU here")
    with pytest.raises(DependencyError) as raised:
        backend(tiny_onnx, tiny_spec)
    assert f"cannot use {provider}" in raised.value.found
    assert CPU in raised.value.expected
    assert "edge-cnnlstm[ort-gpu]" in raised.value.fix


@pytest.mark.parametrize(("backend", "provider"), GPU_BACKENDS)
def test_a_build_without_the_provider_is_known_without_opening_anything(backend: type[Any], provider: str) -> None:
    import onnxruntime

    assert backend.available() == has_provider(provider) == (provider in onnxruntime.get_available_providers())
    assert not has_provider("NoSuchExecutionProvider")
    with pytest.raises(DependencyError, match="NoSuchExecutionProvider"):
        require_gpu("NoSuchExecutionProvider")


def test_a_missing_onnxruntime_is_a_missing_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_cnnlstm.runtime.backends.ort_gpu.is_installed", lambda _: False)
    assert not OnnxRuntimeCudaBackend.available()
    with pytest.raises(DependencyError, match="not been installed"):
        require_gpu(CUDA)


@pytest.mark.skipif(has_provider(CUDA), reason="only a build without CUDA goes on with the CPU so quietly")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_quietly_fell_back_to_the_cpu_is_found_out(tiny_onnx: bytes) -> None:
    session = create_session(tiny_onnx, [(CUDA, cuda_options())], {})
    with pytest.raises(DependencyError, match=f"{CUDA}: it goes on with {CPU}"):
        check_provider(session, CUDA)
    check_provider(session, CPU)


@pytest.mark.skipif(has_provider(CUDA), reason="a build with CUDA puts these nodes on the GPU")
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_for_the_gpu_takes_no_node_on_the_cpu(tiny_onnx: bytes) -> None:
    with pytest.raises(BackendError, match="assigned to the default CPU EP"):
        create_session(tiny_onnx, [(CUDA, cuda_options())], EVERY_NODE_ON_THE_GPU)


def test_plans_are_kept_only_where_a_folder_is_given(tmp_path: Path) -> None:
    without, given = tensorrt_options(None), tensorrt_options(tmp_path)
    assert without["trt_engine_cache_enable"] == "0"
    assert str(tmp_path) not in without.values()
    assert given["trt_engine_cache_enable"] == "1"
    assert given["trt_engine_cache_path"] == str(tmp_path)


def test_the_graph_alone_decides_in_which_precision_tensorrt_computes() -> None:
    assert {name: value for name, value in tensorrt_options(None).items() if "fp16" in name or "int8" in name} == {
        "trt_fp16_enable": "0",
        "trt_int8_enable": "0",
    }


def test_a_graph_that_brings_a_plan_is_refused_before_anything_reads_it(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    import onnx

    model = onnx.load_from_string(tiny_onnx)
    model.graph.node[0].op_type, model.graph.node[0].domain = "EPContext", "com.microsoft"
    with pytest.raises(BackendError, match="brings a plan"):
        OnnxRuntimeTensorrtBackend(model.SerializeToString(), tiny_spec)
