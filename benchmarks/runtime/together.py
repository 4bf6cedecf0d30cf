"""Several cameras: one batched step for all of them, against a step for each in turn, on the same cores."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.processes import answer
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.opening import open_group, open_stream

WARM_UP = 10


def main(path: str, backend: str, graph: str, streams: str, threads: str, rounds: str) -> dict[str, Any]:
    """Return frames a second, batched and in turn, taking turns themselves."""
    count, golden = int(streams), bundle_format.read(path).golden.frames
    lone = [open_stream(path, backend=backend, graph=graph, threads=int(threads)) for _ in range(count)]
    batched, in_turn = list[int](), list[int]()
    with open_group(path, count, backend=backend, graph=graph, threads=int(threads)) as group:
        members = [group.join() for _ in range(count)]
        for number in range(WARM_UP + int(rounds)):
            frames = [golden[(number + at) % len(golden)] for at in range(count)]
            begun = time.monotonic_ns()
            group.step(dict(zip(members, frames, strict=True)))
            between = time.monotonic_ns()
            for stream, pixels in zip(lone, frames, strict=True):
                stream.step(pixels)
            ended = time.monotonic_ns()
            batched.append(between - begun)
            in_turn.append(ended - between)
    for stream in lone:
        stream.close()
    together, alone = (sorted(samples[WARM_UP:])[int(rounds) // 2] for samples in (batched, in_turn))
    return {"batched_us": together / 1e3, "in_turn_us": alone / 1e3, "ratio": alone / together, "samples": int(rounds)}


if __name__ == "__main__":
    answer(main)
