"""The memory of one stream: named pairs, two buffers each, one owner."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.spec import StatePair

Arrays = dict[str, NDArray[np.generic]]


class RecurrentState:
    """Recurrent state in host memory, allocated once.

    A step reads the buffers of one side and writes those of the other; `advance` then swaps the sides. A step
    that fails is never advanced, so what it half wrote is never read.
    """

    def __init__(self, pairs: tuple[StatePair, ...]) -> None:
        self.pairs = pairs
        self._buffers: tuple[Arrays, Arrays] = (
            {pair.input: pair.zeros() for pair in pairs},
            {pair.input: pair.zeros() for pair in pairs},
        )
        self.side = 0
        self._released = False

    def buffers(self, side: int) -> Arrays:
        """Return one side's buffers by the name of their graph input; they stay the state's."""
        return self._buffers[side]

    def advance(self) -> None:
        """Make what the last step wrote the state of the next."""
        self.side = 1 - self.side

    def release(self) -> None:
        """Give the memory up: from now on every use of it raises ClosedError."""
        self._released = True

    def reset(self) -> None:
        """Empty the memory."""
        self._check_held()
        for buffer in self._buffers[self.side].values():
            buffer.fill(0)

    def snapshot(self) -> Arrays:
        """Return a copy of the state by the name of its graph input; it is the caller's."""
        self._check_held()
        return {name: buffer.copy() for name, buffer in self._buffers[self.side].items()}

    def restore(self, snapshot: Mapping[str, NDArray[np.generic]]) -> None:
        """Set the state to a snapshot. Raises BackendError, with nothing changed, when it does not fit."""
        self._check_held()
        current = self._buffers[self.side]
        found = (
            {name: (np.shape(array), getattr(array, "dtype", type(array))) for name, array in snapshot.items()}
            if isinstance(snapshot, Mapping)
            else type(snapshot).__name__
        )
        expected = {name: (buffer.shape, buffer.dtype) for name, buffer in current.items()}
        if found != expected:
            raise BackendError(
                f"a snapshot of {found}", expected=str(expected), fix="restore snapshots of the same model only"
            )
        for name, buffer in current.items():
            np.copyto(buffer, snapshot[name])

    def _check_held(self) -> None:
        if self._released:
            raise ClosedError("the memory of a closed backend", expected="an open one", fix="open the bundle again")
