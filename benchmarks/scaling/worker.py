"""One network in ONNX Runtime, in a process of its own: a stream, a group of streams, or a window run again."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np

from benchmarks.latency import WARM_UP_FRAMES, rerun
from benchmarks.processes import Message, Turn, serve
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.runtime.backends.base import Backend
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.group import StreamGroup
from edge_cnnlstm.runtime.proof import prove
from edge_cnnlstm.runtime.selection import load_engine
from edge_cnnlstm.runtime.stream import Stream

Answer = Callable[[Any], object]


def opened(path: str, graph: str, mode: str, frames: str, threads: str) -> tuple[Message, Turn]:
    """Open a bundle's graph, which proves itself, and return how far it strays from FP32, and what takes a turn.

    `mode` says what one call is: a stream's step, the batched step of `frames` streams, or a window of `frames`.
    """
    bundle, count = bundle_format.read(path), int(frames)
    streams = count if mode == "group" else 1
    chosen = bundle.manifest.graph(graph)
    backend = load_engine(bundle, chosen, "onnxruntime", threads=int(threads), streams=streams)
    strays = prove(backend, bundle.golden, bundle.golden.expected[graph], chosen.tolerance).largest
    answer, arguments = _calls(backend, list(bundle.golden.frames), mode, count)
    return {"deviation": strays}, partial(_turn, backend, answer, arguments, math.ceil(WARM_UP_FRAMES / count))


def _calls(backend: Backend, seen: Sequence[Pixels], mode: str, count: int) -> tuple[Answer, Sequence[Any]]:
    """Return what one call of a mode is, and what it is given in turn."""
    if mode == "stream":
        return Stream(backend).step, seen
    rolled = [list(islice(cycle(seen), at, at + count)) for at in range(len(seen))]
    if mode == "window":
        return partial(rerun, Stream(backend)), rolled
    group = StreamGroup(backend)
    members = [group.join() for _ in range(count)]
    return group.step, [dict(zip(members, frames, strict=True)) for frames in rolled]


def _turn(backend: Backend, answer: Answer, arguments: Sequence[Any], warm_up: int, request: Message) -> Message:
    """Return nanoseconds per call, after a warm-up, and the CPU time of all of them together.

    `subnormal` are the numbers of the memory that are so at the end.
    """
    clock, samples = time.monotonic_ns, list[int]()
    for argument in islice(cycle(arguments), warm_up):
        answer(argument)
    asked = list(islice(cycle(arguments), request["steps"]))
    computed = time.process_time_ns()
    for argument in asked:
        begun = clock()
        answer(argument)
        samples.append(clock() - begun)
    computed = time.process_time_ns() - computed
    slow = sum(map(subnormal, backend.state.snapshot().values()))
    return {"samples_ns": samples, "cpu_ns": computed, "subnormal": slow}


def subnormal(values: np.ndarray) -> int:
    """Count the float32 numbers so small that a processor computes them by a slow detour."""
    sizes = np.abs(values)
    return int(np.count_nonzero((sizes > 0) & (sizes < np.finfo(np.float32).tiny)))


if __name__ == "__main__":
    serve(opened)
