"""What only a Jetson says: its rails, over-current counters, GPU clock and load, and power mode."""

from __future__ import annotations

import re
from pathlib import Path

from edge_cnnlstm.runtime.telemetry.sample import Reading
from edge_cnnlstm.runtime.telemetry.sysfs import hwmons, read_number, read_word

GPU_DEVFREQ = ("*.gpu", "gpu-gpc-*", "*.ga10b", "*.gv11b", "*.gp10b")
"""Orin on JetPack 6 and 7, Thor, and what older kernels call an Orin's, a Xavier's and a TX2's GPU."""
_POWER_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", re.ASCII)
_ACTIVE_MODE = re.compile(r"pmode:(\d+)", re.ASCII)


class Jetson:
    """Reads /sys, /etc and /var below `root`; temperatures and the processor's clock are `Linux`'s.

    Rails are named as the board's ina3221 label them; on Thor only tegrastats knows them. Over-current counters
    are the firmware's since boot: oc1 under-voltage, oc2 average and oc3 instantaneous over-current.
    """

    name = "jetson"

    def __init__(self, root: Path = Path("/")) -> None:
        self._rails = {label: paths for chip in hwmons(root, "ina3221") for label, paths in _rails(chip)}
        self._counters = {
            path.name.removesuffix("_event_cnt"): path
            for chip in hwmons(root, "soctherm_oc")
            for path in sorted(chip.glob("oc*_event_cnt"))
        }
        self._gpus = [gpu for pattern in GPU_DEVFREQ for gpu in sorted(root.glob(f"sys/class/devfreq/{pattern}"))]
        self._modes = _power_modes(root)
        self._status = root / "var/lib/nvpmodel/status"

    @classmethod
    def find(cls, root: Path = Path("/")) -> Jetson | None:
        """Return the source; None when this is no Jetson."""
        source = cls(root)
        return source if source.knows_something else None

    @property
    def knows_something(self) -> bool:
        """Whether any file was there to be read."""
        return bool(self._rails or self._counters or self._gpus or self._modes)

    def read(self) -> Reading:
        """Read everything once."""
        counts = {name: read_number(path) for name, path in self._counters.items()}
        return Reading(
            power_mw=self._power(),
            clocks_mhz=self._gpu_clock(),
            utilisation=self._gpu_load(),
            throttle={name: count for name, count in counts.items() if count is not None},
            power_mode=self._power_mode(),
        )

    def close(self) -> None:
        """Nothing is held open."""

    def _power(self) -> dict[str, float]:
        power = {}
        for label, (voltage, current) in self._rails.items():
            millivolts, milliamperes = read_number(voltage), read_number(current)
            if millivolts is not None and milliamperes is not None:
                power[label] = millivolts * milliamperes / 1000
        return power

    def _gpu_clock(self) -> dict[str, float]:
        hertz = [value for gpu in self._gpus if (value := read_number(gpu / "cur_freq")) is not None]
        return {"gpu": max(hertz) / 1e6} if hertz else {}

    def _gpu_load(self) -> dict[str, float]:
        permille = [value for gpu in self._gpus if (value := read_number(gpu / "device/load")) is not None]
        return {"gpu": max(permille) / 1000} if permille and max(permille) <= 1000 else {}

    def _power_mode(self) -> str | None:
        active = _ACTIVE_MODE.search(read_word(self._status) or "")
        return self._modes.get(int(active[1])) if active else None


def _rails(chip: Path) -> list[tuple[str, tuple[Path, Path]]]:
    found = []
    for path in sorted(chip.glob("in*_label")):
        number = path.name.removeprefix("in").removesuffix("_label")
        label = read_word(path)
        # "NC" is a channel that the board leaves unconnected.
        if label is not None and label != "NC":
            found.append((label.upper(), (chip / f"in{number}_input", chip / f"curr{number}_input")))
    return found


def _power_modes(root: Path) -> dict[int, str]:
    # The only file here that is longer than a page.
    try:
        text = (root / "etc/nvpmodel.conf").read_text(errors="replace")
    except OSError:
        return {}
    return {int(mode): name for mode, name in _POWER_MODE.findall(text)}
