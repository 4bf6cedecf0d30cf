"""From trials to what they say: the mean accuracy over seeds, how sure it is, and what it costs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats  # type: ignore[import-untyped]  # scipy ships no types

CONFIDENCE = 0.95
BASELINE = "CNN"


@dataclass(frozen=True, slots=True)
class Row:
    """One network on one set.

    `accuracies` are 0..1, one a seed; `margin` is half the width of their mean's confidence interval, None for a
    single seed. `over_cnn` is the share of the CNN's MACs that this network needs beyond them, None without that row.
    """

    set: str
    network: str
    accuracies: tuple[float, ...]
    mean: float
    margin: float | None
    macs_per_frame: int
    over_cnn: float | None
    parameters: int


def rows(trials: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Summarise trials by set and network, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for trial in trials:
        groups.setdefault((trial["set"], trial["network"]), []).append(trial)
    return [_row(name, network, group, groups.get((name, BASELINE))) for (name, network), group in groups.items()]


def margin(values: Sequence[float]) -> float | None:
    """Return half the width of the mean's 95 % confidence interval by Student's t; None for a single value."""
    if len(values) < 2:
        return None
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def _row(name: str, network: str, group: Sequence[Mapping[str, Any]], base: Sequence[Mapping[str, Any]] | None) -> Row:
    accuracies = tuple(float(trial["accuracy"]) for trial in group)
    macs = int(group[0]["macs_per_frame"])
    return Row(
        set=name,
        network=network,
        accuracies=accuracies,
        mean=statistics.fmean(accuracies),
        margin=margin(accuracies),
        macs_per_frame=macs,
        over_cnn=None if base is None else macs / base[0]["macs_per_frame"] - 1,
        parameters=int(group[0]["parameters"]),
    )
