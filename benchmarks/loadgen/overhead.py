"""What LoadGen adds: the same stream asked by it, and by a plain loop, in processes that take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.goals import Figure, median
from benchmarks.latency import WARM_UP_FRAMES
from benchmarks.loadgen import summary
from benchmarks.loadgen.library import Library
from benchmarks.loadgen.package import load_loadgen
from benchmarks.loadgen.plan import Plan
from benchmarks.loadgen.scenario import SCENARIOS, Rehearsal, settings
from benchmarks.loadgen.system import OneCamera, System, drive, open_camera
from benchmarks.processes import Message, Turns, Worker, serve
from benchmarks.statistics import percentile
from edge_cnnlstm.bundle import format as bundle_format

LOADGEN, PLAIN, CONTROL = "LoadGen", "plain loop", "control"


def workers(plan: Plan) -> list[Worker]:
    """Return who takes turns: LoadGen, the plain loop, and the plain loop again."""
    return [Worker(name, "benchmarks.loadgen.overhead", plan.word(), name) for name in (LOADGEN, PLAIN, CONTROL)]


def figures(turns: Turns) -> list[Figure]:
    """Return what LoadGen's median is of the plain loop's, round by round, and what the control's is."""
    p50 = {name: [answer["p50_ns"] for answer in answers] for name, answers in turns.answers.items()}
    samples = sum(answer["steps"] for answer in turns.answers[PLAIN])
    return [
        median(name, [over / under for over, under in zip(p50[who], p50[PLAIN], strict=True)], samples)
        for name, who in (
            ("SingleStream in LoadGen ÷ plain loop, p50", LOADGEN),
            ("plain loop ÷ itself, p50 (control)", CONTROL),
        )
    ]


def opened(word: str, name: str) -> tuple[Message, Callable[[Message], Message]]:
    """Open the bundle for one stream, and take turns as one of the three."""
    plan = Plan.of(word)
    loadgen = load_loadgen()
    cameras = open_camera(plan)
    library = Library(bundle_format.read(Path(plan.bundle)).golden.frames, plan.frames)
    everything = range(plan.frames)
    measured = _with_loadgen if name == LOADGEN else _plainly

    def turn(request: Message) -> Message:
        library.load(everything)
        steps = int(request["steps"])
        for number in range(WARM_UP_FRAMES):
            cameras.step([library.frames[number % plan.frames]])
        return {"steps": steps, "p50_ns": measured(loadgen, plan, cameras, library, steps)}

    return {"backend": cameras.backend, "graph": cameras.graph}, turn


def _with_loadgen(loadgen: Any, plan: Plan, cameras: OneCamera, library: Library, steps: int) -> int:
    scenario = SCENARIOS["SingleStream"]
    chosen = settings(loadgen, scenario, plan, Rehearsal(1, 1, 0), accuracy=False)
    chosen.min_duration_ms, chosen.min_query_count = 0, steps
    with TemporaryDirectory() as folder:
        drive(loadgen, System(loadgen, cameras, library), library, chosen, Path(folder))
        return summary.parse(Path(folder, summary.FILE).read_text()).percentiles_ns["p50"]


def _plainly(_: Any, plan: Plan, cameras: OneCamera, library: Library, steps: int) -> int:
    """Draw frames as LoadGen does, each time anew, so that both sides read as much memory."""
    drawn: Sequence[int] = np.random.default_rng(0).integers(plan.frames, size=steps).tolist()
    clock, step, frames = time.monotonic_ns, cameras.stream.step, library.frames
    taken = []
    for number in drawn:
        frame = frames[number]
        begun = clock()
        step(frame)
        taken.append(clock() - begun)
    return percentile(taken, 50)


if __name__ == "__main__":
    serve(opened)
