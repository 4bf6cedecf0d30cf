"""ONNX Runtime on a real GPU, by itself and through TensorRT. It has not run on one yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edge_cnnlstm.errors import DependencyError
from edge_cnnlstm.runtime.backends.base import Backend, advance
from edge_cnnlstm.runtime.backends.ort import OnnxRuntimeBackend
from edge_cnnlstm.runtime.backends.ort_gpu import (
    CUDA,
    OnnxRuntimeCudaBackend,
    OnnxRuntimeTensorrtBackend,
    has_provider,
)
from edge_cnnlstm.spec import ModelSpec
from tests.conftest import tiny_frames
from tests.runtime.backend_contract import BackendContract, assert_close
from tests.runtime.batch_contract import BatchContract

pytestmark = pytest.mark.gpu
if not has_provider(CUDA):
    pytest.skip("no build of ONNX Runtime with CUDA: pip install 'edge-cnnlstm[ort-gpu]'", allow_module_level=True)


def on_the_gpu(backend: Callable[..., Backend], *arguments: Any, **options: Any) -> Backend:
    try:
        return backend(*arguments, **options)
    except DependencyError as missing:
        pytest.skip(missing.found)


class TestCuda(BackendContract):
    def backend(self) -> Backend:
        return on_the_gpu(OnnxRuntimeCudaBackend, self.onnx, self.spec)


class TestCudaGraphs(BackendContract):
    def backend(self) -> Backend:
        return on_the_gpu(OnnxRuntimeCudaBackend, self.onnx, self.spec, graphs=True)


class TestTensorrt(BackendContract):
    tolerance = 2e-3
    """TensorRT may compute FP32 layers in TF32, and ONNX Runtime has no option against it."""

    def backend(self) -> Backend:
        return on_the_gpu(OnnxRuntimeTensorrtBackend, self.onnx, self.spec)


class TestCudaForSeveral(BatchContract):
    def backend(self, streams: int) -> Backend:
        return on_the_gpu(OnnxRuntimeCudaBackend, self.onnx, self.spec.batched(streams))


class TestTensorrtForSeveral(BatchContract):
    tolerance = 2e-3

    def backend(self, streams: int) -> Backend:
        return on_the_gpu(OnnxRuntimeTensorrtBackend, self.onnx, self.spec.batched(streams))


def test_cuda_graphs_answer_as_single_launches_do(tiny_onnx: bytes, tiny_spec: ModelSpec) -> None:
    replayed = on_the_gpu(OnnxRuntimeCudaBackend, tiny_onnx, tiny_spec, graphs=True)
    launched = on_the_gpu(OnnxRuntimeCudaBackend, tiny_onnx, tiny_spec)
    for pixels in tiny_frames(200, seed=5):
        assert_close(advance(replayed, pixels), advance(launched, pixels), 1e-6)
    assert_close(replayed.state.snapshot(), launched.state.snapshot(), 1e-6)


@pytest.mark.parametrize("backend", [OnnxRuntimeCudaBackend, OnnxRuntimeTensorrtBackend])
def test_ten_thousand_steps_on_the_gpu_follow_the_cpu(
    tiny_onnx: bytes, tiny_spec: ModelSpec, backend: type[Any]
) -> None:
    engine, reference = on_the_gpu(backend, tiny_onnx, tiny_spec), OnnxRuntimeBackend(tiny_onnx, tiny_spec)
    tolerance = 1e-5 if backend is OnnxRuntimeCudaBackend else 2e-3
    for pixels in tiny_frames(10_000, seed=6):
        assert_close(advance(engine, pixels), advance(reference, pixels), tolerance)
