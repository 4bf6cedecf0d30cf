"""Read, verify and write a bundle. The rules are in FORMAT.md beside this file."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from edge_cnnlstm.bundle import archive, golden, manifest
from edge_cnnlstm.bundle.manifest import Manifest, Member
from edge_cnnlstm.errors import BundleError

MANIFEST = "manifest.json"
GOLDEN = "golden.npz"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: every member is exactly what the manifest says. Made by `read` and `pack` only."""

    manifest: Manifest
    members: Mapping[str, bytes]

    @cached_property
    def golden(self) -> golden.Golden:
        """The golden rollout; raises BundleError when it is not about this model."""
        rollout = golden.parse(self.members[GOLDEN])
        golden.check(rollout, self.manifest.model, (graph.name for graph in self.manifest.graphs))
        return rollout

    def graph(self, name: str) -> bytes:
        """Return the ONNX file of the graph called `name`; raises BundleError when there is none."""
        return self.members[self.manifest.graph(name).file]


def read(path: Path | str) -> Bundle:
    """Read a bundle and verify all of it, before any byte reaches ONNX Runtime or TensorRT.

    Raises BundleError when the file is missing, truncated, changed in any byte, or of a newer format.
    """
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > archive.MAXIMUM_BYTES:
            kind = f"{found.st_size} bytes" if stat.S_ISREG(found.st_mode) else "not a file"
            raise BundleError(
                f"cannot read {path}: {kind}", expected="a bundle file of at most 1 GiB", fix="check the path"
            )
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL in it
        raise BundleError(
            f"cannot read {path}: {getattr(error, 'strerror', None) or error}",
            expected="a bundle file, such as model.edge",
            fix="check the path, or make one with `python -m export CHECKPOINT -o model.edge`",
        ) from error
    return unpack(data)


def unpack(data: bytes) -> Bundle:
    """Verify a bundle's bytes; as `read`."""
    members = archive.decode(data)
    if next(iter(members), None) != MANIFEST:
        raise archive.damaged(f"an archive that does not begin with {MANIFEST}")
    described = manifest.parse(members.pop(MANIFEST))
    found = {name: Member.of(content) for name, content in members.items()}
    if found != described.members or list(found) != list(described.members):
        wrong = [name for name in {**found, **described.members} if found.get(name) != described.members.get(name)]
        raise archive.damaged(f"members that differ from the manifest: {', '.join(wrong) or 'their order'}")
    absent = {graph.file for graph in described.graphs} | {GOLDEN}
    absent -= found.keys()
    if absent:
        raise archive.damaged(f"a manifest that names members which are not there: {', '.join(sorted(absent))}")
    return Bundle(described, members)


def write(path: Path, described: Manifest, members: Mapping[str, bytes]) -> Bundle:
    """Write a bundle and return it as read back; the manifest's member list is filled in here.

    The file appears whole or not at all: it is written beside its destination, flushed and renamed. Raises
    BundleError when that fails, leaving whatever stood there before.
    """
    listed = replace(described, members={name: Member.of(content) for name, content in members.items()})
    data = archive.encode({MANIFEST: manifest.dump(listed), **members})
    bundle = unpack(data)
    _replace(path, data)
    return bundle


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        unnamed = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unnamed.chmod(0o644)
            unnamed.replace(path)
            _flush_folder(path.parent)
        except BaseException:
            unnamed.unlink()
            raise
    except OSError as error:
        raise BundleError(
            f"cannot write {path}: {error.strerror}",
            expected="a writable folder with room for the bundle",
            fix="free some space or choose another output path",
        ) from error
