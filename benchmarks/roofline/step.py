"""The whole step in closed loop, uint8 in and label out, as a worker's process."""

from __future__ import annotations

import time
from itertools import cycle, islice

from benchmarks.processes import Message, Turn, serve
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.selection import load_engine
from edge_cnnlstm.runtime.stream import Stream


def main(path: str, graph: str, backend: str, threads: str) -> tuple[Message, Turn]:
    """Open a stream; a turn takes `warm_up` and `steps`, and answers nanoseconds a step."""
    bundle = bundle_format.read(path)
    stream = Stream(load_engine(bundle, bundle.manifest.graph(graph), backend, threads=int(threads)))
    frames = list(bundle.golden.frames)

    def turn(asked: Message) -> Message:
        stream.reset("turn")
        clock, step, samples = time.monotonic_ns, stream.step, list[int]()
        for frame in islice(cycle(frames), asked["warm_up"] + asked["steps"]):
            begun = clock()
            step(frame)
            samples.append(clock() - begun)
        return {"samples_ns": samples[asked["warm_up"] :]}

    return {}, turn


if __name__ == "__main__":
    serve(main)
