"""Flat scores, such as "digit.accuracy.hidden", as rows for a table that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NOTHING = "–"

NAMES = {
    "accuracy": "accuracy",
    "top3": "top-3 accuracy",
    "top5": "top-5 accuracy",
    "f1": "macro F1",
    "auroc": "macro AUROC",
    "calibration_error": "calibration error",
    "mae": "mean absolute error",
    "r2": "R²",
    "iou": "mean IoU",
    "success_auc": "success AUC",
    "precision": "precision",
    "centre_error_px": "centre error",
    "presence_accuracy": "presence accuracy",
    "presence_f1": "presence F1",
}
MAIN = {"classify": "accuracy", "regress": "mae", "track": "iou"}
"""The score that says most about each task."""
SHARES = {"accuracy", "top3", "top5", "f1", "calibration_error", "precision", "presence_accuracy", "presence_f1"}


@dataclass(frozen=True, slots=True)
class Row:
    """One score of one network: over everything and for each condition, `NOTHING` where it is not defined."""

    head: str
    score: str
    network: str
    values: tuple[str, ...]


def conditions(networks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the conditions that any of these evaluations scored alone."""
    return list(dict.fromkeys(name for network in networks.values() for name in network["conditions"]))


def condition_name(condition: str) -> str:
    """Return what people call a condition."""
    name, _, frames = condition.rpartition("_")
    return f"{name} ≤ {frames}" if name == "hidden" and frames.isdigit() else condition


def rows(networks: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Return the scores of evaluations, by the name of their network: head by head, score by score."""
    columns = ["", *conditions(networks)]
    scores = dict.fromkeys(base for network in networks.values() for base in _bases(network))
    return [
        Row(head, score_name(base), name, tuple(_values(network["scores"], base, columns)))
        for head in dict.fromkeys(map(_head, scores))
        for base in scores
        if _head(base) == head
        for name, network in networks.items()
        if base in _bases(network)
    ]


def main_scores(networks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the score that says most about each head of these evaluations, where any of them has it."""
    bases = [f"{name}.{MAIN[head['task']]}" for network in networks.values() for name, head in network["heads"].items()]
    return [base for base in dict.fromkeys(bases) if any(base in network["scores"] for network in networks.values())]


def titled(base: str) -> str:
    """Return what people call a score and its head, such as "digit: accuracy"."""
    return f"{_head(base)}: {score_name(base)}"


def score_name(base: str) -> str:
    """Return what people call a score, such as "digit.accuracy" or "pose.mae.angle"."""
    _, metric, *value = base.split(".", 2)
    return ", ".join([NAMES.get(metric, metric), *value])


def shown(base: str, value: float | None) -> str:
    """Return a score's value with its unit."""
    if value is None:
        return NOTHING
    metric = base.split(".")[1]
    if metric in SHARES:
        return f"{value:.1%}"
    if metric == "centre_error_px":
        return f"{value:.2f} px"
    return f"{value:.4g}" if metric == "mae" else f"{value:.3f}"


def _head(base: str) -> str:
    return base.partition(".")[0]


def _values(scores: Mapping[str, float], base: str, columns: Sequence[str]) -> list[str]:
    return [shown(base, scores.get(f"{base}.{column}" if column else base)) for column in columns]


def _bases(network: Mapping[str, Any]) -> list[str]:
    """Return the names of the scores without their conditions."""
    found: dict[str, None] = {}
    for name in network["scores"]:
        ends = [condition for condition in network["conditions"] if name.endswith(f".{condition}")]
        found[name.removesuffix(f".{max(ends, key=len)}") if ends else name] = None
    return list(found)
