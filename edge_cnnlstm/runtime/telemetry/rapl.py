"""Power of Intel and AMD processors, from the energy counters of /sys/class/powercap."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edge_cnnlstm.runtime.telemetry.sysfs import read_number, read_word


class Rapl:
    """Mean power of each domain between two readings; the first reading has nothing to compare with.

    Domains are named like "package-0" and "package-0 core". Since 2020 only root may read the counters: they are
    unknown to everybody else.
    """

    def __init__(self, root: Path, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        # Not intel-rapl-mmio: it is a second view of the same packages.
        zones = sorted(root.glob("sys/class/powercap/intel-rapl:*"))
        self._domains = {name: zone for zone in zones if (name := _name(zone)) and _energy(zone) is not None}
        self._ranges = {name: read_number(zone / "max_energy_range_uj") for name, zone in self._domains.items()}
        self._clock_ns = clock_ns
        self._last: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._domains)

    def power_mw(self) -> dict[str, float]:
        """Return each domain's power in milliwatts."""
        read = {name: self._power(name, zone) for name, zone in self._domains.items()}
        return {name: value for name, value in read.items() if value is not None}

    def _power(self, name: str, zone: Path) -> float | None:
        energy, now_ns = _energy(zone), self._clock_ns()
        before = self._last.pop(name, None)
        if energy is None:
            return None
        self._last[name] = energy, now_ns
        if before is None or now_ns <= before[1]:
            return None
        used = _used(before[0], energy, self._ranges[name])
        return None if used is None else used * 1e6 / (now_ns - before[1])


def _used(before_uj: int, now_uj: int, range_uj: int | None) -> int | None:
    if now_uj >= before_uj:
        return now_uj - before_uj
    if range_uj is None:
        return None
    used = now_uj - before_uj + range_uj
    # A full range takes minutes at full power. A "wrap" of more than half of it is a counter that was set back.
    return used if 0 <= used < range_uj / 2 else None


def _energy(zone: Path) -> int | None:
    return read_number(zone / "energy_uj")


def _name(zone: Path) -> str | None:
    name = read_word(zone / "name")
    parent = zone.name.rpartition(":")[0]
    if name is None or ":" not in parent:
        return name
    package = read_word(zone.parent / parent / "name")
    return f"{package} {name}" if package else name
