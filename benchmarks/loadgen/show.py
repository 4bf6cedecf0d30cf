"""What LoadGen said, as tables."""

from __future__ import annotations

from typing import Any

from benchmarks.loadgen.figures import samples
from benchmarks.loadgen.scenario import BOUND_NS, OFFICIAL_S
from benchmarks.show import Section, Table, figures_table
from benchmarks.statistics import SAMPLES_FOR

TAILS = {"p50": "p50, ms", "p90": "p90, ms", "p99": "p99, ms", "p99_9": "p99.9, ms"}

NO_SUBMISSION = (
    "The model is none of MLPerf's: VALID is LoadGen's word on duration, queries and latency bound, and no submission."
)
CHECKED = (
    "Every answer of LoadGen's accuracy runs was compared with those of a lone Stream over the same frames. LoadGen "
    "and a plain loop took turns with one frame after the other; their ratio is the median round's."
)


def section(report: dict[str, Any]) -> Section:
    """Return what there is to see of a report."""
    answers = report["scenarios"]
    tables = (
        Table(
            "MLPerf LoadGen",
            ("scenario", "result", *TAILS.values(), "queries"),
            [_row(name, answer) for name, answer in answers.items()],
            "* too few queries to trust this percentile. MultiStream's are of whole queries, Server's from the "
            "scheduled time; Offline is one query, whose metric is throughput.",
        ),
        Table(
            "In LoadGen's words",
            ("scenario", "metric", "held to", "said"),
            [(name, _metric(answer), answer["target"], _words(answer)) for name, answer in answers.items()],
        ),
        figures_table(report, decimals=3, columns=("value", "95 % interval")),
    )
    return Section("MLPerf LoadGen", tables, notes=_notes(report))


def _row(name: str, answer: dict[str, Any]) -> tuple[str, ...]:
    said, queries = answer["summary"], answer["queries"]
    tails = ("",) * len(TAILS)
    if name != "Offline":
        tails = tuple(
            f"{'' if queries >= SAMPLES_FOR.get(tail, 1) else '*'}{said['percentiles_ns'][tail] / 1e6:,.3f}"
            for tail in TAILS
        )
    count = f"1 of {samples(answer):,}" if name == "Offline" else f"{queries:,}"
    return (name, "VALID" if said["valid"] else "INVALID", *tails, count)


def _metric(answer: dict[str, Any]) -> str:
    headline, value = answer["summary"]["headline"], answer["summary"]["result"]
    if headline.endswith("(ns)"):
        return f"p{headline.split('.0th')[0]} {value / 1e6:,.3f} ms"
    return f"{value:,.1f} a second"


def _words(answer: dict[str, Any]) -> str:
    said = answer["summary"]
    broken = [f"{condition}: NO." for condition, met in said["conditions"].items() if not met]
    complaints = [f"{said['errors']} errors: see its detailed log, which --logs keeps."] if said["errors"] else []
    return " ".join([*broken, *said["advice"], *said["early_stopping"], *complaints])


def _notes(report: dict[str, Any]) -> tuple[str, ...]:
    plan, answers = report["plan"], report["scenarios"]
    engines = ", ".join(f"{name} {answer['graph']} in {answer['backend']}" for name, answer in answers.items())
    official = "" if plan["seconds"] >= OFFICIAL_S else f" (--seconds {OFFICIAL_S})"
    duration = (
        f"LoadGen was told a minimum duration of {plan['seconds']:g} s a scenario, and judges by that; MLPerf's own is "
        f"{OFFICIAL_S} s{official}. Percentiles, seeds and the least numbers of queries are MLPerf's."
    )
    streams = (
        f"Each camera is one long stream, its memory never emptied; {plan['streams']} of them a step in MultiStream "
        f"and Offline. {_count(plan['threads'], 'thread')} a step; {engines}."
    )
    server = (
        f"Server asks for {plan['load']:g} of what a stream did in a rehearsal, within {BOUND_NS / 1e6:.1f} ms, a "
        "camera's period."
    )
    return (duration, NO_SUBMISSION, streams, server, CHECKED)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
