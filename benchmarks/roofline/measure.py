"""Peaks, floors, and what is taken: measured in turns, so that all of it is of one machine in one state."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.bundle import reference_of
from benchmarks.goals import Figure, median, ratio
from benchmarks.processes import Advance, Message, Turns, Worker, take_turns
from benchmarks.roofline.boards import BOARDS, Board
from benchmarks.roofline.floor import arithmetic, bounds, total
from benchmarks.roofline.instructions import load_llvm
from benchmarks.roofline.peaks import Peaks, best
from benchmarks.roofline.taken import taken
from benchmarks.roofline.work import Work, work_of
from benchmarks.statistics import percentile
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.manifest import Graph, Manifest
from edge_cnnlstm.errors import BackendError
from edge_cnnlstm.runtime import choice
from edge_cnnlstm.runtime.choice import ENGINES, Candidate
from edge_cnnlstm.runtime.optional import is_installed
from edge_cnnlstm.runtime.selection import preferred_graph, sound_graphs

WARM_UP = 32
PEAK_SECONDS = 0.1
"""Of tries for each peak in a turn; there are some twenty."""
GOAL = 3.0
"""Times the compute floor that a step may take."""
PEAKS, STEP, AGAIN, KERNELS = "peaks", "step", "step again", "kernels"


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: each of `rounds` times `steps`, on `threads` cores, in an order drawn by `seed`."""

    rounds: int = 7
    steps: int = 300
    threads: int = 1
    seed: int = 0


def measured(path: Path, plan: Plan, started: Callable[[int], Advance]) -> dict[str, Any]:
    """Measure a bundle, and return what a report says of it; `started` as `take_turns` has it.

    Raises DependencyError without llvmlite, and BackendError when an engine fails.
    """
    load_llvm()
    bundle = bundle_format.read(path)
    manifest = bundle.manifest
    works = {graph.name: work_of(bundle.graph(graph.name)) for graph in manifest.graphs}
    cases = candidates(path, manifest, reference_of(bundle), plan.threads)
    workers = [Worker(PEAKS, "benchmarks.roofline.peaks", plan.threads, PEAK_SECONDS)]
    for case in cases:
        words = (path.resolve(), case.graph.name, case.backend, plan.threads)
        parts = {STEP: "step", KERNELS: "kernels"} | ({AGAIN: "step"} if case == cases[0] else {})
        workers += [
            Worker(f"{case.name} {part}", f"benchmarks.roofline.{module}", *words) for part, module in parts.items()
        ]
    turns = take_turns(workers, {"warm_up": WARM_UP, "steps": plan.steps}, plan.rounds, plan.seed, started)
    return {"plan": asdict(plan) | {"warm_up_steps": WARM_UP}} | results(manifest.graphs, cases, works, turns)


def results(
    graphs: Sequence[Graph], cases: Sequence[Candidate], works: dict[str, Work], turns: Turns
) -> dict[str, Any]:
    """Return what the turns of all workers say, as the report has it; the first case is the one with a goal."""
    peaks = best(turns.answers[PEAKS])
    ran = [case for case in cases if {f"{case.name} {STEP}", f"{case.name} {KERNELS}"} <= turns.answers.keys()]
    if cases[0] not in ran:
        raise BackendError(
            f"{cases[0].name} ran when it was chosen, and does not now: {'; '.join(turns.refused.values())}",
            expected="an engine that opens its graph each time",
            fix="run it again",
        )
    return {
        "ratios": [figure.document() for figure in figures(ran, works, peaks, turns)],
        "peaks": {"macs_per_second": peaks.macs, "read": peaks.read, "turns": turns.answers[PEAKS]},
        "graphs": [
            {"name": each.name, "dialect": each.dialect, "precision": each.precision}
            | of_graph(works[each.name], peaks)
            for each in graphs
        ],
        "cases": [of_case(case, works[case.graph.name], turns) for case in ran],
        "boards": [of_board(board, works) for board in BOARDS],
        "order": turns.order,
        "missing": turns.refused,
    }


