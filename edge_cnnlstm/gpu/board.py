"""Which board and driver this is, as files say it: an engine is built for one release of both."""

from __future__ import annotations

import re
from pathlib import Path

from edge_cnnlstm.provenance import read_text

_RELEASE = re.compile(r"# R(\d+) \(release\), REVISION: (\d+(?:\.\d+)*)", re.ASCII)
_DRIVER = re.compile(r"NVRM version:.*?\s(\d+(?:\.\d+)+)\s", re.ASCII)


def l4t_release(root: Path = Path("/")) -> str | None:
    """Return the Jetson Linux release, such as "36.4.3"; None off a Jetson, and in containers that hide it."""
    release = _RELEASE.match(read_text(root / "etc/nv_tegra_release") or "")
    return f"{release[1]}.{release[2]}" if release else None


def driver_version(root: Path = Path("/")) -> str | None:
    """Return the release of NVIDIA's kernel driver, such as "540.4.0"; None where there is none."""
    driver = _DRIVER.match(read_text(root / "proc/driver/nvidia/version") or "")
    return driver[1] if driver else None
