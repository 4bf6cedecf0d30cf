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


def test_what_cannot_be_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPUINFO", "BOARD", "GOVERNOR"):
        monkeypatch.setattr(machine, name, tmp_path / "absent")
    found = machine.describe()
    assert found.cpu is None
    assert found.governor is None


def test_an_arm_board_names_itself_in_the_device_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU part\t: 0xd42\n")
    (tmp_path / "model").write_text("NVIDIA Jetson Orin Nano\0")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "BOARD", tmp_path / "model")
    assert machine.describe().cpu == "NVIDIA Jetson Orin Nano"


def test_a_pc_names_its_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nmodel name\t: Some CPU\n")
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    assert machine.describe().cpu == "Some CPU @ 2.00GHz"
