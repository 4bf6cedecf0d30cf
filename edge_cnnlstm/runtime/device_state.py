"""The memory of one or more streams where the engine keeps it: on the GPU, from which it never returns unasked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.gpu.cuda import Session
from edge_cnnlstm.runtime.state import Arrays, check_fits, released
from edge_cnnlstm.spec import StatePair


class DeviceState:
    """Memory in two device buffers a pair, read and written in turn, as `RecurrentState` is on the host.

    `sizes` are two arrays, float32 [streams]: the engine writes into `sizes[side]`, with each step that writes side
    `side`, the sum of absolute values of each stream's memory there. They tell whether it is finite without a look at
    it. To be made inside `with session:`, which stays the caller's; once that is closed, every use raises ClosedError.
    """

    def __init__(
        self, session: Session, pairs: tuple[StatePair, ...], sizes: tuple[NDArray[np.float32], NDArray[np.float32]]
    ) -> None:
        self.pairs = pairs
        self.side = 0
        self._session = session
        self._sizes = sizes
        self._sides = tuple(
            {pair.input: session.memory(pair.zeros().nbytes, f"memory {pair.input!r}") for pair in pairs} for _ in "01"
        )
        self._staging = {pair.input: session.host(pair.shape, pair.dtype, "snapshots").array for pair in pairs}

    def address(self, side: int, pair: StatePair) -> int:
        """Return where one side's buffer of a pair lies."""
        return self._sides[side][pair.input].address

    def advance(self) -> None:
        """Make what the last step wrote the state of the next."""
        self.side = 1 - self.side

    def reset(self, slot: int | None = None) -> None:
        self._check_held()
        with self._session as session:
            for target, nbytes in self._pieces(self.side, slot):
                session.clear(target, nbytes)
        self._sizes[self.side][_rows(slot)] = 0

    def snapshot(self, slot: int | None = None) -> Arrays:
        self._check_held()
        with self._session:
            self._read()
        return {name: array[:, _rows(slot)].copy() for name, array in self._staging.items()}

    def restore(self, snapshot: Mapping[str, NDArray[np.generic]], slot: int | None = None) -> None:
        self._check_held()
        check_fits(snapshot, {name: array[:, _rows(slot)] for name, array in self._staging.items()})
        with self._session as session:
            if slot is not None:
                self._read()
            for name, memory in self._sides[self.side].items():
                self._staging[name][:, _rows(slot)] = snapshot[name]
                session.upload(memory.address, self._staging[name])
            session.wait()
        self._sizes[self.side][_rows(slot)] = _size(snapshot.values())

    def hold(self, slots: Iterable[int]) -> None:
        self._check_held()
        with self._session as session:
            for slot in slots:
                before, now = self._pieces(1 - self.side, slot), self._pieces(self.side, slot)
                for (source, nbytes), (target, _) in zip(before, now, strict=True):
                    session.copy(target, source, nbytes)
                self._sizes[self.side][slot] = self._sizes[1 - self.side][slot]

    def is_finite(self, slot: int | None = None) -> bool:
        self._check_held()
        if np.isfinite(self._sizes[self.side][_rows(slot)]).all():
            return True
        # A sum may overflow where no part of it is infinite: look again.
        return all(np.isfinite(array).all() for array in self.snapshot(slot).values())

    def _read(self) -> None:
        """Bring the memory into the staging buffers."""
        for name, memory in self._sides[self.side].items():
            self._session.download(self._staging[name], memory.address)
        self._session.wait()

    def _pieces(self, side: int, slot: int | None) -> Iterator[tuple[int, int]]:
        """Yield address and bytes of every contiguous piece of a slot's memory: one a layer; all of it for None."""
        for pair in self.pairs:
            memory, (layers, streams) = self._sides[side][pair.input], pair.shape[:2]
            if slot is None:
                yield memory.address, memory.nbytes
                continue
            row = memory.nbytes // (layers * streams)
            for layer in range(layers):
                yield memory.address + (layer * streams + slot) * row, row

    def _check_held(self) -> None:
        if self._session.closed:
            raise released()


def _rows(slot: int | None) -> slice:
    return slice(None) if slot is None else slice(slot, slot + 1)


def _size(memory: Iterable[NDArray[Any]]) -> NDArray[np.float32]:
    """Return, for each stream, the sum of absolute values that a step would have written beside this memory."""
    sizes = np.float32(0)
    with np.errstate(over="ignore", invalid="ignore"):
        for array in memory:
            sizes = sizes + np.abs(array).sum(axis=(0, *range(2, array.ndim)), dtype=np.float32)
    return np.asarray(sizes)
