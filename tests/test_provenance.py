from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import pytest

from edge_cnnlstm import provenance


def test_this_machine_and_its_versions_are_described_as_plain_data() -> None:
    found = provenance.machine()

    assert json.loads(json.dumps(found)) == found
    assert found["cores"] >= 1
    assert found["memory_gib"] > 0


def test_only_what_is_installed_has_a_version() -> None:
    found = provenance.versions("numpy", "no-such-distribution")

    assert set(found) == {"python", "numpy"}
    assert found["python"] == platform.python_version()


def test_a_machine_that_does_not_say_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPUINFO", "BOARD"):
        monkeypatch.setattr(provenance, name, tmp_path / "absent")

    assert provenance.machine()["cpu"] is None


def test_an_arm_board_names_itself_in_the_device_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nCPU part\t: 0xd42\n")
    (tmp_path / "model").write_text("NVIDIA Jetson Orin Nano\0")
    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(provenance, "BOARD", tmp_path / "model")

    assert provenance.cpu_model() == "NVIDIA Jetson Orin Nano"


def test_a_pc_names_its_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nmodel name\t: Some CPU\n")
    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "cpuinfo")

    assert provenance.cpu_model() == "Some CPU @ 2.00GHz"


@pytest.mark.parametrize(
    ("line", "instruction"),
    [
        ("flags\t\t: fpu avx2 avx512_vnni", "avx512_vnni"),
        ("flags\t\t: fpu avx2 avx_vnni_int16", None),
        ("Features\t: fp asimd asimddp", "asimddp"),
        ("bogomips\t: avx_vnni", None),
    ],
)
def test_a_processor_says_how_it_multiplies_int8(
    line: str, instruction: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    monkeypatch.setattr(provenance, "CPUINFO", tmp_path / "cpuinfo")

    assert provenance.int8_dot() == instruction


def test_the_commit_says_when_files_differ_from_it(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words], check=True)

    assert provenance.git_commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    clean = provenance.git_commit(tmp_path)
    (tmp_path / "file").write_text("two")

    assert clean is not None
    assert len(clean) == 40
    assert provenance.git_commit(tmp_path) == f"{clean}+"
