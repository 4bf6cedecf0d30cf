from __future__ import annotations

import hashlib
import io
import stat
import struct
import tracemalloc
import zipfile
import zlib

import pytest

from edge_cnnlstm.bundle import archive
from edge_cnnlstm.errors import BundleError

MEMBERS = {"manifest.json": b"{}", "graphs/a.onnx": bytes(range(256)), "empty": b""}


def zipped(
    entries: list[tuple[str, bytes]],
    *,
    compression: int = zipfile.ZIP_STORED,
    mode: int = 0o644,
    date: tuple[int, int, int, int, int, int] = (1980, 1, 1, 0, 0, 0),
    comment: bytes = b"",
    extra: bytes = b"",
) -> bytes:
    """An archive as `encode` makes it, but for one thing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in entries:
            info = zipfile.ZipInfo(name, date)
            info.create_system = 3
            info.external_attr = mode << 16
            info.extra = extra
            file.writestr(info, data, compression)
        file.comment = comment
    return buffer.getvalue()


def nested(payload: bytes, count: int) -> bytes:
    """An archive whose every member holds all members after it: small on disk, `count` times as large in memory."""
    tail, entries = payload, b""
    headers: list[tuple[bytes, bytes]] = []
    for index in reversed(range(count)):
        name = f"{index:04}".encode()
        crc, size = zlib.crc32(tail), len(tail)
        fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, crc, size, size, len(name), 0)
        tail = b"PK\x03\x04" + fields + name + tail
        headers.append((fields, name))
    for index, (fields, name) in enumerate(reversed(headers)):
        offset = index * (30 + len(name))
        entries += b"PK\x01\x02" + struct.pack("<H", 0x0314) + fields
        entries += struct.pack("<HHHII", 0, 0, 0, 0o644 << 16, offset) + name
    end = struct.pack("<HHHHIIH", 0, 0, count, count, len(entries), len(tail), 0)
    return tail + entries + b"PK\x05\x06" + end


def test_members_come_back_in_order() -> None:
    assert list(archive.decode(archive.encode(MEMBERS)).items()) == list(MEMBERS.items())
    assert archive.encode(dict(reversed(MEMBERS.items()))) != archive.encode(MEMBERS)


def test_the_helper_below_agrees_with_the_encoder() -> None:
    assert zipped(list(MEMBERS.items())) == archive.encode(MEMBERS)


def test_any_zip_reader_can_look_inside() -> None:
    with zipfile.ZipFile(io.BytesIO(archive.encode(MEMBERS))) as file:
        assert file.testzip() is None
        assert {name: file.read(name) for name in file.namelist()} == MEMBERS


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(compression: int) -> None:
    with pytest.raises(BundleError, match="compression"):
        archive.decode(zipped(list(MEMBERS.items()), compression=compression))


def test_a_compressed_bomb_is_never_inflated() -> None:
    bomb = zipped([("manifest.json", bytes(256 << 20))], compression=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    with pytest.raises(BundleError):
        archive.decode(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", [b"{}", b"something else"])
def test_a_repeated_name_is_refused(second: bytes) -> None:
    with pytest.raises(BundleError, match="repeated"):
        archive.decode(zipped([("manifest.json", b"{}"), ("manifest.json", second)]))


def test_too_many_members_are_refused() -> None:
    most = {f"{index}": b"" for index in range(archive.MAXIMUM_MEMBERS)}
    assert archive.decode(archive.encode(most)) == most
    with pytest.raises(BundleError, match="65 members"):
        archive.decode(archive.encode({**most, "one too many": b""}))


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644, 0o4755, 0])
def test_links_folders_and_other_modes_are_refused(mode: int) -> None:
    with pytest.raises(BundleError, match="changed headers"):
        archive.decode(zipped([("manifest.json", b"/etc/passwd")], mode=mode))


def test_another_date_a_comment_or_an_extra_field_is_refused() -> None:
    entries = list(MEMBERS.items())
    extra = struct.pack("<HH4s", 0x5455, 4, b"time")
    for data in (
        zipped(entries, date=(1980, 1, 1, 0, 0, 2)),
        zipped(entries, comment=b"hello"),
        zipped(entries, extra=extra),
    ):
        with pytest.raises(BundleError, match="changed headers"):
            archive.decode(data)


def test_bytes_before_the_first_member_are_refused() -> None:
    with pytest.raises(BundleError):
        archive.decode(b"#!/bin/sh\n" + archive.encode(MEMBERS))


def test_bytes_between_members_and_directory_are_refused() -> None:
    data = archive.encode(MEMBERS)
    directory = data.index(b"PK\x01\x02")
    end = bytearray(data[directory:])
    start = end.rindex(b"PK\x05\x06") + 16
    end[start : start + 4] = struct.pack("<I", directory + 7)
    with pytest.raises(BundleError, match="belong to no member"):
        archive.decode(data[:directory] + b"smuggle" + bytes(end))


@pytest.mark.parametrize("claimed", [0xFFFFFFFE, 0x7FFFFFFF, 1 << 30, 257, 255])
def test_a_claimed_size_that_is_not_true_is_refused_without_the_memory_for_it(claimed: int) -> None:
    data = bytearray(archive.encode(MEMBERS))
    name = b"graphs/a.onnx"
    local, directory = data.index(name) - 30, data.rindex(name) - 46
    for position in (local + 18, local + 22, directory + 20, directory + 24):
        data[position : position + 4] = struct.pack("<I", claimed)
    tracemalloc.start()
    with pytest.raises(BundleError):
        archive.decode(bytes(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def test_members_inside_members_cannot_multiply_the_memory() -> None:
    data = nested(bytes(1 << 20), count=48)
    tracemalloc.start()
    with pytest.raises(BundleError):
        archive.decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(data)


@pytest.mark.parametrize("flag", [0x1, 0x8, 0x20, 0x40, 0x800, 0x2000])
def test_encrypted_patched_and_streamed_members_are_refused(flag: int) -> None:
    data = bytearray(archive.encode(MEMBERS))
    directory = data.index(b"PK\x01\x02")
    for position in (6, directory + 8):
        data[position : position + 2] = struct.pack("<H", flag)
    with pytest.raises(BundleError):
        archive.decode(bytes(data))


def test_names_outside_ascii_survive() -> None:
    members = {"labels-größe.txt": b"x", "標籤": b"y"}
    assert archive.decode(archive.encode(members)) == members


def test_the_bytes_are_the_same_on_every_machine_and_python() -> None:
    digest = hashlib.sha256(archive.encode(MEMBERS)).hexdigest()
    assert digest == "91bc3cb31cb26a6ab2dd4f8d00caf3fa0eb49d4ed772bcefe4ec7f6de95a4391"
