"""What a step leaves behind: bytes that Python keeps a frame, and how much more memory a long stream takes."""

from __future__ import annotations

import tracemalloc
from typing import Any

from benchmarks.processes import answer, resident_bytes
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.opening import open_stream

SETTLE = 4_096
TRACED = 4_096
"""Both are whole batches of the latency record, which is the only thing that waits to be put away."""


def main(path: str, backend: str, graph: str, frames: str) -> dict[str, Any]:
    """Step so many frames back to back; bytes that Python holds on to per frame, and growth of resident memory."""
    golden = bundle_format.read(path).golden.frames
    with open_stream(path, backend=backend, graph=graph, deadline_ms=1000 / 30) as stream:

        def step(count: int) -> None:
            for at in range(count):
                stream.step(golden[at % len(golden)])

        step(SETTLE)
        before = resident_bytes()
        step(int(frames))
        grown = resident_bytes() - before
        tracemalloc.start()
        step(TRACED)
        held = tracemalloc.get_traced_memory()[0]
        step(TRACED)
        held = tracemalloc.get_traced_memory()[0] - held
        tracemalloc.stop()
    return {"retained_bytes_a_frame": held / TRACED, "grown_bytes": grown, "samples": int(frames)}


if __name__ == "__main__":
    answer(main)
