"""The measurement: a bundle for every network, a process for every case, and what follows from the samples."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.processes import Turns, Worker, take_turns
from benchmarks.progress import bar
from benchmarks.scaling import figures
from benchmarks.scaling.networks import UNCHANGED, Key, Network, export_all, key_of
from benchmarks.scaling.sweeps import GRAPHS, Case, Plan, Sweep
from benchmarks.statistics import interval, percentile

FEWEST = 30
"""Timed calls in a turn of the most expensive case."""


def measured(sweeps: Sequence[Sweep], plan: Plan, folder: Path) -> dict[str, Any]:
    """Measure some sweeps and return the results as JSON data, samples in nanoseconds; `folder` takes the bundles.

    Raises ConfigError for a preset that there is not, and BackendError when a process dies.
    """
    networks = export_all(sweeps, plan.network, folder)
    found = [_run(sweep, networks, plan) for sweep in sweeps]
    return {
        "loop": "closed",
        "plan": asdict(plan),
        "ratios": [figure.document() for one in found for figure in figures.of_sweep(one)],
        "sweeps": found,
    }


def results(sweep: Sweep, turns: Turns, behind: Mapping[str, Network]) -> dict[str, Any]:
    """Return one sweep as JSON data, from what its workers answered and the network behind each, both by case."""
    rows = [_case(case, turns, behind[case.name]) for case in sweep.cases() if case.name in turns.ready]
    found = asdict(sweep) | {"cases": rows, "order": turns.order, "refused": turns.refused}
    return found | {"growth": {precision: figures.growth_of(found, precision) for precision in GRAPHS}}


def _run(sweep: Sweep, networks: Mapping[Key, Network], plan: Plan) -> dict[str, Any]:
    """Measure one sweep, each case in a process of its own."""
    behind = {case.name: networks[key_of(sweep, case.point)] for case in sweep.cases()}
    steps = {
        case.name: _steps(plan.steps, networks[UNCHANGED].macs / (behind[case.name].macs * case.frames))
        for case in sweep.cases()
    }
    with bar(f"measuring {sweep.name}") as started:
        workers = [_worker(case, behind[case.name].path, plan) for case in sweep.cases()]
        turns = take_turns(workers, lambda name: {"steps": steps[name]}, plan.rounds, plan.seed, started)
    return results(sweep, turns, behind)


def _worker(case: Case, path: Path, plan: Plan) -> Worker:
    words = (path, GRAPHS[case.precision], case.mode, case.frames, plan.threads)
    return Worker(case.name, "benchmarks.scaling.worker", *words)


def _steps(steps: int, share: float) -> int:
    """Return the timed calls of a case that costs the preset's step ÷ `share`, so that all turns are about as long."""
    return min(steps, max(FEWEST, round(steps * share)))


def _case(case: Case, turns: Turns, network: Network) -> dict[str, Any]:
    samples = turns.samples(case.name)
    p50s = [percentile(turn, 50) / 1e3 for turn in samples]
    answers = turns.answers[case.name]
    return {
        "name": case.name,
        **asdict(case),
        "p50_us": statistics.median(p50s),
        "p50_interval_us": interval(p50s),
        "macs": network.macs * case.frames,
        "macs_features_kept": network.cnn_macs + (network.macs - network.cnn_macs) * case.frames,
        "samples": sum(map(len, samples)),
        "deviation": turns.ready[case.name]["deviation"],
        "subnormal": sum(answer["subnormal"] for answer in answers),
        "cpu_ns": [answer["cpu_ns"] for answer in answers],
        "waiting_cpu_s": [answer["waiting_cpu_s"] for answer in answers],
        "samples_ns": samples,
    }
