"""What every backend promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.state import Memory
from edge_cnnlstm.spec import ModelSpec

Arrays = Mapping[str, NDArray[np.generic]]


class Backend(Protocol):
    """Runs one step graph for one stream, or for several at once, and owns their memory.

    The caller writes into `frames`, uint8 [batch, height, width, 3], and `dt`, float32 [batch, 1], seconds since each
    stream's last frame; both are allocated once and stay the backend's. A graph that does not ask for dt ignores it.
    `tests/runtime/backend_contract.py` is this promise as a test suite; a new backend inherits it.
    """

    name: str
    spec: ModelSpec
    frames: Pixels
    dt: NDArray[np.float32]

    @property
    def state(self) -> Memory:
        """What the streams remember."""

    def infer(self) -> Arrays:
        """Advance every stream by the frame that stands in `frames`, and return the outputs by name.

        The arrays are the backend's own and are overwritten by the next call. Raises BackendError when the
        engine fails, with the state as it was before the call.
        """

    def rehearse(self) -> None:
        """Run a step that counts for nothing: the state stays as it was, the outputs mean nothing.

        It keeps caches, clocks and threads warm for the step that counts. Errors as `infer` raises them.
        """

    def close(self) -> None:
        """Release the engine and the buffers; may be called twice."""


def advance(backend: Backend, pixels: Pixels, dt: float = 0.0) -> Arrays:
    """Give every stream of a backend the same frame, uint8 [height, width, 3], or each its own, and advance.

    `dt` is in seconds. Returns and raises what `Backend.infer` does.
    """
    backend.frames[...] = pixels
    backend.dt[...] = dt
    return backend.infer()
