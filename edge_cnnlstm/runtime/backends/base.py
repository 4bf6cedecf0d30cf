"""What every backend promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.spec import ModelSpec

Arrays = Mapping[str, NDArray[np.generic]]


class Backend(Protocol):
    """Runs one step graph for one stream and owns that stream's memory.

    `tests/runtime/backend_contract.py` is this promise as a test suite; a new backend inherits it.
    """

    name: str
    spec: ModelSpec

    def infer(self, pixels: Pixels) -> Arrays:
        """Advance by one frame of exactly the network's shape and return the outputs by name.

        The arrays are the backend's own and are overwritten by the next call. Raises BackendError when the
        engine fails, with the state as it was before the call.
        """

    def reset(self) -> None:
        """Empty the memory."""

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """Return a copy of the memory by the name of its graph input; it is the caller's."""

    def restore(self, snapshot: Arrays) -> None:
        """Set the memory to a snapshot; raises BackendError, with nothing changed, when it does not fit."""

    def close(self) -> None:
        """Release the engine and the buffers; may be called twice."""
