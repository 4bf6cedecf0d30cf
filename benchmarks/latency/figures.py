"""From samples to percentiles, stages and ratios."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.goals import Figure, ratio
from benchmarks.latency.cases import LOOPS, OPEN, Case, Plan, reference
from benchmarks.latency.document import Loop, Measured, Percentile, Stage
from benchmarks.latency.early_stopping import at_most, samples_needed
from benchmarks.processes import Message
from benchmarks.statistics import PERCENTS, percentile

ABOVE = 10
"""A percentile is shown once so many samples may lie above it."""
WINDOW_GOAL, TAIL_GOAL = 13.0, 1.2


def measured(case: Case, answers: Mapping[str, Sequence[Message]], plan: Plan) -> Measured:
    """Return what a case took; `answers` are its worker's, by loop, round by round."""
    graph = case.graph
    return Measured(
        name=case.name,
        backend=case.backend,
        graph=graph.name,
        dialect=graph.dialect,
        precision=graph.precision,
        threads=case.threads,
        batch=case.batch,
        control=case.control,
        loops={loop: _loop(loop, answers[loop], plan) for loop in plan.loops},
    )


def figures(cases: Sequence[Case], found: Mapping[str, Measured], window: int) -> list[Figure]:
    """Return the ratios of what was measured, the control's last: each taken within a round, unless it is of tails."""
    running = [case for case in cases if case.name in found]
    base = found[reference(running).name]
    own = [one for one in found.values() if not one.control]
    ratios = [figure for one in own for figure in _within(one, window)]
    ratios += [_between(one, base, "closed") for one in own if one is not base and "closed" in one.loops]
    controls = [one for one in found.values() if one.control]
    return ratios + [_between(one, base, loop) for one in controls for loop in one.loops]


def _within(one: Measured, window: int) -> list[Figure]:
    """Return how a case's loops compare with each other, and its closed loop's tail with its median."""
    rounds = {loop: found.samples_ns for loop, found in one.loops.items()}
    if "closed" not in rounds:
        return []
    closed, streaming = one.loops["closed"], rounds["closed"]
    ratios = []
    if "window" in rounds:
        name = f"{one.name}: window of {window} ÷ step, p50"
        ratios.append(ratio(name, rounds["window"], streaming, goal=WINDOW_GOAL))
    paced = [loop for loop in OPEN if loop in rounds]
    ratios += [ratio(f"{one.name}: {LOOPS[loop]} ÷ closed, p50", rounds[loop], streaming) for loop in paced]
    p50, p99 = (closed.percentiles[name].us for name in ("p50", "p99"))
    if p50 and p99:
        name = f"{one.name}: closed, p99 ÷ p50 of all rounds"
        ratios.append(Figure(name, p99 / p50, len(closed.samples), goal=TAIL_GOAL, at_most=True))
    return ratios


def _between(one: Measured, base: Measured, loop: str) -> Figure:
    name = f"{one.name} ÷ {base.name}: {LOOPS[loop]}, p50"
    return ratio(name, one.loops[loop].samples_ns, base.loops[loop].samples_ns)


def _loop(loop: str, answers: Sequence[Message], plan: Plan) -> Loop:
    rounds = [answer["samples_ns"] for answer in answers]
    samples = [sample for turn in rounds for sample in turn]
    late = sum(sample > 1e9 / plan.rate for sample in samples) if loop in OPEN else None
    return Loop(
        samples_ns=rounds,
        percentiles={name: _percentile(samples, percent) for name, percent in PERCENTS.items()},
        stages=_stages([answer["stages_ns"] for answer in answers]),
        late=late,
        scheduler=answers[0].get("scheduler"),
    )


def _percentile(samples: Sequence[int], percent: float) -> Percentile:
    needed, bound = samples_needed(percent, ABOVE), at_most(samples, percent)
    return Percentile(
        us=percentile(samples, percent) / 1e3 if len(samples) >= needed else None,
        needed=needed,
        at_most_us=None if bound is None else bound / 1e3,
        at_most_needs=samples_needed(percent),
    )


def _stages(turns: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Stage]:
    stages = {}
    for name in turns[0]:
        spent = [sample for turn in turns for sample in turn[name]]
        if spent:
            p99 = percentile(spent, 99) / 1e3 if len(spent) >= samples_needed(99, ABOVE) else None
            mean = statistics.fmean(spent) / 1e3
            stages[name] = Stage(p50_us=percentile(spent, 50) / 1e3, p99_us=p99, mean_us=mean)
    return stages
