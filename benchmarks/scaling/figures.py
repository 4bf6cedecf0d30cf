"""What a sweep says: how fast its cost grows, what a window costs over a stream, and how much of it is noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import goals
from benchmarks.goals import Figure
from benchmarks.processes import UNDISTURBED
from benchmarks.scaling.fit import growth
from benchmarks.statistics import percentile

LONG_WINDOW = 16
GOAL = 13.0
"""Least saving of a stream over a window of 16 frames."""
Found = Mapping[str, Any]
"""One sweep as JSON data."""


def of_sweep(found: Found) -> list[Figure]:
    """Return a sweep's figures: its exponents, windows over streams, and the same case twice."""
    return [*_exponents(found), *_windows(found), *_controls(found)]


def swept(found: Found, precision: str) -> list[dict[str, Any]]:
    """Return the cases of one precision that what is varied tells apart, by point."""
    wanted = (precision, found["mode"], False)
    return [case for case in found["cases"] if (case["precision"], case["mode"], case["control"]) == wanted]


def fitted(found: Found, precision: str) -> list[dict[str, Any]]:
    """Return those that a growth is fitted to."""
    return [case for case in swept(found, precision) if case["point"] >= found["fitted_from"]]


def streaming(found: Found, precision: str) -> dict[str, Any] | None:
    """Return the stream that a sweep's windows are held against, if it ran."""
    wanted = (precision, "stream", False)
    cases = found["cases"] if found["mode"] == "window" else ()
    return next((case for case in cases if (case["precision"], case["mode"], case["control"]) == wanted), None)


def disturbance(sweeps: Sequence[Found]) -> str | None:
    """Say which case other programs kept from the cores the most, where that spoils the results."""
    shares = {
        f"{found['name']}, {case['name']}": sum(case["cpu_ns"]) / sum(map(sum, case["samples_ns"]))
        for found in sweeps
        for case in found["cases"]
    }
    worst = min(shares, key=shares.__getitem__, default="")
    if not worst or shares[worst] >= UNDISTURBED:
        return None
    return (
        f"other programs were running: {worst} had a core for {shares[worst]:.0%} of its time, and as long calls are "
        "interrupted more often than short ones, exponents and ratios are too large"
    )


def growth_of(found: Found, precision: str) -> dict[str, Any]:
    """Return the exponent of every round, and of the MACs; None where points are too few."""
    cases = fitted(found, precision)
    points = [case["point"] for case in cases]

    def exponent(values: Sequence[float]) -> float | None:
        fit = growth(points, values, offset=found["offset"])
        return None if fit is None else fit.exponent

    rounds = zip(*(case["samples_ns"] for case in cases), strict=True)
    return {
        "rounds": [exponent([percentile(turn, 50) for turn in turns]) for turns in rounds],
        "by_macs": exponent([case["macs"] for case in cases]),
    }


def exponent_name(found: Found, precision: str) -> str:
    """Return what the figure of an exponent is called."""
    return f"{found['name']}: exponent, {precision}"


def _exponents(found: Found) -> list[Figure]:
    said = []
    for precision, fits in found["growth"].items():
        rounds = [exponent for exponent in fits["rounds"] if exponent is not None]
        if rounds:
            samples = sum(case["samples"] for case in fitted(found, precision))
            said.append(goals.median(exponent_name(found, precision), rounds, samples))
    return said


def _windows(found: Found) -> list[Figure]:
    said = []
    for precision in found["growth"]:
        stream = streaming(found, precision)
        if stream is None:
            continue
        for case in swept(found, precision):
            text = f"window of {case['point']} ÷ streaming, {precision}"
            goal = GOAL if case["point"] == LONG_WINDOW else None
            said.append(goals.ratio(text, case["samples_ns"], stream["samples_ns"], goal=goal))
    return said


def _controls(found: Found) -> list[Figure]:
    by_name = {case["name"]: case for case in found["cases"]}
    said = []
    for case in found["cases"]:
        other = by_name.get(case["name"].removesuffix(" control")) if case["control"] else None
        if other is not None:
            text = f"{found['name']}: control, the same {case['precision']} twice"
            said.append(goals.ratio(text, case["samples_ns"], other["samples_ns"]))
    return said