def candidates(path: Path, manifest: Manifest, reference: str, threads: int) -> list[Candidate]:
    """Return what is compared with its floor: what `auto` takes on this processor, and FP32 in each engine."""
    auto = choice.fastest(path, manifest, sound_graphs(manifest), threads=threads, streams=1)
    if auto.backend not in ENGINES:
        auto = Candidate(ENGINES[0], preferred_graph(manifest))
    plain = manifest.graph(reference)
    others = [Candidate(engine, plain) for engine in ENGINES if is_installed(engine)]
    return [auto, *(each for each in others if each != auto)]


def figures(cases: Sequence[Candidate], works: dict[str, Work], peaks: Peaks, turns: Turns) -> list[Figure]:
    """Return each step over its compute floor, which is held against the goal for the first, and the control."""
    found = []
    for number, case in enumerate(cases):
        floor = bounds(works[case.graph.name], peaks)
        rounds = turns.samples(f"{case.name} {STEP}")
        count, typical = sum(map(len, rounds)), [percentile(samples, 50) / 1e9 for samples in rounds]
        goal = None if number else GOAL
        found += [
            median(f"{case.name}: step / compute floor", [each / arithmetic(floor) for each in typical], count, goal),
            median(f"{case.name}: step / floor", [each / total(floor) for each in typical], count),
        ]
    first = cases[0].name
    control = ratio(
        f"{first}: control, the same step again", turns.samples(f"{first} {AGAIN}"), turns.samples(f"{first} {STEP}")
    )
    return [*found, control]


def of_graph(work: Work, peaks: Peaks) -> dict[str, Any]:
    """Return a graph's layers, and its floors where this processor multiplies in its precisions; microseconds."""
    rows = [
        {
            "name": layer.name,
            "operator": layer.node,
            "precision": layer.precision,
            "macs": layer.macs,
            "needed_macs": layer.needed,
            "weight_bytes": layer.weights,
            "activation_bytes": layer.activations,
        }
        for layer in work.layers
    ]
    found: dict[str, Any] = {
        "macs": work.macs,
        "weight_bytes": work.weights,
        "working_set_bytes": work.working_set,
        "elementwise_bytes": work.elementwise_bytes,
        "floors_us": None,
        "layers": rows,
    }
    if all(layer.precision in peaks.macs for layer in work.layers):
        warm, cold = bounds(work, peaks), bounds(work, peaks, cold=True)
        for row, each, other in zip(rows, warm, cold, strict=True):
            row |= {
                "compute_us": each.compute * 1e6,
                "memory_us": each.memory * 1e6,
                "floor_us": each.seconds * 1e6,
                "cold_floor_us": other.seconds * 1e6,
            }
        floors = {"compute": arithmetic(warm), "warm": total(warm), "cold": total(cold)}
        found["floors_us"] = {name: seconds * 1e6 for name, seconds in floors.items()}
    return found


def of_case(case: Candidate, work: Work, turns: Turns) -> dict[str, Any]:
    """Return what an engine took: its steps, and the median round of each layer's kernels."""
    step, profiles = turns.samples(f"{case.name} {STEP}"), turns.answers[f"{case.name} {KERNELS}"]
    rounds = [taken(work.layers, turn["kernels"]) for turn in profiles]
    return {
        "name": case.name,
        "graph": case.graph.name,
        "backend": case.backend,
        "step_us": statistics.median(percentile(samples, 50) for samples in step) / 1e3,
        "samples": sum(map(len, step)),
        "layers_us": {
            layer.name: statistics.median(each.layers[layer.name] for each in rounds) for layer in work.layers
        },
        "kinds": rounds[0].kinds,
        "other_us": statistics.median(each.other for each in rounds),
        "kernels_us": statistics.median(each.kernels for each in rounds),
        "profiler_us": statistics.median(turn["profiler_us"] for turn in profiles),
        "profiles": profiles,
        "samples_ns": step,
    }


def of_board(board: Board, works: dict[str, Work]) -> Message:
    """Return what a board's public figures predict for each graph that they cover; microseconds."""
    found = {name: board.bounds(work) for name, work in works.items() if board.predicts(work)}
    graphs = {
        name: {"compute_us": arithmetic(each) * 1e6, "floor_us": total(each) * 1e6} for name, each in found.items()
    }
    return asdict(board) | {"prediction": True, "graphs": graphs}
