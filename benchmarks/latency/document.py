"""A latency report's results as they are written and read again: typed, so that a file that is none is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from benchmarks import record
from edge_cnnlstm.errors import ConfigError


class Percentile(BaseModel):
    """A percentile in µs; None from fewer samples than `needed`, of which ten may lie above it.

    `at_most_us` is MLPerf's early-stopping estimate, which it does not exceed with 99 % confidence; it asks for
    `at_most_needs` samples.
    """

    us: float | None
    needed: int
    at_most_us: float | None
    at_most_needs: int


class Stage(BaseModel):
    """What one stage of a frame took, in µs; the p99 is None from too few samples."""

    p50_us: float
    p99_us: float | None
    mean_us: float


class Loop(BaseModel):
    """One case in one loop.

    `samples_ns` are all samples, round by round: the time of a step in a closed loop, that of a frame's response since
    it was due in an open one. `late` are those of an open loop that took longer than a period. `scheduler` is what the
    system let the open loop run under.
    """

    samples_ns: list[list[int]]
    percentiles: dict[str, Percentile]
    stages: dict[str, Stage]
    late: int | None = None
    scheduler: str | None = None

    @property
    def samples(self) -> list[int]:
        """All rounds in one."""
        return [sample for turn in self.samples_ns for sample in turn]


class Measured(BaseModel):
    """One case: what ran, and what it took in each loop."""

    name: str
    backend: str
    graph: str
    dialect: str
    precision: str
    threads: int
    batch: int
    control: bool
    loops: dict[str, Loop]


class Schedule(BaseModel):
    """How much was measured; see `cases.Plan`."""

    loops: list[str]
    rounds: int
    steps: int
    window: int
    rate: float
    seconds: float
    seed: int
    warm_up_frames: int


class Moved(BaseModel):
    """A median round that differs from an older run's by more than noise: `ratio` is new ÷ old, within its interval.

    `noise` is the ratio that the controls of either run reach without any difference.
    """

    case: str
    loop: str
    old_us: float
    new_us: float
    ratio: float
    low: float
    high: float
    noise: float


class Comparison(BaseModel):
    """This run against an older one: what makes them hard to compare, what moved, and what cannot be told."""

    started: str
    differences: list[str]
    compared: int
    moved: list[Moved]
    untold: list[str]


class Bundle(BaseModel):
    """Which bundle was measured."""

    name: str
    sha256: str


class Machine(BaseModel):
    """Where: what has to be the same for two runs to be compared."""

    cpu: str | None
    architecture: str
    cores: int
    memory_bytes: int
    governor: str | None


class Report(BaseModel):
    """A whole report; what is not named here is for people."""

    schema_version: Literal[2]
    suite: Literal["latency"]
    started: str
    bundle: Bundle
    machine: Machine
    versions: dict[str, str]
    plan: Schedule
    cases: list[Measured]
    comparison: Comparison | None = None


def parse(document: dict[str, Any]) -> Report:
    """Return a report that this program wrote; raises pydantic's ValidationError for anything else."""
    return Report.model_validate(document)


def read(path: Path) -> Report:
    """Read a report's file; raises ConfigError when it cannot be read, is older, or is no such report."""
    try:
        return parse(record.read(path))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"{path.name} is no latency report: {'.'.join(map(str, first['loc']))}: {first['msg']}",
            expected="what `python -m benchmarks latency -o` wrote",
            fix="name another file",
        ) from error
