"""What every result says beside its numbers: the command, the bundle, the machine, its load, and if it throttled."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks import page as pages
from benchmarks.bundle import identity
from edge_cnnlstm import provenance
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.cli import console
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.runtime.telemetry import Telemetry

SCHEMA_VERSION = 2
"""Of what `recording` writes; what a suite adds beside it may grow without a new number."""


@contextmanager
def recording(
    suite: str, words: Sequence[object], bundle: Path | None, distributions: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield a report that a suite adds its results to, and complete it when the measurement is over.

    `words` are those after the suite's name of the command that repeats it, without a folder of this machine; a bundle
    comes first among them. `valid` is False when the machine throttled, with the `reasons`, and None where it does not
    say. Load averages are taken before and after; telemetry once in five seconds, so that it costs nothing.
    """
    first = [] if bundle is None else [bundle.name]
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "suite": suite,
        "command": shlex.join(["python", "-m", "benchmarks", suite, *first, *map(str, words)]),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "bundle": None if bundle is None else identity(bundle_format.read(bundle), bundle),
        "machine": asdict(machine.describe()) | {"load_before": machine.load_average()},
        "versions": provenance.versions(*distributions, "edge-cnnlstm"),
    }
    begun = time.monotonic()
    with Telemetry(interval_s=5) as telemetry:
        yield report
    told = telemetry.document()
    report["seconds"] = round(time.monotonic() - begun, 1)
    report["machine"]["load_after"] = machine.load_average()
    report |= {"valid": told["verdict"]["valid"], "reasons": told["verdict"]["reasons"], "telemetry": told}


def keep(report: dict[str, Any], destination: Path | None, page: Path | None = None) -> None:
    """Write a report as JSON and as a page, where somebody asked for them.

    Raises ConfigError when a place cannot be written.
    """
    if destination is not None:
        console.write_json(destination, report)
    if page is not None:
        write_page(page, report["suite"], [report])


def read(path: Path) -> dict[str, Any]:
    """Read a result that `keep` wrote; raises ConfigError for anything else, an older result among it."""
    try:
        report = json.loads(path.read_text())
        found = report["schema_version"], report["suite"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path.name} is no result: {type(error).__name__}: {error}",
            expected="a JSON file that a suite wrote with -o",
            fix="measure again, or name another file",
        ) from error
    if found[0] != SCHEMA_VERSION:
        raise ConfigError(
            f"{path.name} of schema version {found[0]}",
            expected=f"version {SCHEMA_VERSION}",
            fix="measure again with this version",
        )
    return dict(report)


def write_page(
    path: Path, title: str, reports: Sequence[dict[str, Any]], figures: Sequence[dict[str, Any]] = ()
) -> None:
    """Write the page of some reports, with `figures` first; errors as `keep` raises them."""
    _write(path, pages.page(title, reports, figures).encode())


def write_picture(path: Path, png: bytes) -> None:
    """Write a picture; errors as `keep` raises them."""
    _write(path, png)


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise console.unusable_path(error) from error
