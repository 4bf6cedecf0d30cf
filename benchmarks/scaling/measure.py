"""The measurement: a bundle for every network, a process for every case, and what follows from the samples."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import goals
from benchmarks.goals import Figure
from benchmarks.processes import Turns, Worker, take_turns
from benchmarks.progress import bar
from benchmarks.scaling.fit import growth
from benchmarks.scaling.networks import macs_of, untrained, write_bundle
from benchmarks.scaling.sweeps import GRAPHS, Case, Plan, Settings, Sweep
from benchmarks.statistics import interval, percentile

FEWEST = 30
"""Timed calls in a turn of the most expensive case."""
LONG_WINDOW = 16
GOAL = 13.0
"""Least saving of a stream over a window of 16 frames."""
Key = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A bundle of an untrained network, and the multiply-accumulates of its step and of the CNN in it."""

    path: Path
    macs: int
    cnn_macs: int


def measured(sweeps: Sequence[Sweep], plan: Plan, folder: Path) -> dict[str, Any]:
    """Measure some sweeps and return the results as JSON data, samples in nanoseconds; `folder` takes the bundles.

    Raises ConfigError for a preset or settings that no network has, and BackendError when a process dies.
    """
    networks = _networks(sweeps, plan, folder)
    found = [_run(sweep, networks, plan) for sweep in sweeps]
    return {
        "loop": "closed",
        "plan": asdict(plan),
        "ratios": [figure.document() for one in found for figure in figures(one)],
        "sweeps": found,
    }


def figures(found: Mapping[str, Any]) -> list[Figure]:
    """Return what one sweep says: exponents, windows over streams, and the same case twice."""
    cases: list[dict[str, Any]] = found["cases"]
    name, said = found["name"], list[Figure]()
    for precision, fitted in found["growth"].items():
        rounds = [each for each in fitted["rounds"] if each is not None]
        if rounds:
            count = sum(case["samples"] for case in _fitted(found, precision))
            said.append(goals.median(f"{name}: exponent, {precision}", rounds, count))
    of = {case["name"]: case["samples_ns"] for case in cases}
    for case in cases:
        stream = f"{case['precision']} stream 1"
        if case["mode"] == "window" and stream in of:
            goal = GOAL if case["point"] == LONG_WINDOW else None
            text = f"window of {case['point']} ÷ streaming, {case['precision']}"
            said.append(goals.ratio(text, of[case["name"]], of[stream], goal=goal))
    for control in (case for case in cases if case["control"]):
        other = control["name"].removesuffix(" control")
        if other in of:
            said.append(goals.ratio(f"{name}: control, {other} twice", of[control["name"]], of[other]))
    return said


def _networks(sweeps: Sequence[Sweep], plan: Plan, folder: Path) -> dict[Key, Network]:
    """Write a bundle for every network that the sweeps ask for, and return them by their settings."""
    wanted = {_key(settings): settings for settings in ({}, *(each for sweep in sweeps for each in _settings(sweep)))}
    made = {}
    with bar("exporting networks") as started:
        advance = started(len(wanted))
        for number, (key, settings) in enumerate(wanted.items()):
            network = untrained(plan.network, settings)
            path, macs = folder / f"{number}.edge", macs_of(network)
            write_bundle(network, path)
            made[key] = Network(path, macs.step, macs.cnn)
            advance(", ".join(f"{name} {value}" for name, value in key) or plan.network)
    return made


def _settings(sweep: Sweep) -> list[Settings]:
    return [sweep.settings(point) for point in sweep.points]


def _key(settings: Settings) -> Key:
    return tuple(settings.items())


def _run(sweep: Sweep, networks: Mapping[Key, Network], plan: Plan) -> dict[str, Any]:
    """Measure one sweep, each case in a process of its own."""
    cases = {case.name: case for case in sweep.cases()}
    behind = {name: networks[_key(sweep.settings(case.point))] for name, case in cases.items()}
    macs = {name: behind[name].macs * case.frames for name, case in cases.items()}
    steps = {name: _steps(plan.steps, networks[()].macs / count) for name, count in macs.items()}
    with bar(f"measuring {sweep.name}") as started:
        workers = [_worker(case, behind[name].path, plan) for name, case in cases.items()]
        turns = take_turns(workers, lambda name: {"steps": steps[name]}, plan.rounds, plan.seed, started)
    rows = [_case(case, turns, behind[name], macs[name]) for name, case in cases.items() if name in turns.ready]
    found = asdict(sweep) | {"cases": rows, "order": turns.order, "refused": turns.refused}
    return found | {"growth": {precision: _growth(found, precision) for precision in GRAPHS}}


def _worker(case: Case, path: Path, plan: Plan) -> Worker:
    words = (path, GRAPHS[case.precision], case.mode, case.frames, plan.threads)
    return Worker(case.name, "benchmarks.scaling.worker", *words)


def _steps(steps: int, share: float) -> int:
    """Return the timed calls of a case that costs the preset's step ÷ `share`, so that all turns are about as long."""
    return min(steps, max(FEWEST, round(steps * share)))


def _case(case: Case, turns: Turns, network: Network, macs: int) -> dict[str, Any]:
    samples = turns.samples(case.name)
    p50s = [percentile(turn, 50) / 1e3 for turn in samples]
    answers = turns.answers[case.name]
    return {
        "name": case.name,
        **asdict(case),
        "p50_us": statistics.median(p50s),
        "p50_interval_us": interval(p50s),
        "macs": macs,
        "macs_features_kept": network.cnn_macs + (network.macs - network.cnn_macs) * case.frames,
        "samples": sum(map(len, samples)),
        "deviation": turns.ready[case.name]["deviation"],
        "subnormal": sum(answer["subnormal"] for answer in answers),
        "waiting_cpu_s": [answer["waiting_cpu_s"] for answer in answers],
        "samples_ns": samples,
    }


def _fitted(found: Mapping[str, Any], precision: str) -> list[dict[str, Any]]:
    """Return the cases that a growth is fitted to, by point."""
    return [
        case
        for case in found["cases"]
        if (case["precision"], case["mode"], case["control"]) == (precision, found["mode"], False)
        and case["point"] >= found["fitted_from"]
    ]


def _growth(found: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """Fit every round of a sweep, and what the MACs alone would make of it; None where points are too few."""
    cases = _fitted(found, precision)
    points = [case["point"] for case in cases]

    def exponent(values: Sequence[float]) -> float | None:
        fitted = growth(points, values, offset=found["offset"])
        return None if fitted is None else fitted.exponent

    rounds = zip(*(case["samples_ns"] for case in cases), strict=True)
    return {
        "rounds": [exponent([percentile(turn, 50) for turn in turns]) for turns in rounds],
        "by_macs": exponent([case["macs"] for case in cases]),
    }
