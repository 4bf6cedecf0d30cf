"""What the numbers were taken on: a figure without its machine is a rumour."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from edge_cnnlstm import provenance

GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


@dataclass(frozen=True, slots=True)
class Machine:
    """What does not change during a run; None where the machine does not say.

    `int8_dot` is the instruction that multiplies int8, without which int8 is hardly faster than FP32. `cores` are those
    that this process may use. `clock_ns` is what reading the clock adds to every sample.
    """

    cpu: str | None
    int8_dot: str | None
    architecture: str
    system: str
    cores: int
    memory_bytes: int
    governor: str | None
    clock_ns: float


def describe() -> Machine:
    """Describe this machine."""
    return Machine(
        cpu=provenance.cpu_model(),
        int8_dot=provenance.int8_dot(),
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        governor=provenance.read_text(GOVERNOR),
        clock_ns=_clock_ns(),
    )


def slug() -> str:
    """Return a name for this kind of machine that files and budgets go by, such as "amd-epyc-2-cores-avx512-vnni"."""
    model = provenance.cpu_model() or platform.machine()
    words = re.findall(r"[a-z0-9]+", re.sub(r"\(.*?\)|@.*|\bcpu\b|\bprocessor\b", " ", model.lower()))
    int8 = (provenance.int8_dot() or "no int8 dot").replace(" ", "-").replace("_", "-")
    return "-".join([*words, str(len(os.sched_getaffinity(0))), "cores", int8])


def load_average() -> float:
    """Return the runnable processes of the last minute, on average; this one counts itself."""
    return round(os.getloadavg()[0], 2)


def versions() -> dict[str, str]:
    """Return the version of everything between a frame and its prediction."""
    return provenance.versions("numpy", "onnxruntime", "edge-cnnlstm")


def _clock_ns(readings: int = 1000) -> float:
    clock = time.monotonic_ns
    return statistics.fmean(-(clock() - clock()) for _ in range(readings))
