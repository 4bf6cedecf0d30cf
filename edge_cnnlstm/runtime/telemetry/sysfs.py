"""Files of /sys and /proc that hold one number or one word.

Read with `os.read` because that is a few microseconds a file, and lets other threads run while a driver talks to
its sensor.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

LIMIT = 4096
_NUMBER = re.compile(rb"-?[0-9]{1,18}\s*")


def read_bytes(path: Path | str) -> bytes | None:
    """Return at most a page of a file; None when it is not there, refuses, or its device sleeps."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return os.read(descriptor, LIMIT)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def read_number(path: Path | str) -> int | None:
    """Return the whole number that a file holds; None when it holds anything else."""
    text = read_bytes(path)
    return int(text) if text is not None and _NUMBER.fullmatch(text) else None


def read_word(path: Path | str) -> str | None:
    """Return a file's text without the white space and NULs around it; None when there is none."""
    text = read_bytes(path)
    return (text.decode(errors="replace").strip("\0\n\t ") or None) if text is not None else None


def hwmons(root: Path, name: str) -> Iterator[Path]:
    """Yield the hwmon folders that carry this name: their numbers change from boot to boot."""
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if read_word(folder / "name") == name:
            yield folder
