"""What every result says beside its numbers: the command, the bundle, the machine, its load and whether it throttled."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.bundle import identity
from edge_cnnlstm import provenance
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.cli import console
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


def keep(report: dict[str, Any], destination: Path | None) -> None:
    """Write a report as JSON where somebody asked for it; raises ConfigError when its place cannot be written."""
    if destination is not None:
        console.write_json(destination, report)
