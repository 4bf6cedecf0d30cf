"""Thermal zones of Linux: temperatures, and the trip points at which the kernel slows the machine down."""

from __future__ import annotations

from pathlib import Path

from edge_cnnlstm.runtime.telemetry.sysfs import read_number, read_word

SLOWING_TRIPS = ("passive", "hot", "critical")
"""The types of trip point that mean heat; "active" only starts a fan."""
COLDEST_C = -60
HOTTEST_C = 200


class ThermalZones:
    """All zones of a machine, by type: "cpu-thermal" is called "cpu", as tegrastats calls it.

    Zones and trip points are looked up once. A zone whose sensor sleeps is absent from a reading.
    """

    def __init__(self, root: Path) -> None:
        self._zones = _named_zones(root)
        lowest = {name: _lowest_trip(zone) for name, zone in self._zones.items()}
        self.trips_c = {name: trip for name, trip in lowest.items() if trip is not None}

    def __len__(self) -> int:
        return len(self._zones)

    def temperatures_c(self) -> dict[str, float]:
        """Return each zone's temperature in °C."""
        read = {name: celsius(read_number(zone / "temp")) for name, zone in self._zones.items()}
        return {name: value for name, value in read.items() if value is not None}


def celsius(millidegrees: int | None) -> float | None:
    """Return °C; None for what no sensor measures, such as the -256 °C of a Tegra's sleeping one."""
    if millidegrees is None or not COLDEST_C < millidegrees / 1000 < HOTTEST_C:
        return None
    return millidegrees / 1000


def _named_zones(root: Path) -> dict[str, Path]:
    zones: dict[str, Path] = {}
    for zone in sorted(root.glob("sys/class/thermal/thermal_zone*")):
        kind = read_word(zone / "type")
        if kind is not None:
            name = kind.lower().removesuffix("-thermal")
            number = zone.name.removeprefix("thermal_zone")
            zones[name if name not in zones else f"{name} (zone {number})"] = zone
    return zones


def _lowest_trip(zone: Path) -> float | None:
    trips = []
    for path in zone.glob("trip_point_*_temp"):
        kind = read_word(path.with_name(path.name.removesuffix("temp") + "type"))
        trip = celsius(read_number(path))
        # Drivers say 0 for a trip point that nobody has set.
        if kind in SLOWING_TRIPS and trip is not None and trip > 0:
            trips.append(trip)
    return min(trips, default=None)
