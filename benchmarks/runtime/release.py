"""How late a frame is released: with the last of the wait spent awake, and asleep throughout."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.processes import Cost, answer
from benchmarks.statistics import percentile
from edge_cnnlstm.runtime.realtime import OFF, Realtime
from edge_cnnlstm.runtime.sources.base import Pace

RATE = 500
"""Faster than a camera, so that a p99.9 needs seconds and not minutes."""


def main(kind: str, releases: str) -> dict[str, Any]:
    """Release so many frames, `spun` or `slept`; lateness in µs, and the share of a core that waiting cost."""
    realtime = Realtime() if kind == "spun" else OFF
    pace, late = Pace(RATE, realtime.spin_us), list[int]()
    with realtime.loop():
        cost = Cost()
        for index in range(int(releases)):
            due = pace.wait(index)
            late.append(time.monotonic_ns() - due)
    return {
        **{f"p{tail:g}".replace(".", "_"): percentile(late, tail) / 1e3 for tail in (50, 99, 99.9, 100)},
        "core_share_at_30_hz": cost.share() * 30 / RATE,
        "samples": len(late),
    }


if __name__ == "__main__":
    answer(main)
