"""One case in a process of its own: opened once, then asked for turns, each in one of the loops."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks.latency.loops import Together, at_rate, closed, windows
from benchmarks.processes import Message, serve
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.opening import open_group, open_stream
from edge_cnnlstm.runtime.realtime import OFF, Realtime
from edge_cnnlstm.runtime.stream import Stream


def opened(path: str, backend: str, graph: str, threads: str, batch: str) -> tuple[Message, partial[Message]]:
    """Open a stream, or a group of more than one, and prove it on the golden rollout."""
    frames, cores = list(bundle_format.read(path).golden.frames), int(threads)
    if batch == "1":
        return {}, partial(turn, open_stream(path, backend=backend, graph=graph, threads=cores, strict=True), frames)
    group = open_group(path, int(batch), backend=backend, graph=graph, threads=cores, strict=True)
    return {}, partial(turn, Together(group), frames)


def turn(stream: Stream | Together, frames: Sequence[Pixels], request: Message) -> Message:
    """Take a turn of so many `steps` in a `loop`; `window` is in frames, `rate` in frames a second.

    A window has no stages: its time is that of all its steps.
    """
    loop, steps = request["loop"], request["steps"]
    if loop == "window":
        return {"samples_ns": windows(stream, frames, steps, request["window"]).samples_ns, "stages_ns": {}}
    if loop == "closed":
        timed = closed(stream, frames, steps)
        return {"samples_ns": timed.samples_ns, "stages_ns": timed.stages_ns}
    timed, scheduler = at_rate(stream, frames, steps, request["rate"], Realtime() if loop == "open" else OFF)
    return {"samples_ns": timed.samples_ns, "stages_ns": timed.stages_ns, "scheduler": scheduler}


if __name__ == "__main__":
    serve(opened)
