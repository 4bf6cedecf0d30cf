"""What every Linux says: temperatures, the processor's clock, its throttle counters, and its power."""

from __future__ import annotations

from pathlib import Path

from edge_cnnlstm.runtime.telemetry.counters import Rises
from edge_cnnlstm.runtime.telemetry.rapl import Rapl
from edge_cnnlstm.runtime.telemetry.sample import Reading
from edge_cnnlstm.runtime.telemetry.sysfs import read_number
from edge_cnnlstm.runtime.telemetry.thermal import ThermalZones

THROTTLE_COUNTERS = ("core_throttle", "package_throttle")


class Linux:
    """Reads /sys below `root`. The throttle counters of x86 are summed over processors, from 0 when opened."""

    name = "linux"

    def __init__(self, root: Path = Path("/")) -> None:
        processors = root / "sys/devices/system/cpu"
        self._zones = ThermalZones(root)
        self._rapl = Rapl(root)
        self._clocks = sorted(processors.glob("cpufreq/policy*/scaling_cur_freq"))
        self._counters = {
            name: sorted(processors.glob(f"cpu[0-9]*/thermal_throttle/{name}_count")) for name in THROTTLE_COUNTERS
        }
        self._rises = {name: Rises() for name, paths in self._counters.items() if paths}

    @classmethod
    def find(cls, root: Path = Path("/")) -> Linux | None:
        """Return the source; None on a machine that says nothing, such as most virtual ones."""
        source = cls(root)
        return source if source.knows_something else None

    @property
    def knows_something(self) -> bool:
        """Whether any file was there to be read."""
        return bool(self._zones or self._rapl or self._clocks or self._rises)

    def read(self) -> Reading:
        """Read everything once."""
        return Reading(
            power_mw=self._rapl.power_mw(),
            clocks_mhz=self._cpu_clock(),
            temperatures_c=self._zones.temperatures_c(),
            trips_c=self._zones.trips_c,
            throttle=self._throttle(),
        )

    def close(self) -> None:
        """Nothing is held open."""

    def _cpu_clock(self) -> dict[str, float]:
        # A policy whose cores are all offline refuses to be read.
        kilohertz = [value for path in self._clocks if (value := read_number(path)) is not None]
        return {"cpu": max(kilohertz) / 1000} if kilohertz else {}

    def _throttle(self) -> dict[str, int]:
        totals = {}
        for name, rises in self._rises.items():
            counts = {str(path): count for path in self._counters[name] if (count := read_number(path)) is not None}
            # Added up by their rises, so that a core that goes offline takes nothing from the sum.
            rises.add(counts)
            if counts:
                totals[name] = rises.total
        return totals
