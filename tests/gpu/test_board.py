from __future__ import annotations

from pathlib import Path

import pytest

from edge_cnnlstm.gpu.board import driver_version, l4t_release

RELEASE = "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC"
JETSON = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build  (buildbrain@mobile)\n"
    "GCC version:  collect2: error: ld returned 1 exit status\n"
)
PC = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version:  12.3.0\n"


def put(root: Path, name: str, content: bytes) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("text", "release"),
    [
        (RELEASE, "36.4.3"),
        ("# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic\nmore\n", "39.2.0"),
        ("R36 (release), REVISION: 4.3", None),
        ("\n" + RELEASE, "36.4.3"),
        ("Ubuntu 22.04.5 LTS", None),
        ("", None),
    ],
)
def test_a_jetson_says_its_release_in_the_first_line(tmp_path: Path, text: str, release: str | None) -> None:
    put(tmp_path, "etc/nv_tegra_release", text.encode())

    assert l4t_release(tmp_path) == release


@pytest.mark.parametrize(("text", "version"), [(JETSON, "540.4.0"), (PC, "535.104.05"), ("NVRM version: none\n", None)])
def test_the_driver_says_its_version(tmp_path: Path, text: str, version: str | None) -> None:
    put(tmp_path, "proc/driver/nvidia/version", text.encode())

    assert driver_version(tmp_path) == version


def test_what_is_not_there_or_not_text_is_none(tmp_path: Path) -> None:
    assert l4t_release(tmp_path) is None
    assert driver_version(tmp_path) is None

    for name in ("etc/nv_tegra_release", "proc/driver/nvidia/version"):
        put(tmp_path, name, bytes(range(256)))

    assert l4t_release(tmp_path) is None
    assert driver_version(tmp_path) is None
