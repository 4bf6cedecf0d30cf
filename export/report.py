"""The export report: which precision was chosen and why, what quantization cost, whether the graphs can be trusted."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup, escape

from edge_cnnlstm.errors import ConfigError, DataError
from edge_cnnlstm.report.scores import NOTHING, shown
from export.parity import DISTINCT
from export.plots import (
    SIGNALS,
    curve_picture,
    duration,
    latencies,
    plan_picture,
    points,
    score_label,
    sensitivity_picture,
    significant,
)

SCHEMA_VERSION = 1
ENGINES = {"portable": "any engine", "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
OPTIONAL: dict[str, Any] = {
    "calibration": None,
    "choice": {},
    "drift": {},
    "parity": None,
    "qat": None,
    "sensitivity": [],
    "tensorrt": {},
}
"""What a document may lack, and what that means."""
TREND = 10
"""Half a curve of fewer points says nothing of a trend."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The graph that an engine gets; `size` and `speed` are over the unquantized one, None where there is none."""

    engine: str
    reason: str
    graph: Mapping[str, Any]
    size: float | None
    speed: float | None


@dataclass(frozen=True, slots=True)
class Rollout:
    """The errors of one graph, drawn as PNG files; None where none were recorded."""

    name: str
    parity: bytes | None
    drift: bytes | None
    growth: str


def write_report(document: Mapping[str, Any], destination: Path) -> None:
    """Write the report as a page that needs no other file and no network.

    A reader of `destination` sees what was there before or the whole page. Raises DataError for a document that
    lacks something which the page shows, and ConfigError when the page cannot be written, as on a full disk.
    """
    try:
        page = report_page(document)
    except (KeyError, UndefinedError) as error:
        raise DataError(
            f"an export report without {error}",
            expected=f"a document of schema_version {SCHEMA_VERSION}, as `python -m export` writes it",
            fix="export again",
        ) from error
    try:
        # A label may hold half a character pair, which JSON can say and UTF-8 cannot.
        _replace(destination, page.encode(errors="replace"))
    except OSError as error:
        raise ConfigError(
            f"cannot write {destination}: {error.strerror}",
            expected="a path that this user may write, on a disk with room",
            fix="choose another path, or free some space",
        ) from error


def report_page(document: Mapping[str, Any]) -> str:
    """Return the page; every text of the document is escaped."""
    if document["schema_version"] != SCHEMA_VERSION:
        raise DataError(
            f"an export report of schema_version {document['schema_version']!r}",
            expected=f"schema_version {SCHEMA_VERSION}",
            fix="draw it with the sources that wrote it",
        )
    facts = OPTIONAL | dict(document)
    candidates, graphs = facts["candidates"], facts["graphs"]
    ended = datetime.fromtimestamp(facts["started"] + facts["seconds"], timezone.utc)
    shows = {
        "engines": ENGINES,
        "written": f"{ended:%Y-%m-%d %H:%M} UTC",
        "unquantized": next(filter(_is_unquantized, candidates), None),
        "choices": _choices(facts["choice"], candidates),
        "latencies": latencies,
        "places": list(dict.fromkeys(time["where"] for candidate in candidates for time in latencies(candidate))),
        "columns": {candidate["name"]: candidate for candidate in candidates},
        "scores": _scores(candidates),
        "test_scores": _scores(graphs.values()),
        "plan_picture": plan_picture(candidates, facts["budget"]) if candidates else None,
        "rollouts": _rollouts(facts["parity"], facts["drift"], graphs),
        "controls": _controls(facts["parity"]),
        "sensitivity_picture": sensitivity_picture(facts["sensitivity"]) if facts["sensitivity"] else None,
        "kept": sum(layer["kept"] for layer in facts["sensitivity"]),
        "operators": _operators(graphs),
    }
    return _environment().get_template("report.html.j2").render(facts | shows)


