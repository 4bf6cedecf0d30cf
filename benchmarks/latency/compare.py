"""What moved since an older run, beyond what noise moves.

A loop of a case moved when two things hold. The interval of new ÷ old leaves out 1: it is Hodges and Lehmann's, the
pairwise ratios of rounds between the ranks that Mann and Whitney's exact test does not reject, at 99 % because many are
looked at. And the ratio is further from 1 than the controls of either run, whose two sides are the same thing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from benchmarks.goals import ratio
from benchmarks.latency.cases import LOOPS, OPEN
from benchmarks.latency.document import Comparison, Measured, Moved, Report
from benchmarks.statistics import percentile

LEVEL = 0.01


def compared(old: Report, new: Report) -> Comparison:
    """Compare the loops of the cases that both runs have, by their names."""
    before = {case.name: case for case in old.cases}
    pairs = [
        (before[case.name], case, loop)
        for case in new.cases
        if case.name in before and not case.control
        for loop in case.loops
        if loop in before[case.name].loops and _same_task(old, new, loop)
    ]
    noise = {loop: max(_noise(old, loop), _noise(new, loop)) for _, _, loop in pairs}
    found = [_change(*pair, noise[pair[2]]) for pair in pairs]
    return Comparison(
        started=old.started,
        differences=differences(old, new),
        compared=len(pairs),
        moved=[change for change in found if change is not None and _moved(change)],
        untold=[
            f"{new_case.name}, {LOOPS[loop]}"
            for (_, new_case, loop), change in zip(pairs, found, strict=True)
            if change is None
        ],
    )


def differences(old: Report, new: Report) -> list[str]:
    """Say what else differs between two runs, so that a ratio may be due to that."""
    said = []
    if old.bundle.sha256 != new.bundle.sha256:
        names = [f"{run.bundle.name} {run.bundle.sha256[:12]}" for run in (old, new)]
        said.append(f"another bundle: {names[0]}, now {names[1]}")
    for name in type(old.machine).model_fields:
        before, now = getattr(old.machine, name), getattr(new.machine, name)
        if before != now:
            said.append(f"another machine: {name} {before or 'unknown'}, now {now or 'unknown'}")
    for name in sorted({*old.versions, *new.versions}):
        before, now = old.versions.get(name), new.versions.get(name)
        if before != now:
            said.append(f"another version: {name} {before or 'missing'}, now {now or 'missing'}")
    if old.plan.rate != new.plan.rate:
        said.append(
            f"another rate: {old.plan.rate:g} frames a second, now {new.plan.rate:g}; open loops are not compared"
        )
    if old.plan.window != new.plan.window:
        said.append(f"another window: {old.plan.window} frames, now {new.plan.window}; windows are not compared")
    return said


def interval(old: Sequence[float], new: Sequence[float]) -> tuple[float, float] | None:
    """Return where new ÷ old lies, with 99 % confidence; None for too few rounds, which are five on either side."""
    outside = _outside(len(old), len(new))
    if outside < 0:
        return None
    ratios = sorted(after / before for after in new for before in old)
    return ratios[outside], ratios[-1 - outside]


def _outside(first: int, second: int) -> int:
    """Return how many pairs an interval leaves out on each side; below 0 there is none.

    Of all ways to shuffle two groups, `ways[u]` have u pairs in the wrong order: the coefficients of a Gaussian
    binomial, multiplied out factor by factor.
    """
    ways = [1] + [0] * (first * second)
    for k in range(1, first + 1):
        for u in range(first * second, second + k - 1, -1):
            ways[u] -= ways[u - second - k]
        for u in range(k, first * second + 1):
            ways[u] += ways[u - k]
    total, reached = math.comb(first + second, first), 0
    for outside, count in enumerate(ways):
        reached += count
        if 2 * reached > LEVEL * total:
            return outside - 1
    return 0


def _same_task(old: Report, new: Report, loop: str) -> bool:
    if loop in OPEN:
        return old.plan.rate == new.plan.rate
    return loop != "window" or old.plan.window == new.plan.window


def _change(old: Measured, new: Measured, loop: str, noise: float) -> Moved | None:
    before, after = (_medians(case, loop) for case in (old, new))
    found = interval(before, after)
    if found is None:
        return None
    then, now = statistics.median(before), statistics.median(after)
    return Moved(
        case=new.name,
        loop=loop,
        old_us=then / 1e3,
        new_us=now / 1e3,
        ratio=now / then,
        low=found[0],
        high=found[1],
        noise=noise,
    )


def _moved(change: Moved) -> bool:
    return not change.low <= 1 <= change.high and abs(math.log(change.ratio)) > math.log(change.noise)


def _noise(report: Report, loop: str) -> float:
    """Return how far from 1 a control's ratio may be, as a ratio above 1: the further end of its interval."""
    found = {case.name: case for case in report.cases}
    noise = 1.0
    for control in (case for case in report.cases if case.control and loop in case.loops):
        base = found[control.name.removesuffix(", control")]
        figure = ratio("control", control.loops[loop].samples_ns, base.loops[loop].samples_ns)
        ends = (figure.value, figure.low or figure.value, figure.high or figure.value)
        noise = max(noise, *ends, *(1 / end for end in ends))
    return noise


def _medians(case: Measured, loop: str) -> list[int]:
    return [percentile(turn, 50) for turn in case.loops[loop].samples_ns]
