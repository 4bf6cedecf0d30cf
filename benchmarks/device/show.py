"""A GPU's figures and cases as tables."""

from __future__ import annotations

from typing import Any

from benchmarks.device.figures import TAILS
from benchmarks.device.stand_in import NAME as STAND_IN
from benchmarks.show import Section, Table, figures_table

STANDING_IN = (
    "TensorRT does not run this bundle here: four small kernels stand in for it, and tell of the wrapper only."
)
PEERS = "Peers run one stream, with their default settings: torch the checkpoint in FP32, ONNX Runtime the bundle."


def section(report: dict[str, Any]) -> Section:
    """Return what the suite shows of its report."""
    gpu, warm_up = report["gpu"], report["warm_up"]
    engine = f"graph {report['graph']!r} in {report['engine']}" if report["graph"] else STAND_IN
    turn = (
        f"Every measurement has a process of its own, in an order drawn anew each round; {warm_up['seconds']:g} s and "
        f"{warm_up['calls_a_turn']} calls a turn to warm up, frames back to back; p99.9 over all rounds together."
    )
    where = f"{engine} on {gpu['name']}, compute capability {gpu['compute_capability']}, CUDA {gpu['driver']}."
    notes = [where, turn, PEERS]
    if report["engine"] == STAND_IN:
        notes.insert(0, STANDING_IN)
    tables = [figures_table(report), _cases(report["cases"])]
    return Section("On the GPU", tables, notes=notes, missing=report["refused"] | report["missing"])


def _cases(cases: dict[str, Any]) -> Table:
    columns = ("µs", "host to host, p50", "p99", "p99.9", "GPU, p50", "launch, p50", "bare loop, p50")
    rows = []
    for name, case in cases.items():
        tails = [case["step_ns"][f"{tail}_us"] for tail in TAILS]
        medians = [case[series]["p50_us"] if series in case else None for series in ("gpu_ns", "launch_ns", "bare_ns")]
        rows.append((name, *("" if value is None else f"{value:,.1f}" for value in (*tails, *medians))))
    return Table("All cases, over all rounds", columns, rows)
