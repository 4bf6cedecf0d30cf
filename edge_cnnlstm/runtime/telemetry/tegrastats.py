"""Lines of NVIDIA's tegrastats: the only reader of a Jetson's memory clock, and of Thor's rails.

A line may be cut anywhere, because a pipe was or a disk filled up. So a number counts only when what follows it
shows that it is whole, and a line only when it has its beginning: half a label would be another rail.
"""

from __future__ import annotations

import re

from edge_cnnlstm.runtime.telemetry.sample import Reading
from edge_cnnlstm.runtime.telemetry.thermal import celsius

_BEGINNING = re.compile(r"(?<!\S)RAM \d+/\d+[kM]B\s", re.ASCII)
_CPU = re.compile(r"\sCPU \[([^][]*)\](?:@(\d{1,5})\s)?", re.ASCII | re.IGNORECASE)
_CORE = re.compile(r"(\d{1,3})%(?:@(\d{1,5}))?", re.ASCII)
_GPU = re.compile(
    r"\sGR3D_FREQ (?:(\d{1,3})%(?=[@\s]|$))?(?:@(?:(\d{1,5})\s|\[((?:\d{1,5}|off)(?:,(?:\d{1,5}|off))*)\]))?",
    re.ASCII | re.IGNORECASE,
)
_MEMORY = re.compile(r"\sEMC_FREQ (?:(\d{1,3})%)?@(\d{1,5})\s", re.ASCII | re.IGNORECASE)
_TEMPERATURE = re.compile(r"\s([A-Za-z][\w.-]*)@(-?\d{1,3}(?:\.\d{1,3})?)C(?=[/\s]|$)", re.ASCII)
_POWER = re.compile(r"\s([A-Za-z]\w*) (\d{1,6})mW(?=[/\s]|$)", re.ASCII)


def parse(line: str) -> Reading:
    """Return what a line says; an empty reading for anything that is no line of tegrastats.

    Leave the line's end on: without it, a number at the very end may be cut, and is left out. Of a temperature's
    "now/peak" and a rail's "now/mean/peak", now is taken. Zones become lower case, rails upper case.
    """
    # Two beginnings are two lines that ran together, and nobody knows where.
    if len(_BEGINNING.findall(line)) != 1:
        return Reading()
    temperatures = {zone.lower(): celsius(round(float(value) * 1000)) for zone, value in _firsts(_TEMPERATURE, line)}
    cpu, gpu, memory = _processor(line), _gpu(line), _memory(line)
    units = {"cpu": cpu, "gpu": gpu, "emc": memory}
    return Reading(
        power_mw={rail.upper(): float(value) for rail, value in _firsts(_POWER, line)},
        clocks_mhz={unit: clock for unit, (_, clock) in units.items() if clock is not None},
        temperatures_c={zone: value for zone, value in temperatures.items() if value is not None},
        utilisation={unit: load for unit, (load, _) in units.items() if load is not None},
    )


def _firsts(pattern: re.Pattern[str], line: str) -> list[tuple[str, str]]:
    """Return (label, value) pairs in reverse, so that the first of two equal labels ends up in a dictionary."""
    return pattern.findall(line)[::-1]


def _processor(line: str) -> tuple[float | None, float | None]:
    match = _CPU.search(line)
    if match is None:
        return None, None
    cores = [_CORE.fullmatch(core) for core in match[1].lower().split(",") if core != "off"]
    percents = [int(core[1]) for core in cores if core and int(core[1]) <= 100]
    # One core that cannot be understood makes the mean and the maximum unknown.
    if not percents or len(percents) != len(cores):
        return None, None
    clocks = [float(clock) for clock in [match[2], *(core[2] for core in cores if core)] if clock]
    return sum(percents) / len(percents) / 100, max(clocks, default=None)


def _gpu(line: str) -> tuple[float | None, float | None]:
    match = _GPU.search(line)
    if match is None:
        return None, None
    listed = (match[2] or match[3] or "off").lower().split(",")
    return _share(match[1]), max((float(clock) for clock in listed if clock != "off"), default=None)


def _memory(line: str) -> tuple[float | None, float | None]:
    # Without root there is no clock, and the load is always "0%": the pattern wants both, or the clock alone.
    match = _MEMORY.search(line)
    return (_share(match[1]), float(match[2])) if match else (None, None)


def _share(percent: str | None) -> float | None:
    return int(percent) / 100 if percent and int(percent) <= 100 else None
