"""The container of a bundle: a zip with exactly one valid encoding, so that any changed byte is found.

Members are stored, never compressed; names are in the writer's order; every other field of the format has one
fixed value. Reading encodes the members again and compares, which covers the bytes that no checksum does.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

from edge_cnnlstm.errors import BundleError

MAXIMUM_BYTES = 1 << 30
MAXIMUM_MEMBERS = 64
_LOCAL_HEADER = 30
"""Bytes that stand before a member's name."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


def encode(members: Mapping[str, bytes]) -> bytes:
    """Return the archive of these members, in this order; equal members give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3  # otherwise the writer's operating system would show in the bytes
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def decode(data: bytes) -> dict[str, bytes]:
    """Return the members in order. Raises BundleError for anything that `encode` would not have written."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if len(set(names)) != len(names) or len(names) > MAXIMUM_MEMBERS or not stored:
                raise damaged(f"an archive of {len(names)} members with repeated names or compression")
            if sum(entry.file_size for entry in entries) > len(data):
                raise damaged("an archive whose members claim more bytes than it has")
            members = {entry.filename: _content(data, entry) for entry in entries}
    except BundleError:
        raise
    except Exception as error:  # zipfile raises a dozen unrelated types on hostile bytes, and all mean the same
        raise damaged(f"an archive that cannot be read ({error})") from error
    if encode(members) != data:
        raise damaged("an archive with changed content, bytes that belong to no member, or changed headers")
    return members


def _content(data: bytes, entry: zipfile.ZipInfo) -> bytes:
    """Return what lies where `encode` would have put a member, unchecked: encoding it again is the check."""
    start = entry.header_offset + _LOCAL_HEADER + len(entry.filename.encode())
    return data[start : start + entry.file_size]


def damaged(found: str) -> BundleError:
    """Return the error for bytes that are not a sound bundle."""
    return BundleError(
        found,
        expected="the exact bytes that `python -m export` wrote",
        fix="the file was damaged or changed: copy it again from where it was exported",
    )
