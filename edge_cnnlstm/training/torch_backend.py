"""A trained network as a backend of the runtime: no engine, no bundle, the same answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.training.model import CnnLstm, State
from edge_cnnlstm.training.spec_of import spec_of

Arrays = Mapping[str, NDArray[np.generic]]


class TorchBackend:
    """Runs a network for one stream, as `runtime.backends.base.Backend` promises, and owns that stream's memory."""

    name = "torch"

    def __init__(self, model: CnnLstm) -> None:
        self.spec = spec_of(model)
        self._model: CnnLstm | None = model.eval()
        self._state = model.initial_state()

    def infer(self, pixels: NDArray[np.uint8]) -> Arrays:
        model = self._open()
        try:
            with torch.inference_mode():
                frame = torch.from_numpy(np.ascontiguousarray(pixels))[None].to(self._state.h.device)
                outputs, state = model.step(frame, self._state)
        except RuntimeError as error:
            raise BackendError(
                f"torch failed: {error}", expected="a step that works", fix="the memory is as it was: try again"
            ) from error
        self._state = state
        return {name: value.cpu().numpy() for name, value in outputs.items()}

    def reset(self) -> None:
        self._state = self._open().initial_state()

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        self._open()
        memory = self._state._asdict()
        return {pair.input: memory[pair.input].cpu().numpy().copy() for pair in self.spec.states}

    def restore(self, snapshot: Arrays) -> None:
        self._open()
        shapes = {pair.input: (pair.shape, np.dtype(pair.dtype)) for pair in self.spec.states}
        found = {name: (array.shape, array.dtype) for name, array in snapshot.items()}
        if found != shapes:
            raise BackendError(f"a snapshot of {found}", expected=f"{shapes}", fix="restore a snapshot of this model")
        if shapes:
            device = self._state.h.device
            copies: dict[str, Any] = {name: torch.from_numpy(array.copy()) for name, array in snapshot.items()}
            self._state = State(copies["h"].to(device), copies["c"].to(device))

    def close(self) -> None:
        self._model = None

    def _open(self) -> CnnLstm:
        if self._model is None:
            raise ClosedError("a closed backend", expected="an open one", fix="make a new one")
        return self._model
