"""Decoded frames in memory that all processes share, so that no video is decoded twice."""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class Kept(NamedTuple):
    """What was stored: frames, uint8 [count, height, width, 3], read-only, and the number given with them."""

    frames: Pixels
    number: int


class SharedFrames:
    """Frames of one size, stored by key: each entry is written once, and stays until the last process lets go.

    The memory is anonymous: it has no name that could be left behind, it is no part of /dev/shm and its limit, and
    it is freed with the last process that holds it, however that one ends. Workers get it when they are forked, or
    spawned with it as an argument. Whoever stores holds the kernel's lock on it, which ends with its holder: a
    worker that is killed leaves neither a lock nor half an entry. Pages are taken as they are filled. Only one
    thread of each process may use it.
    """

    def __init__(self, keys: int, height: int, width: int, capacity: int, *, descriptor: int | None = None) -> None:
        self._made_of = keys, height, width, capacity
        self._shape = height, width, 3
        self._header = _USED.itemsize + keys * _ENTRY.itemsize
        size = self._header + capacity
        self._file = os.memfd_create("edge-cnnlstm-frames") if descriptor is None else descriptor
        weakref.finalize(self, os.close, self._file)
        if descriptor is None:
            os.ftruncate(self._file, size)
        self._memory = mmap.mmap(self._file, size)
        self._used = np.frombuffer(self._memory, _USED, 1)
        self._entries = np.frombuffer(self._memory, _ENTRY, keys, _USED.itemsize)
        self._capacity = capacity

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to a worker that is spawned: the memory itself, not what is in it."""
        return _attached, (DupFd(self._file), *self._made_of)

    def get(self, key: int) -> Kept | None:
        """Return what is stored under a key, without a copy; None when nothing is."""
        with self._locked(fcntl.LOCK_SH):
            entry = self._entries[key].copy()
        if not entry["count"]:
            return None
        shape = (int(entry["count"]), *self._shape)
        first = self._header + int(entry["offset"])
        frames = np.frombuffer(self._memory, np.uint8, int(np.prod(shape)), first).reshape(shape)
        frames.flags.writeable = False
        return Kept(frames, int(entry["number"]))

    def put(self, key: int, frames: Pixels, number: int) -> bool:
        """Copy frames, [count, height, width, 3], into the store; False when it has no room, or has them already."""
        with self._locked(fcntl.LOCK_EX):
            entry = self._entries[key]
            offset = int(self._used[0])
            if entry["count"] or not len(frames) or offset + frames.nbytes > self._capacity:
                return False
            first = self._header + offset
            np.frombuffer(self._memory, np.uint8, frames.nbytes, first)[:] = frames.reshape(-1)
            self._used[0] = offset + frames.nbytes
            # The count comes last: it says that all the rest is there.
            entry["offset"], entry["number"], entry["count"] = offset, number, len(frames)
            return True

    def has_room(self, count: int) -> bool:
        """Return whether that many frames would fit now."""
        return int(self._used[0]) + count * int(np.prod(self._shape)) <= self._capacity

    def mark(self, key: int) -> bool:
        """Mark a key; True for the first of all processes to do so."""
        with self._locked(fcntl.LOCK_EX):
            entry = self._entries[key]
            first = not entry["marked"]
            entry["marked"] = True
            return first

    def marked(self) -> NDArray[np.int64]:
        """Return the keys that any process has marked."""
        with self._locked(fcntl.LOCK_SH):
            return np.flatnonzero(self._entries["marked"])

    @contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        fcntl.lockf(self._file, how)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)


_USED = np.dtype(np.int64)
_ENTRY = np.dtype([("offset", np.int64), ("number", np.int64), ("count", np.int64), ("marked", np.int64)])


def _attached(descriptor: Any, keys: int, height: int, width: int, capacity: int) -> SharedFrames:
    return SharedFrames(keys, height, width, capacity, descriptor=descriptor.detach())
