"""LoadGen's summary file, read: what it found, whether that is VALID, and if not, why not."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_cnnlstm.errors import DataError

FILE = "mlperf_log_summary.txt"
RESULT = re.compile(r"^(\S+ percentile latency \(ns\)|(?:Completed s|S)amples per second) *: *(\S+)$", re.MULTILINE)
VERDICT = re.compile(r"^Result is : (VALID|INVALID)$", re.MULTILINE)
CONDITION = re.compile(r"^  (.+? satisfied) *: *(Yes|NO)$", re.MULTILINE)
ADVICE = re.compile(r"^Recommendations:\n((?: .+\n)+)", re.MULTILINE)
EARLY = re.compile(r"^Early Stopping Result:\n((?: .+\n)+)", re.MULTILINE)
ESTIMATE = re.compile(r"Early stopping (\S+)th percentile estimate: (\d+)")
PERCENTILE = re.compile(r"^(\d+\.\d\d) percentile latency \(ns\) *: (\d+)$", re.MULTILINE)
PARAMETER = re.compile(r"^(\w+)(?: \(\w+\))? *: *(\S+)$", re.MULTILINE)
ERRORS = re.compile(r"^(\d+) ERRORS? encountered", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Summary:
    """What LoadGen says of a run.

    `headline` names `result`, the scenario's metric. `conditions` tells which of LoadGen's own were satisfied, and
    `advice` what it says where they were not. `percentiles_ns` and `estimates_ns`, those of early stopping, are by
    name, such as "p99_9"; they are of queries in MultiStream. `early_stopping` has LoadGen's lines on it, none in
    Offline. `parameters` are those it ran with; `errors` counts what it complained of in its detailed log.
    """

    valid: bool
    headline: str
    result: float
    conditions: dict[str, bool]
    advice: list[str]
    percentiles_ns: dict[str, int]
    estimates_ns: dict[str, int]
    early_stopping: list[str]
    parameters: dict[str, str]
    errors: int


def parse(text: str) -> Summary:
    """Read a performance run's summary; raises DataError for anything else."""
    verdict, result = VERDICT.search(text), RESULT.search(text)
    if verdict is None or result is None:
        raise DataError(
            f"{FILE} without a result: {' '.join(text.split())[:200]!r}",
            expected="the summary of a performance run",
            fix="see the files that LoadGen wrote beside it, which --logs keeps",
        )
    _, _, parameters = text.partition("Test Parameters Used")
    errors = ERRORS.search(text)
    return Summary(
        valid=verdict[1] == "VALID",
        headline=result[1],
        result=float(result[2]),
        conditions={name: said == "Yes" for name, said in CONDITION.findall(text)},
        advice=_lines(ADVICE, text),
        percentiles_ns={_name(percent): int(ns) for percent, ns in PERCENTILE.findall(text)},
        estimates_ns={_name(percent): int(ns) for percent, ns in ESTIMATE.findall(text)},
        early_stopping=_lines(EARLY, text),
        parameters=dict(PARAMETER.findall(parameters)),
        errors=int(errors[1]) if errors else 0,
    )


def _lines(block: re.Pattern[str], text: str) -> list[str]:
    """Return the points of a block, each in one line."""
    found = block.search(text)
    return [" ".join(point.split()) for point in found[1].split(" * ") if point.strip()] if found else []


def _name(percent: str) -> str:
    return f"p{float(percent):g}".replace(".", "_")
