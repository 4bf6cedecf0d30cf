"""Tensors side by side in page-locked memory: one copy moves them all, or none where the GPU reads them in place."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.gpu.cuda import Session
from edge_cnnlstm.spec import TensorSpec

ALIGNMENT = 256
"""Bytes; TensorRT wants its tensors to begin at a multiple of them."""


class Block:
    """Tensors that cross the border between the processor and the GPU together.

    `arrays` are theirs on the host, cleared, by name; `addresses` is where the GPU finds them. `mapped` blocks are read
    and written by the GPU in place: `upload` and `download` then do nothing, and `bytes_copied` is 0. To be made, and
    used, inside `with session:`. The memory is freed with the session, or with the last array that anyone still holds.
    """

    def __init__(self, session: Session, tensors: Sequence[TensorSpec], what: str, *, mapped: bool) -> None:
        sizes = [int(np.prod(tensor.shape)) * np.dtype(tensor.dtype).itemsize for tensor in tensors]
        *starts, end = itertools.accumulate((_aligned(size) for size in sizes), initial=0)
        self._session = session
        self._host = session.host((end,), "uint8", what, mapped=mapped)
        self._device = None if mapped else session.memory(end, what)
        self.bytes_copied = 0 if mapped else end
        base = self._host.address if self._device is None else self._device.address
        self.arrays, self.addresses = dict[str, NDArray[Any]](), dict[str, int]()
        for tensor, start, size in zip(tensors, starts, sizes, strict=True):
            self.arrays[tensor.name] = self._host.array[start : start + size].view(tensor.dtype).reshape(tensor.shape)
            self.addresses[tensor.name] = base + start

    def upload(self) -> None:
        """Queue the copy to the GPU."""
        if self._device is not None:
            self._session.upload(self._device.address, self._host.array)

    def download(self) -> None:
        """Queue the copy from the GPU."""
        if self._device is not None:
            self._session.download(self._host.array, self._device.address)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
