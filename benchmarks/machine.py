"""What the numbers were taken on: a figure without its machine is a rumour."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import edge_cnnlstm
from edge_cnnlstm.runtime.optional import load_onnxruntime

CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change during a run; None where the machine does not say.

    `cores` are those that this process may use. `clock_ns` is what reading the clock adds to every sample.
    """

    cpu: str | None
    architecture: str
    system: str
    cores: int
    memory_bytes: int
    governor: str | None
    clock_ns: float


def describe() -> Machine:
    """Describe this machine."""
    return Machine(
        cpu=_cpu(),
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        governor=_read(GOVERNOR),
        clock_ns=_clock_ns(),
    )


def load_average() -> float:
    """Return the runnable processes of the last minute, on average; this one counts itself."""
    return round(os.getloadavg()[0], 2)


def versions() -> dict[str, str]:
    """Return the version of everything between a frame and its prediction."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": load_onnxruntime().__version__,
        "edge-cnnlstm": edge_cnnlstm.__version__,
    }


def _cpu() -> str | None:
    """Only x86 names its processor in /proc/cpuinfo; an ARM board names itself in the device tree."""
    lines = (_read(CPUINFO) or "").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else _read(BOARD)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip("\0\n ") or None
    except OSError:
        return None


def _clock_ns(readings: int = 1000) -> float:
    clock = time.monotonic_ns
    return statistics.fmean(-(clock() - clock()) for _ in range(readings))
