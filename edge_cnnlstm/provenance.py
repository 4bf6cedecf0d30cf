"""What a result was made with: this machine, the installed versions, and the commit of the sources."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
BOARD = Path("/proc/device-tree/model")
INT8_DOT = ("amx_int8", "avx512_vnni", "avx_vnni", "asimddp", "i8mm")
"""What processors call the instructions that multiply and add up int8, as /proc/cpuinfo lists them."""


def versions(*distributions: str) -> dict[str, str]:
    """Return the versions of Python and of those distributions that are installed."""
    found = {name: _version(name) for name in distributions}
    return {"python": platform.python_version()} | {name: number for name, number in found.items() if number}


def machine() -> dict[str, Any]:
    """Describe this machine; None where it does not say."""
    return {
        "cpu": cpu_model(),
        "int8_dot": int8_dot(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": platform.platform(),
    }


def cpu_model() -> str | None:
    """Return the processor's name. Only x86 has one in /proc/cpuinfo; an Arm board names itself in the device tree."""
    lines = (read_text(CPUINFO) or "").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else read_text(BOARD)


def int8_dot() -> str | None:
    """Return the instruction that multiplies and adds up int8 here; None for a processor that is slow at it."""
    lines = (read_text(CPUINFO) or "").splitlines()
    able = {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}
    return next((name for name in INT8_DOT if name in able), None)


def read_text(path: Path) -> str | None:
    """Return what a file of /proc or /sys says; None when it cannot be read or says nothing."""
    try:
        return path.read_text(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def git_commit(folder: Path) -> str | None:
    """Return the commit that `folder` is checked out at, with "+" when files differ from it; None outside of git."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + "+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return None


def _version(distribution: str) -> str | None:
    from importlib.metadata import (  # here, because it takes longer than most of the runtime
        PackageNotFoundError,
        version,
    )

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()
