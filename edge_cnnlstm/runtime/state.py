"""The memory of one or more streams: named pairs, two buffers each, one owner."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import BackendError, ClosedError
from edge_cnnlstm.spec import StatePair

Arrays = dict[str, NDArray[np.generic]]


class Memory(Protocol):
    """What a backend remembers, wherever that lies; `slot` is one of its streams, None means all of them.

    Every method raises ClosedError once the backend is closed.
    """

    def reset(self, slot: int | None = None) -> None:
        """Empty the memory."""

    def snapshot(self, slot: int | None = None) -> Arrays:
        """Return a copy of the memory by the name of its graph input, [layers, streams, …]; it is the caller's."""

    def restore(self, snapshot: Mapping[str, NDArray[np.generic]], slot: int | None = None) -> None:
        """Set the memory to a snapshot. Raises BackendError, with nothing changed, when it does not fit."""

    def hold(self, slots: Iterable[int]) -> None:
        """Take the last step back for these streams: their memory is what it was before."""

    def is_finite(self, slot: int | None = None) -> bool:
        """Return whether the memory holds neither NaN nor infinity."""


class RecurrentState:
    """Memory in host buffers, allocated once.

    A step reads the buffers of one side and writes those of the other; `advance` then swaps the sides. A step
    that fails is never advanced, so what it half wrote is never read.
    """

    def __init__(self, pairs: tuple[StatePair, ...]) -> None:
        self.pairs = pairs
        self._buffers: tuple[Arrays, Arrays] = (
            {pair.input: pair.zeros() for pair in pairs},
            {pair.input: pair.zeros() for pair in pairs},
        )
        self._flat = tuple([buffer.ravel() for buffer in side.values()] for side in self._buffers)
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

    def reset(self, slot: int | None = None) -> None:
        self._check_held()
        for buffer in self._of(self.side, slot).values():
            buffer[...] = 0

    def snapshot(self, slot: int | None = None) -> Arrays:
        self._check_held()
        return {name: buffer.copy() for name, buffer in self._of(self.side, slot).items()}

    def restore(self, snapshot: Mapping[str, NDArray[np.generic]], slot: int | None = None) -> None:
        self._check_held()
        current = self._of(self.side, slot)
        check_fits(snapshot, current)
        for name, buffer in current.items():
            np.copyto(buffer, snapshot[name])

    def hold(self, slots: Iterable[int]) -> None:
        self._check_held()
        for slot in slots:
            before, now = self._of(1 - self.side, slot), self._of(self.side, slot)
            for name, buffer in now.items():
                np.copyto(buffer, before[name])

    def is_finite(self, slot: int | None = None) -> bool:
        self._check_held()
        if slot is not None:
            return all(np.isfinite(buffer).all() for buffer in self._of(self.side, slot).values())
        for flat in self._flat[self.side]:  # noqa: SIM110 - a generator costs as much as what it asks
            if not is_finite(flat):
                return False
        return True

    def _of(self, side: int, slot: int | None) -> Arrays:
        buffers = self._buffers[side]
        return buffers if slot is None else {name: buffer[:, slot : slot + 1] for name, buffer in buffers.items()}

    def _check_held(self) -> None:
        if self._released:
            raise released()


def released() -> ClosedError:
    """Return the error for the use of a memory that was given up."""
    return ClosedError("the memory of a closed backend", expected="an open one", fix="open the bundle again")


def check_fits(snapshot: Mapping[str, NDArray[np.generic]], memory: Arrays) -> None:
    """Raise BackendError unless a snapshot has the names, shapes and dtypes of this memory."""
    found = (
        {name: (np.shape(array), getattr(array, "dtype", type(array))) for name, array in snapshot.items()}
        if isinstance(snapshot, Mapping)
        else type(snapshot).__name__
    )
    expected = {name: (buffer.shape, buffer.dtype) for name, buffer in memory.items()}
    if found != expected:
        raise BackendError(
            f"a snapshot of {found}", expected=str(expected), fix="restore snapshots of the same model only"
        )


def is_finite(flat: NDArray[Any]) -> bool:
    """Return whether a one-dimensional array holds neither NaN nor infinity.

    Its square is finite only if it is, and takes half the time; where the square overflows, one looks again. (`vdot`
    overflows in silence, `dot` with a warning.)
    """
    return math.isfinite(np.vdot(flat, flat)) or bool(np.isfinite(flat).all())
