"""What is compared: one graph in one engine, what it took, and how all of them take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Advance, Worker, take_turns
from benchmarks.statistics import percentile


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
    rounds: Sequence[Sequence[int]]
    waiting_cpu_s: Sequence[float] = ()

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


def measure(
    cases: Sequence[Case], bench: Bench, rounds: int, steps: int, seed: int, started: Callable[[int], Advance]
) -> tuple[list[Measured], list[list[str]], dict[str, str]]:
    """Give every case one turn a round, in an order drawn anew: what was measured, the orders, and who refused.

    Raises BackendError when a process dies once it has come up; all others are then stopped too.
    """
    turns = take_turns([_worker(case, bench) for case in cases], {"steps": steps}, rounds, seed, started)
    measured = [
        Measured(
            case,
            turns.ready[case.name]["deviation"],
            turns.samples(case.name),
            [found["waiting_cpu_s"] for found in turns.answers[case.name]],
        )
        for case in cases
        if case.name in turns.answers
    ]
    return measured, turns.order, turns.refused


def _worker(case: Case, bench: Bench) -> Worker:
    words = (bench.bundle.resolve(), bench.reference, case.graph, case.engine, bench.threads)
    return Worker(case.name, "benchmarks.engines.worker", *words, *([] if case.optimize else ["as-written"]))
