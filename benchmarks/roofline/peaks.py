"""What this machine can do at best: multiply-accumulates a second by precision, and bytes a second by working set.

Run as a worker's process; each turn measures all of it anew.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from threading import Barrier
from typing import Any

import numpy as np

from benchmarks.processes import Message, Turn, serve
from benchmarks.roofline.instructions import READ_BYTES, Loop, Multiply, multiplies, multiply_loop, read_loop

SIZES = tuple(2**power for power in range(14, 29))
"""Working sets in bytes, of all threads together: from a part of L1 to far beyond any L3 of such machines."""
MULTIPLICATIONS = 200_000
TRY_BYTES = 8 << 20
"""Bytes that one try reads, or one pass where that is more."""
SGEMM = 256
Call = Callable[[], Any]
Rate = Callable[[Callable[[], Call], float], float]
"""Times what a thread prepares for itself, which does a known amount, and returns the amount a second."""


@dataclass(frozen=True, slots=True)
class Peaks:
    """The best of a machine: multiply-accumulates a second by precision, and (working set, bytes a second) by size."""

    macs: dict[str, float]
    read: tuple[tuple[int, float], ...]

    def bandwidth(self, working_set: float) -> float:
        """Return the bytes a second for a working set: those of the largest that was measured and is not larger.

        That is on the fast side, as a floor must be.
        """
        return next((rate for size, rate in reversed(self.read) if size <= working_set), self.read[0][1])

    @property
    def from_memory(self) -> float:
        """Bytes a second when nothing is in a cache."""
        return self.read[-1][1]


def best(turns: Sequence[Message]) -> Peaks:
    """Return the best of several turns."""
    macs: dict[str, float] = {}
    for turn in turns:
        for row in turn["multiply"]:
            macs[row["precision"]] = max(row["macs_per_second"], macs.get(row["precision"], 0))
    curves = zip(*(turn["read"] for turn in turns), strict=True)
    return Peaks(macs, tuple((points[0][0], max(rate for _, rate in points)) for points in curves))


def main(threads: str, seconds: str) -> tuple[Message, Turn]:
    """Compile the loops, and return what measures each for some seconds on so many threads."""
    side_by_side = partial(_together, int(threads), float(seconds))
    loops = [(each, Loop(multiply_loop(each))) for each in multiplies()]
    reading = Loop(read_loop())

    def turn(_: Message) -> Message:
        return {
            "multiply": [_multiplied(each, loop, side_by_side) for each, loop in loops],
            "sgemm_macs_per_second": _sgemm(int(threads), float(seconds)),
            "read": [[size, _read(reading, size, int(threads), side_by_side)] for size in SIZES],
        }

    return {"instructions": [each.name for each, _ in loops]}, turn


def _multiplied(each: Multiply, loop: Loop, side_by_side: Rate) -> Message:
    macs = MULTIPLICATIONS * each.sums * each.macs
    rate = side_by_side(lambda: multiplication(each, loop, MULTIPLICATIONS)[0], macs)
    return {"precision": each.precision, "instruction": each.name, "bits": each.bits, "macs_per_second": rate}


def multiplication(each: Multiply, loop: Loop, times: int) -> tuple[Callable[[], None], Any]:
    """Return what runs a loop, and its sums, [sums, lanes]: a run makes each of them `times` the operands' product."""
    left, right = each.operands()
    sums = np.zeros((each.sums, each.lanes), np.float32 if each.precision == "fp32" else np.int32)
    return lambda: loop(left.ctypes.data, right.ctypes.data, sums.ctypes.data, times), sums


def _read(loop: Loop, size: int, threads: int, side_by_side: Rate) -> float:
    """Return the bytes a second that threads read together, each its own share of a working set."""
    share = max(READ_BYTES, size // threads // READ_BYTES * READ_BYTES)
    times = max(1, TRY_BYTES // share)

    def prepare() -> Call:
        data, total = aligned(share), np.zeros(16, np.int32)
        return lambda: loop(data.ctypes.data, total.ctypes.data, share, times)

    return side_by_side(prepare, share * times)


def aligned(size: int) -> Any:
    """Return so many bytes of ones at the start of a cache line; written, so that each page is memory of its own."""
    room = np.ones(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


def _together(threads: int, seconds: float, prepare: Callable[[], Call], amount: float) -> float:
    """Return what threads do a second, added up: each tries side by side with the others, and its best try counts.

    A try takes a millisecond or so: whatever else runs can only take time away, and not from all of them.
    """
    begin = Barrier(threads)

    def work(_: int) -> float:
        call, clock, fastest = prepare(), time.perf_counter_ns, math.inf
        begin.wait()
        end = clock() + seconds * 1e9
        while (begun := clock()) < end or fastest == math.inf:
            call()
            fastest = min(fastest, clock() - begun)
        return amount * 1e9 / fastest

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads)))


def _sgemm(threads: int, seconds: float) -> float | None:
    """Return the multiply-accumulates a second of numpy's matrix product; None without what sets its threads."""
    try:
        limited: Any = import_module("threadpoolctl").threadpool_limits
    except ImportError:
        return None
    left = np.ones((SGEMM, SGEMM), np.float32)
    with limited(threads):
        return _together(1, seconds, lambda: lambda: left @ left, SGEMM**3)


if __name__ == "__main__":
    serve(main)
