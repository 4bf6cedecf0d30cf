from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.backends.trt import TensorRtBackend
from edge_cnnlstm.runtime.device_step import Wiring
from tests.gpu import conftest as gpu_conftest
from tests.gpu.doubles.handle import Double
from tests.runtime.backend_contract import BackendContract
from tests.runtime.batch_contract import BatchContract

double = gpu_conftest.double

WIRINGS = [Wiring(transfer=transfer, graphs=graphs) for transfer in ("copied", "mapped") for graphs in (True, False)]


@pytest.mark.parametrize("wiring", WIRINGS, ids=lambda w: f"{w.transfer}-{'graphs' if w.graphs else 'by hand'}")
class TestTensorRt(BackendContract):
    @pytest.fixture(autouse=True)
    def _gpu(self, double: Double, wiring: Wiring) -> None:
        self._double, self._wiring = double, wiring

    @pytest.fixture
    def engine(self, _tiny: None, _gpu: None) -> Iterator[Backend]:
        engine = self.backend()
        yield engine
        engine.close()

    def backend(self) -> Backend:
        backend = TensorRtBackend(self._double.engine(self.onnx, self.spec), self.spec, self._wiring)
        assert backend.uses_graphs == self._wiring.graphs
        return backend


@pytest.mark.parametrize("wiring", WIRINGS, ids=lambda w: f"{w.transfer}-{'graphs' if w.graphs else 'by hand'}")
class TestTensorRtForSeveral(BatchContract):
    @pytest.fixture(autouse=True)
    def _gpu(self, double: Double, wiring: Wiring) -> None:
        self._double, self._wiring = double, wiring

    @pytest.fixture
    def engine(self, _tiny: None, _gpu: None) -> Iterator[Backend]:
        engine = self.backend(3)
        yield engine
        engine.close()

    def backend(self, streams: int) -> Backend:
        spec = self.spec.batched(streams)
        return TensorRtBackend(self._double.engine(self.onnx, spec), spec, self._wiring)
