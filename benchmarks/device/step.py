"""One engine in one wiring: a step from host to host, its launch, the GPU's own time, and the barest loop there is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from itertools import cycle
from typing import Any, Literal, cast

import numpy as np

from benchmarks.device.opened import opened
from benchmarks.processes import answer
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.gpu.block import ALIGNMENT
from edge_cnnlstm.gpu.capture import load_bindings
from edge_cnnlstm.runtime.backends.base import advance
from edge_cnnlstm.runtime.backends.trt import TensorRtBackend
from edge_cnnlstm.runtime.device_step import DIRECTIONS, DeviceStep, Wiring
from edge_cnnlstm.runtime.device_times import STAGES, DeviceTimes
from edge_cnnlstm.runtime.frame import Pixels
from edge_cnnlstm.runtime.realtime import Realtime
from edge_cnnlstm.spec import ModelSpec

TURNS = 5
WARM_UP_S = 0.5
"""Once, at the start: an idle GPU takes its time to raise its clocks."""
WARM_UP = 100
"""Calls before each turn."""
FRAMES = 64
"""Different ones, which take turns: a GPU may be quick with what it has seen just now."""

REALTIME = Realtime(keep_warm=False, spin_us=0, priority=None)
"""No garbage collection, and no SCHED_FIFO: the system takes a core away from a thread that spins under it."""


class Recorded(DeviceTimes):
    """Keeps the times of every step as they are, nanoseconds a stage: a histogram would round them."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[int]] = []

    def record(self, times_ns: Iterable[int]) -> None:
        self.rows.append(list(times_ns))


def main(path: str, graph: str, batch: str, transfer: str, launched: str, samples: str) -> dict[str, Any]:
    """Measure so many of each, in turns; `graph` is empty for the stand-in, `launched` "graph" or "enqueued"."""
    wiring = Wiring(cast("Literal['mapped', 'copied']", transfer), graphs=launched == "graph")
    backend, each = opened(path, graph or None, int(batch), wiring), -(-int(samples) // TURNS)
    if wiring.graphs and not backend.uses_graphs:
        raise BackendError(
            "no CUDA graphs here", expected="a replay that is right", fix="run this by hand: it warns why"
        )
    step, pixels = backend._step, noise(backend.spec)  # noqa: SLF001 - what is inside is what is measured
    backend.device_times = times = Recorded()
    found: dict[str, list[int]] = {"step_ns": [], "launch_ns": [], **({"bare_ns": []} if wiring.graphs else {})}
    gpu: list[list[int]] = []
    with REALTIME.loop():
        warm_up(lambda: advance(backend, next(pixels)))
        for _ in range(TURNS):
            found["step_ns"] += timed(lambda: advance(backend, next(pixels)), each)
            gpu += times.rows[-each:]
            with step._session:  # noqa: SLF001 - likewise
                found["launch_ns"] += launches(step, each)
                if wiring.graphs:
                    found["bare_ns"] += timed(bare(step, pixels), each)
    found |= {f"{stage}_ns": list(column) for stage, column in zip(STAGES, zip(*gpu, strict=True), strict=True)}
    found["gpu_ns"] = [sum(row) for row in gpu]
    memory = memory_copied(backend)
    backend.close()
    return {**found, "bytes_copied": backend.bytes_copied, "bytes_of_memory_copied": memory}


def noise(spec: ModelSpec) -> Iterator[Pixels]:
    """Return frames without end, one for each stream at a time."""
    return cycle(np.random.default_rng(0).integers(0, 256, (FRAMES, *spec.frame.shape), dtype=np.uint8))


def warm_up(call: Callable[[], object]) -> None:
    """Keep the GPU busy for WARM_UP_S."""
    until = time.monotonic() + WARM_UP_S
    while time.monotonic() < until:
        call()


def timed(call: Callable[[], object], count: int) -> list[int]:
    """Return the nanoseconds of so many calls, after some that are not timed."""
    clock, samples = time.perf_counter_ns, []
    for _ in range(WARM_UP):
        call()
    for _ in range(count):
        begun = clock()
        call()
        samples.append(clock() - begun)
    return samples


def launches(step: DeviceStep, count: int) -> list[int]:
    """Return how long it takes until a step is on its way; the GPU is idle each time."""
    clock, samples, at = time.perf_counter_ns, list[int](), cycle(DIRECTIONS)
    for _ in range(WARM_UP + count):
        launch = step._steps[next(at)]  # noqa: SLF001 - likewise
        begun = clock()
        launch()
        samples.append(clock() - begun)
        step._session.wait()  # noqa: SLF001 - likewise
    return samples[WARM_UP:]


def bare(step: DeviceStep, pixels: Iterator[Pixels]) -> Callable[[], None]:
    """Return what a C program would do with the very graphs: lay the frame down, launch, wait."""
    driver, into = load_bindings(), step.frames
    graphs = [cast("Any", launch).__self__ for launch in step._steps]  # noqa: SLF001 - likewise
    stream, executables = graphs[0]._stream, cycle([graph._graph for graph in graphs])  # noqa: SLF001 - likewise
    launch, wait = driver.cuGraphLaunch, driver.cuStreamSynchronize

    def loop() -> None:
        into[...] = next(pixels)
        launch(next(executables), stream)
        wait(stream)

    return loop


def memory_copied(backend: TensorRtBackend) -> int:
    """Return what a step copies beyond frames in and answers out; each of these begins at a multiple of ALIGNMENT."""
    spec = backend.spec
    sizes = [tensor.zeros().nbytes for tensor in (*spec.inputs, *spec.outputs)] + [4 * spec.batch]
    return max(0, backend.bytes_copied - sum(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes))


if __name__ == "__main__":
    answer(main)
