"""A trained network as a backend of the runtime: no engine, no bundle, the same answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.runtime.state import RecurrentState
from edge_cnnlstm.training.model import CnnLstm, State
from edge_cnnlstm.training.spec_of import spec_of

Arrays = Mapping[str, NDArray[np.generic]]


class TorchBackend:
    """Runs a network for one stream, as `runtime.backends.base.Backend` promises, and owns that stream's memory."""

    name = "torch"

    def __init__(self, model: CnnLstm) -> None:
        self.spec = spec_of(model)
        self.frames = np.zeros(self.spec.frame.shape, np.uint8)
        self.dt = np.zeros((1, 1), np.float32)
        self.state = RecurrentState(self.spec.states)
        self._model: CnnLstm | None = model.eval()
        self._device = model.initial_state().h.device

    @torch.inference_mode()
    def infer(self) -> Arrays:
        outputs, after = self._step()
        for name, value in after.items():
            np.copyto(self.state.buffers(1 - self.state.side)[name], value)
        self.state.advance()
        return outputs

    @torch.inference_mode()
    def rehearse(self) -> None:
        self._step()

    def close(self) -> None:
        self._model = None
        self.state.release()

    def _step(self) -> tuple[Arrays, Arrays]:
        model = self._model
        if model is None:
            raise ClosedError("a closed backend", expected="an open one", fix="make a new one")
        before = self.state.buffers(self.state.side)
        memory = State(*(torch.tensor(before[name]).to(self._device) for name in State._fields)) if before else None
        try:
            frame, dt = (torch.tensor(array).to(self._device) for array in (self.frames, self.dt))
            outputs, after = model.step(frame, memory or model.initial_state(), dt if self.spec.dt else None)
        except RuntimeError as error:
            raise BackendError(
                f"torch failed: {error}", expected="a step that works", fix="the memory is as it was: try again"
            ) from error
        kept = {pair.input: after._asdict()[pair.input].cpu().numpy() for pair in self.spec.states}
        return {name: value.cpu().numpy() for name, value in outputs.items()}, kept