def _replace(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("export", "."), PackageLoader("edge_cnnlstm.report", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"points": points, "duration": duration, "score_label": score_label, "score": _score}
    environment.filters |= {"size": _size, "count": _count, "small": _small, "percent": _percent, "times": _times}
    environment.filters["gain"] = _gain
    environment.filters |= {"breakable": _breakable, "picture": _picture, "failure": _failure}
    return environment


def _choices(choice: Mapping[str, Mapping[str, str]], candidates: Sequence[Mapping[str, Any]]) -> list[Choice]:
    """Return what each engine gets, compared with the unquantized graph: in time only where both ran or would run."""
    named = {candidate["name"]: candidate for candidate in candidates}
    unquantized = list(filter(_is_unquantized, candidates))
    found = []
    for dialect, made in choice.items():
        graph = named[made["name"]]
        sizes = [other["bytes"] for other in unquantized if other["bytes"]]
        times = [time["p50_us"] for other in unquantized for time in latencies(other) if _same_place(time, graph)]
        size = graph["bytes"] / sizes[0] if sizes else None
        speed = min(times) / graph["latency"]["p50_us"] if times and graph["latency"]["p50_us"] else None
        found.append(Choice(ENGINES.get(dialect, dialect), made["reason"], graph, size, speed))
    return found


def _is_unquantized(candidate: Mapping[str, Any]) -> bool:
    return not candidate["macs"].get("int8") and not candidate["macs"].get("fp16")


def _same_place(latency: Mapping[str, Any], graph: Mapping[str, Any]) -> bool:
    return all(latency[key] == graph["latency"][key] for key in ("kind", "where"))


def _scores(graphs: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(score for graph in graphs for score in graph["accuracy"]))


def _rollouts(parity: Mapping[str, Any] | None, drift: Mapping[str, Any], graphs: Iterable[str]) -> list[Rollout]:
    """Return the pictures of every graph that any errors were recorded of."""
    proofs = parity["graphs"] if parity else {}
    resets = parity["resets"] if parity else []
    return [
        Rollout(
            name,
            curve_picture(proofs[name]["curve"], resets, proofs[name]["tolerance"]) if name in proofs else None,
            curve_picture(drift[name], resets) if name in drift else None,
            _growth(drift[name]) if name in drift else "",
        )
        for name in dict.fromkeys((*graphs, *proofs, *drift))
        if name in proofs or name in drift
    ]


def _growth(curve: Mapping[str, Sequence[float | None]]) -> str:
    """Return by how much each error grew from the first half of a rollout to the second, as medians."""
    said = []
    for signal in SIGNALS:
        values = np.array(curve.get(signal) or [], float)
        values = values[np.isfinite(values)]
        half = len(values) // 2
        if half >= TREND and (first := float(np.median(values[:half]))) > 0:
            said.append(f"{signal} {_times(float(np.median(values[half:])) / first)}")
    return ", ".join(said)


def _controls(parity: Mapping[str, Any] | None) -> list[str]:
    proofs = parity["graphs"].values() if parity else []
    return list(dict.fromkeys(control for proof in proofs for control in proof["controls"]))


def _operators(graphs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return every operator of any graph, the most frequent first."""
    counts = [graph[when] or {} for graph in graphs.values() for when in ("operators", "optimized")]
    names = dict.fromkeys(name for counted in counts for name in counted)
    return sorted(names, key=lambda name: (-max(counted.get(name, 0) for counted in counts), name))


def _score(value: float | None, score: str) -> str:
    return shown(score, value) if "." in score else _small(value)


def _size(count: float | None) -> str:
    """Return a number of bytes with three significant digits, in decimal units."""
    if count is None:
        return NOTHING
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:g} B" if unit == "B" else f"{significant(count)} {unit}"
        count /= 1000
    return f"{significant(count)} GB"


def _count(number: float) -> str:
    """Return a large number with three significant digits."""
    for unit in ("", " k", " M"):
        if number < 999.5:
            return f"{number:g}" if not unit else f"{significant(number)}{unit}"
        number /= 1000
    return f"{significant(number)} G"


def _small(value: float | None) -> str:
    """Return a number with two significant digits, less its last zeros, such as 0.5 or 4.1×10⁻⁶."""
    if value is None:
        return NOTHING
    said = significant(value, 2)
    return re.sub(r"\.?0+(?=×|$)", "", said) if "." in said else said


def _percent(share: float | None) -> str:
    """Return a share so that only a whole one is said to be one."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{math.floor(share * 1e4) / 100:.2f}%"


def _times(ratio: float) -> str:
    return f"{significant(ratio)}×"


def _gain(share: float) -> str:
    """Return a difference in points with its sign."""
    said = points(share)
    return f"+{said}" if share > 0 and said != points(0) else said


def _failure(control: Mapping[str, float], proof: Mapping[str, Any]) -> str:
    """Return how much further a corrupted graph strayed than the sound one; empty if the two cannot be told apart."""
    sound = proof["typical"]
    if control["largest"] <= proof["tolerance"] and control["typical"] <= min(
        proof["typical_tolerance"], DISTINCT * sound
    ):
        return ""
    return f"{_times(control['typical'] / sound)} the sound graph" if sound else "the sound graph: 0"


def _breakable(name: str) -> Markup:
    """Return a name escaped, which may go on in a new line after an underscore or a point, but not around a sign."""
    said = str(escape(name)).replace("_", "_<wbr>").replace(".", ".<wbr>").replace(" ≤ ", "&nbsp;≤&nbsp;")
    return Markup(said)  # noqa: S704  # escaped first


def _picture(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
