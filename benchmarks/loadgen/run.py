"""One scenario in a process of its own: a rehearsal, LoadGen's performance run, and its accuracy run, checked."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.loadgen import accuracy, summary
from benchmarks.loadgen.library import Library
from benchmarks.loadgen.package import load_loadgen
from benchmarks.loadgen.plan import Plan
from benchmarks.loadgen.scenario import SCENARIOS, rehearse, settings, target
from benchmarks.loadgen.system import drive, open_cameras
from benchmarks.processes import answer
from edge_cnnlstm.bundle import format as bundle_format


def main(word: str, name: str, folder: str) -> dict[str, Any]:
    """Run a scenario as planned; LoadGen's files go below `folder`, as MLPerf's submissions have them."""
    loadgen, plan, scenario = load_loadgen(), Plan.of(word), SCENARIOS[name]
    golden = bundle_format.read(Path(plan.bundle)).golden.frames
    library, streams = Library(golden, plan.frames), scenario.streams(plan)
    performance, correctness = Path(folder, name, "performance", "run_1"), Path(folder, name, "accuracy")
    for each in (performance, correctness):
        each.mkdir(parents=True, exist_ok=True)
    cameras = open_cameras(plan, streams)
    try:
        rehearsal = rehearse(cameras, golden)
        chosen = settings(loadgen, scenario, plan, rehearsal, accuracy=False)
        system = scenario.system(loadgen, cameras, library)
        drive(loadgen, system, library, chosen, performance)
        cameras.reset()
        checking = settings(loadgen, scenario, plan, rehearsal, accuracy=True)
        drive(loadgen, scenario.system(loadgen, cameras, library), library, checking, correctness)
    finally:
        cameras.close()
    text = (performance / summary.FILE).read_text()
    same = replace(plan, backend=cameras.backend, graph=cameras.graph)
    return {
        "backend": cameras.backend,
        "graph": cameras.graph,
        "streams": streams,
        "queries": system.queries,
        "target": target(scenario, chosen),
        "min_duration_s": chosen.min_duration_ms / 1000,
        "rehearsal": asdict(rehearsal),
        "summary": asdict(summary.parse(text)),
        "summary_text": text,
        "accuracy": accuracy.compare(same, library, streams, correctness),
    }


if __name__ == "__main__":
    answer(main)
