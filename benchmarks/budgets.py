"""What a figure may be on a device, for a bundle: budgets.toml, and what is over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import tomli

from edge_cnnlstm.errors import ConfigError

FILE = Path(__file__).with_name("budgets.toml")
ANY = "any"
LIMITS = {"at_most", "at_least"}
Budget = dict[str, dict[str, float]]
"""By the pattern of a figure's name, such as "ours ÷ *": `at_most`, `at_least` or both."""


@dataclass(frozen=True, slots=True)
class Overrun:
    """A figure whose whole interval lies beyond what is allowed; without an interval, its value."""

    name: str
    value: float
    limit: str
    allowed: float

    @property
    def words(self) -> str:
        """Say it."""
        return f"{self.name} is {self.value:.3g}, allowed {self.limit.replace('_', ' ')} {self.allowed:g}"


def budget_for(device: str, bundle: str, file: Path = FILE) -> Budget:
    """Return the budget of a device and a bundle: what holds for any, then for either, then for both.

    Raises ConfigError for a file that is no budget.
    """
    document = _read(file)
    found: Budget = {}
    for one, other in ((ANY, ANY), (ANY, bundle), (device, ANY), (device, bundle)):
        found |= document.get(one, {}).get(other, {})
    return found


def overruns(ratios: Iterable[Mapping[str, Any]], budget: Budget) -> list[Overrun]:
    """Return what is over budget. Noise is not: of an interval, the better end has to be over."""
    found = []
    for row in ratios:
        for limits in (limits for pattern, limits in budget.items() if fnmatchcase(row["name"], pattern)):
            low, high = (row["value"] if row[end] is None else row[end] for end in ("low", "high"))
            if low > limits.get("at_most", low):
                found.append(Overrun(row["name"], row["value"], "at_most", limits["at_most"]))
            if high < limits.get("at_least", high):
                found.append(Overrun(row["name"], row["value"], "at_least", limits["at_least"]))
    return found


def _read(file: Path) -> dict[str, dict[str, Budget]]:
    try:
        document: dict[str, dict[str, Budget]] = tomli.loads(file.read_text())
        wrong = [
            f"{device}.{bundle}: {pattern}"
            for device, bundles in document.items()
            for bundle, budget in bundles.items()
            for pattern, limits in budget.items()
            if not limits.keys()
            or not limits.keys() <= LIMITS
            or not all(isinstance(v, int | float) for v in limits.values())
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{file.name} cannot be read: {error}",
            expected="device, bundle, figure and its limits",
            fix="mend the file",
        ) from error
    if wrong:
        raise ConfigError(
            f"in {file.name}, {wrong[0]}", expected="at_most, at_least or both, as numbers", fix="mend these lines"
        )
    return document
