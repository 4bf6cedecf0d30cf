"""What the machine said about itself at one instant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one source knows right now; what it does not know is absent, or None, and never 0.

    Power in milliwatts by rail, clocks in MHz by unit ("cpu" is the fastest online core, "gpu", "emc", "memory"),
    temperatures and the trip points at which the machine slows down in °C by zone, utilisation from 0 to 1 by unit.
    `throttle` counts events by name since some time before the first sample: only its rises mean anything.
    `power_mode` is the name of a Jetson's nvpmodel mode.
    """

    power_mw: Mapping[str, float] = field(default_factory=dict)
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    trips_c: Mapping[str, float] = field(default_factory=dict)
    utilisation: Mapping[str, float] = field(default_factory=dict)
    throttle: Mapping[str, int] = field(default_factory=dict)
    power_mode: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Reading):
    """The readings of all sources at `taken_ns` of time.monotonic_ns, the clock of frames and latencies."""

    taken_ns: int


QUANTITIES = ("power_mw", "clocks_mhz", "temperatures_c", "utilisation", "throttle")
"""The fields that become series by name."""


class Source(Protocol):
    """Something that can be read again and again, by one thread."""

    name: str

    def read(self) -> Reading: ...

    def close(self) -> None: ...


def merge(taken_ns: int, readings: Sequence[Reading]) -> Sample:
    """Make one sample; where two readings know the same thing, the earlier one is believed."""
    return Sample(
        taken_ns=taken_ns,
        power_mw=_union(reading.power_mw for reading in readings),
        clocks_mhz=_union(reading.clocks_mhz for reading in readings),
        temperatures_c=_union(reading.temperatures_c for reading in readings),
        # Not copied: they never change, and thousands of samples are kept.
        trips_c=next((reading.trips_c for reading in readings if reading.trips_c), {}),
        utilisation=_union(reading.utilisation for reading in readings),
        throttle=_union(reading.throttle for reading in readings),
        power_mode=next((reading.power_mode for reading in readings if reading.power_mode is not None), None),
    )


def _union(mappings: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    union: dict[str, Number] = {}
    for mapping in mappings:
        union = {**mapping, **union}
    return union
