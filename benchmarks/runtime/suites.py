"""What each suite measures, by name: every measurement is a program of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.processes import run
from benchmarks.runtime import cold
from benchmarks.runtime.recovery import POLICIES, STALLS

RELEASES = 3_000
"""Of each kind, a round: seven rounds are the 20,140 samples that a p99.9 needs."""
PACED_FRAMES = 150
JITTERED_FRAMES = 300
"""Of ours, a round: seven rounds are the 2,010 intervals that a p99 needs."""
STREAMS = 8
TOGETHER = 200
RETAINED_FRAMES = 200_000
Measurement = Callable[[], dict[str, Any]]
Measurements = dict[str, Measurement]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a graph of a bundle in an engine.

    `checkpoint` is the same network's, None where torch is not asked for; `soak_s` are seconds; in `folder` there is
    room for files.
    """

    path: Path
    backend: str
    graph: str
    checkpoint: Path | None
    soak_s: float
    folder: Path

    @property
    def words(self) -> tuple[Path, str, str]:
        """What a program is told of it."""
        return self.path.resolve(), self.backend, self.graph


def measurements(suites: tuple[str, ...], subject: Subject) -> Measurements:
    """Return what to measure, by name, suite after suite."""
    return {name: each for suite in suites for name, each in _MEASUREMENTS[suite](subject).items()}


def _program(name: str, *words: object) -> Measurement:
    return partial(run, f"benchmarks.runtime.{name}", *words)


def _overhead(_: Subject) -> Measurements:
    return {"overhead": _program("overhead")}


def _release(_: Subject) -> Measurements:
    return {f"release {kind}": _program("release", kind, RELEASES) for kind in ("spun", "slept")}


def _paced(subject: Subject) -> Measurements:
    path, backend, graph = subject.words
    ours = {"closed": ("closed", PACED_FRAMES), "paced ours": ("ours", JITTERED_FRAMES)}
    ours |= {"closed again": ("closed", PACED_FRAMES), "paced untuned": ("untuned", PACED_FRAMES)}
    return {name: _program("paced", path, kind, backend, graph, frames) for name, (kind, frames) in ours.items()}


def _recovery(subject: Subject) -> Measurements:
    return {
        f"recovery {stalls} {policy}": _program("recovery", *subject.words, stalls, policy)
        for stalls in STALLS
        for policy in POLICIES
    }


def _group(subject: Subject) -> Measurements:
    return {
        f"{STREAMS} streams on {threads} thread{'s' if threads > 1 else ''}": _program(
            "together", *subject.words, STREAMS, threads, TOGETHER
        )
        for threads in (1, 2)
    }


def _cold(subject: Subject) -> Measurements:
    found = {"cold ours": _program("cold", cold.OURS, *subject.words)}
    if subject.backend == "onnxruntime":
        found["cold floor"] = _program("cold", cold.FLOOR, cold.graph_file(subject.path, subject.graph, subject.folder))
    if subject.checkpoint is not None:
        found["cold torch"] = _program("cold", cold.TORCH, *cold.torch_files(subject.checkpoint, subject.folder))
    return found


def _retained(subject: Subject) -> Measurements:
    return {"retained": _program("retained", *subject.words, RETAINED_FRAMES)}


def _soak(subject: Subject) -> Measurements:
    return {"soak": _program("soak", *subject.words, subject.soak_s)}


_MEASUREMENTS: dict[str, Callable[[Subject], Measurements]] = {
    "overhead": _overhead,
    "release": _release,
    "paced": _paced,
    "recovery": _recovery,
    "group": _group,
    "retained": _retained,
    "cold": _cold,
    "soak": _soak,
}
SUITES = tuple(_MEASUREMENTS)
