"""MLPerf's four scenarios, and the settings that a run of each has.

Percentiles, seeds and the least numbers of queries are MLPerf's own: LoadGen carries its `mlperf.conf`. What
that leaves to the submitter comes from a rehearsal. LoadGen holds a run to the minimum duration that it is given, and
MLPerf asks for 600 s; a shorter one is VALID in LoadGen's words, and no submission. Nor is a longer one: the model is
none of MLPerf's.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from benchmarks.loadgen.plan import Plan
from benchmarks.loadgen.system import WITHOUT_COLLECTOR, Cameras, Queued, System
from edge_cnnlstm.runtime.frame import Pixels

OFFICIAL_S = 600
"""MLPerf's minimum duration."""
BOUND_NS = 33_333_333
"""Server's latency bound at its percentile: the period of a camera at 30 Hz."""
MOST_OFFLINE = 24_576
"""MLPerf's least number of Offline samples is that of its data set, or this where the data set is larger."""
REHEARSAL_NS = 2_000_000_000
LEAST_REHEARSED = 32
HASTE = 1.25
"""So much faster than its fastest rehearsed step Offline may turn out without ending before its minimum duration."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """`together`: several streams are stepped at once. `system` is how queries reach them."""

    name: str
    together: bool
    system: type[System]

    def streams(self, plan: Plan) -> int:
        """Return how many streams there are."""
        return plan.streams if self.together else 1


SCENARIOS = {
    each.name: each
    for each in (
        Scenario("SingleStream", together=False, system=System),
        Scenario("MultiStream", together=True, system=System),
        Scenario("Server", together=False, system=Queued),
        Scenario("Offline", together=True, system=Queued),
    )
}


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a step of all streams takes in a closed loop of so many `steps`, in ns."""

    fastest_ns: int
    mean_ns: float
    steps: int


def rehearse(cameras: Cameras, frames: Pixels) -> Rehearsal:
    """Measure a step before LoadGen asks for any; what the streams saw is forgotten. `frames` are the golden ones."""
    clock, taken, around = time.monotonic_ns, list[int](), cycle(frames)
    until = clock() + REHEARSAL_NS
    with WITHOUT_COLLECTOR.loop():
        while len(taken) < LEAST_REHEARSED or clock() < until:
            batch = list(islice(around, cameras.streams))
            begun = clock()
            cameras.step(batch)
            taken.append(clock() - begun)
    cameras.reset()
    return Rehearsal(min(taken), statistics.fmean(taken), len(taken))


def settings(loadgen: Any, scenario: Scenario, plan: Plan, rehearsal: Rehearsal, *, accuracy: bool) -> Any:
    """Return LoadGen's settings of a run.

    The three scenarios without a schedule run as fast as they can; for these LoadGen must know how many queries to
    prepare, which the fastest step says. Server's rate is `load` of what a closed loop does, which is what keeps a
    queue short.
    """
    found = loadgen.TestSettings()
    found.FromConfig("", "edge-cnnlstm", scenario.name, 0)  # 0: what LoadGen carries, not a file
    found.scenario = getattr(loadgen.TestScenario, scenario.name)
    found.mode = loadgen.TestMode.AccuracyOnly if accuracy else loadgen.TestMode.PerformanceOnly
    found.min_duration_ms = round(plan.seconds * 1000)
    found.single_stream_expected_latency_ns = found.multi_stream_expected_latency_ns = rehearsal.fastest_ns
    found.multi_stream_samples_per_query = plan.streams
    found.server_target_latency_ns = BOUND_NS
    found.server_target_qps = plan.load * 1e9 / rehearsal.mean_ns
    found.offline_expected_qps = HASTE * plan.streams * 1e9 / rehearsal.fastest_ns
    if scenario.name == "Offline":
        found.min_query_count = min(plan.frames, MOST_OFFLINE)
    return found


def target(scenario: Scenario, chosen: Any) -> str:
    """Say what a run is held to, apart from its duration."""
    if scenario.name == "Server":
        bound, percent = chosen.server_target_latency_ns / 1e6, 100 * chosen.server_target_latency_percentile
        return f"{chosen.server_target_qps:,.1f} a second, p{percent:g} ≤ {bound:.1f} ms"
    if scenario.name == "Offline":
        return f"≥ {chosen.min_query_count:,} samples"
    return f"≥ {chosen.min_query_count:,} queries"
