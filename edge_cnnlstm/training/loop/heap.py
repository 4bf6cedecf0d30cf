"""How the C library keeps the memory that tensors lie in."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD."""
LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Let this process keep what it frees, for the next step, which needs the same again; glibc only.

    By default each large tensor is taken from the system and given back: the system clears every page anew, which
    takes a fifth of a small network's training on a CPU.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST)
        mallopt(TRIM_THRESHOLD, LARGEST)
