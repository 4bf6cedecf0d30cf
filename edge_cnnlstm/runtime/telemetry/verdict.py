"""Was the machine slowed down, so that what was measured on it meanwhile says little about it?"""

from __future__ import annotations

from collections.abc import Iterable

from edge_cnnlstm.runtime.telemetry.counters import Rises
from edge_cnnlstm.runtime.telemetry.sample import Sample

MEANINGS = {
    "oc1": "under-voltage",
    "oc2": "average over-current",
    "oc3": "instantaneous over-current",
    "core_throttle": "a processor core too hot",
    "package_throttle": "the processor too hot",
    "sw_thermal_slowdown": "the GPU too hot, seen by its driver",
    "hw_slowdown": "the GPU slowed by its hardware",
    "hw_thermal_slowdown": "the GPU too hot, seen by its hardware",
    "hw_power_brake_slowdown": "the GPU slowed by its power supply",
}
SLOW = 0.8
"""A clock below this share of its highest so far has fallen ..."""
NEAR_C = 5.0
"""... which heat explains where a zone is this near to its trip point, or past it ..."""
IN_A_ROW = 2
"""... and one sample alone may be a change of speed, caught half-way."""
DIE_ZONES = ("cpu", "gpu", "tj", "soc", "pkg", "acpitz")
"""What zones of the chip itself have in their names; a hot disk or radio slows no processor."""


class Judge:
    """Looks at every sample of a run once, in order; constant memory.

    A clock that falls while the chip is cool is how every processor saves power, and is no reason.
    """

    def __init__(self) -> None:
        self._counters = Rises()
        self._compared = False
        self._present: set[str] = set()
        self._highest: dict[str, float] = {}
        self._slow_samples: dict[str, int] = {}
        self._heat: dict[str, str] = {}

    def add(self, sample: Sample) -> None:
        """Take the next sample."""
        self._compared = self._compared or not self._counters.by_name.keys().isdisjoint(sample.throttle)
        self._present = set(sample.throttle)
        self._counters.add(sample.throttle)
        if sample.trips_c:
            self._watch_clocks(sample)

    @property
    def reasons(self) -> list[str]:
        """Why the run is invalid, in words; empty when nothing was seen."""
        risen = {name: rise for name, rise in self._counters.by_name.items() if rise > 0}
        counted = [f"{name} ({MEANINGS.get(name, 'throttling')}) rose by {rise}" for name, rise in risen.items()]
        return counted + list(self._heat.values())

    @property
    def valid(self) -> bool | None:
        """Whether nothing slowed the run down; None where throttle counters cannot be read, or no longer."""
        if self.reasons:
            return False
        return True if self._compared and self._present >= self._counters.by_name.keys() else None

    def _watch_clocks(self, sample: Sample) -> None:
        hot = _hottest(sample)
        for unit in ("cpu", "gpu"):
            clock = sample.clocks_mhz.get(unit)
            if clock is None:
                continue
            highest = self._highest[unit] = max(clock, self._highest.get(unit, clock))
            slow = hot is not None and clock < SLOW * highest
            self._slow_samples[unit] = self._slow_samples.get(unit, 0) + 1 if slow else 0
            if self._slow_samples[unit] >= IN_A_ROW and unit not in self._heat:
                self._heat[unit] = f"the {unit} clock fell from {highest:g} to {clock:g} MHz while {hot}"


def throttled(samples: Iterable[Sample]) -> list[str]:
    """Return why a run is invalid, in words: counters that rose, and clocks that fell in the heat; empty if valid."""
    judge = Judge()
    for sample in samples:
        judge.add(sample)
    return judge.reasons


def _hottest(sample: Sample) -> str | None:
    """Describe the zone of the chip that is furthest towards its trip point; None when none is near."""
    over = {
        zone: sample.temperatures_c[zone] - trip
        for zone, trip in sample.trips_c.items()
        if zone in sample.temperatures_c and any(name in zone for name in DIE_ZONES)
    }
    zone = max(over, key=over.__getitem__, default=None)
    if zone is None or over[zone] < -NEAR_C:
        return None
    return f"{zone} was at {sample.temperatures_c[zone]:g} °C of {sample.trips_c[zone]:g} °C"
