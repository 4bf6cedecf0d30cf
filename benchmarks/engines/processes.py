"""The processes that engines run in: started once, asked for turns one at a time, stopped together."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, cast

import numpy as np

from benchmarks.latency import percentile
from edge_cnnlstm.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]
SETTLE_S = 0.1
"""Seconds between turns: ONNX Runtime's idle threads spin for 30 ms before they sleep, on cores that others need."""
Advance = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One graph in one engine.

    `form` says which of the network's forms the graph is, `source` which graph of the bundle or which way to quantize.
    Without `optimize` ONNX Runtime runs it node by node, as the runtime does with TensorRT's dialect.
    """

    engine: str
    form: str
    graph: Path
    source: str
    optimize: bool = True

    @property
    def name(self) -> str:
        """The case's name in every result."""
        return f"{self.engine} {self.form}"


@dataclass(frozen=True, slots=True)
class Measured:
    """What a case took: `rounds` has nanoseconds per step, turn by turn.

    `deviation` is the largest difference of an output from the FP32 graph's over the golden rollout, relative to the
    output's largest magnitude; None when it is not finite. `waiting_cpu_s` is what the process burnt while others had
    their turns, in CPU seconds.
    """

    case: Case
    deviation: float | None
    rounds: list[list[int]] = field(default_factory=list)
    waiting_cpu_s: list[float] = field(default_factory=list)

    @property
    def samples(self) -> list[int]:
        """All rounds in one."""
        return [sample for turn in self.rounds for sample in turn]

    @property
    def p50_ns(self) -> int:
        """The median step."""
        return percentile(self.samples, 50)


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cases share: the bundle's file, the name of its FP32 graph, and the cores one step may use."""

    bundle: Path
    reference: str
    threads: int


class Worker:
    """The process of one case, which loads while others do."""

    def __init__(self, case: Case, bench: Bench) -> None:
        self.case = case
        self._complaints = TemporaryFile("w+", errors="replace")  # noqa: SIM115 - lives as long as the process
        words = [str(bench.bundle.resolve()), bench.reference, str(case.graph), case.engine, str(bench.threads)]
        words += [] if case.optimize else ["as-written"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engines.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            cwd=ROOT,
        )

    def ready(self) -> Measured | str:
        """Wait until the engine is loaded. A string says why it refused the graph, or died of it."""
        try:
            answer = self._answer()
        except BackendError as error:
            return error.found
        return answer["refused"] if "refused" in answer else Measured(self.case, answer["deviation"])

    def turn(self, steps: int, measured: Measured) -> None:
        """Run one turn and add it to what was measured; raises BackendError when the process dies."""
        pipe = cast("IO[str]", self._process.stdin)
        try:
            pipe.write(json.dumps({"steps": steps}) + "\n")
            pipe.flush()
        except OSError as error:
            raise self._dead() from error
        answer = self._answer()
        measured.rounds.append(answer["samples_ns"])
        measured.waiting_cpu_s.append(answer["waiting_cpu_s"])

    def stop(self) -> None:
        """End the process; there is nothing in it to save."""
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    def _answer(self) -> dict[str, Any]:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line.endswith("\n"):
            raise self._dead()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _dead(self) -> BackendError:
        code = self._process.wait()
        self._complaints.seek(0)
        said = [line.strip() for line in self._complaints if line.strip()]
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return BackendError(
            f"the process of {self.case.name} ended with {how}: {said[-1] if said else 'it said nothing'}",
            expected="an engine that runs its graph to the end",
            fix="run it again; if it happens again, report it with the version of that engine",
        )


def measure(
    cases: Sequence[Case], bench: Bench, rounds: int, steps: int, seed: int, started: Callable[[int], Advance]
) -> tuple[list[Measured], list[list[str]], dict[str, str]]:
    """Give every case one turn a round, in an order drawn anew: what was measured, the orders, and who refused.

    `started` is told the number of turns and returns what is called after each. Raises BackendError when a process
    dies once it has come up; all others are then stopped too.
    """
    with ExitStack() as stack:
        workers = []
        for case in cases:
            workers.append(Worker(case, bench))
            stack.callback(workers[-1].stop)
        states = {worker: worker.ready() for worker in workers}
        running = [(worker, state) for worker, state in states.items() if isinstance(state, Measured)]
        refused = {worker.case.name: state for worker, state in states.items() if isinstance(state, str)}
        advance, draw, order = started(rounds * len(running)), np.random.default_rng(seed), []
        for _ in range(rounds):
            shuffled = [running[index] for index in draw.permutation(len(running))]
            for worker, measured in shuffled:
                time.sleep(SETTLE_S)
                worker.turn(steps, measured)
                advance()
            order.append([worker.case.name for worker, _ in shuffled])
        return [measured for _, measured in running], order, refused
