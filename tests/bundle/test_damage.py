"""Every byte counts: whatever is damaged, the bundle is refused before ONNX Runtime hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import edge_cnnlstm
from edge_cnnlstm.errors import BundleError

REGIONS = 16
SLICE = 64


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The graphs that ONNX Runtime was asked to load."""
    asked: list[bytes] = []
    load = onnxruntime.InferenceSession

    def counting(graph: bytes, *arguments: Any, **options: Any) -> Any:
        asked.append(graph)
        return load(graph, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counting)
    return asked


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tmp_path / "copy.edge"


def refuse(path: Path, data: bytes, damage: str) -> None:
    path.write_bytes(data)
    try:
        edge_cnnlstm.open(path).close()
    except BundleError:
        return
    pytest.fail(f"{damage} went unnoticed")


def test_the_intact_bundle_loads_its_graph_once(tiny_bundle: Path, tiny_onnx: bytes, loads: list[bytes]) -> None:
    edge_cnnlstm.open(tiny_bundle).close()
    assert loads == [tiny_onnx]


@pytest.mark.parametrize("region", range(REGIONS))
def test_every_flipped_bit_is_refused(tiny_bundle: Path, copy: Path, loads: list[bytes], region: int) -> None:
    data = bytearray(tiny_bundle.read_bytes())
    for position in range(region, len(data), REGIONS):
        bit = 1 << position // REGIONS % 8
        data[position] ^= bit
        refuse(copy, bytes(data), f"bit {bit:#04x} of byte {position}")
        data[position] ^= bit
    assert data == tiny_bundle.read_bytes()
    assert loads == []


@pytest.mark.parametrize("replacement", [b"\x00", b"\xff"])
def test_every_overwritten_slice_is_refused(
    tiny_bundle: Path, copy: Path, loads: list[bytes], replacement: bytes
) -> None:
    data = tiny_bundle.read_bytes()
    for start in range(0, len(data), SLICE):
        damaged = data[:start] + replacement * len(data[start : start + SLICE]) + data[start + SLICE :]
        if damaged != data:
            refuse(copy, damaged, f"{replacement!r} from byte {start}")
    assert loads == []


def test_every_truncation_is_refused(tiny_bundle: Path, copy: Path, loads: list[bytes]) -> None:
    data = tiny_bundle.read_bytes()
    for length in [*range(0, len(data), SLICE), *range(len(data) - 30, len(data))]:
        refuse(copy, data[:length], f"the end after byte {length}")
    assert loads == []


@pytest.mark.parametrize("tail", [b"\0", b"\n", b"PK", bytes(64), bytes(70_000)], ids=len)
def test_every_extension_is_refused(tiny_bundle: Path, copy: Path, loads: list[bytes], tail: bytes) -> None:
    data = tiny_bundle.read_bytes()
    refuse(copy, data + tail, "an extension")
    refuse(copy, tail + data, "a prefix")
    refuse(copy, data + data, "a repetition")
    assert loads == []


def test_a_lost_and_a_doubled_slice_are_refused(tiny_bundle: Path, copy: Path, loads: list[bytes]) -> None:
    data = tiny_bundle.read_bytes()
    for start in range(0, len(data), SLICE):
        refuse(copy, data[:start] + data[start + SLICE :], f"the loss of slice {start}")
        refuse(copy, data[: start + SLICE] + data[start:], f"the doubling of slice {start}")
    assert loads == []
