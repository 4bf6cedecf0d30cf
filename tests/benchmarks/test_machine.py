"""Holds that a machine which does not say something is reported as not saying it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import machine


def test_this_machine_is_described() -> None:
    found = machine.describe()
    assert found.cores >= 1
    assert found.memory_bytes > 0
    assert found.clock_ns > 0
    assert machine.load_average() >= 0
    assert all(machine.versions().values())


def test_a_governor_that_cannot_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GOVERNOR", tmp_path / "absent")
    assert machine.describe().governor is None
