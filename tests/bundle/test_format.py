from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_cnnlstm.bundle import archive, golden, manifest
from edge_cnnlstm.bundle import format as bundle_format
from edge_cnnlstm.bundle.golden import Golden
from edge_cnnlstm.bundle.manifest import Manifest, Member
from edge_cnnlstm.errors import BundleError


def rewritten(bundle: Path, change: dict[str, bytes]) -> bytes:
    """The bundle with members added or replaced, and the manifest left as it was."""
    return archive.encode({**archive.decode(bundle.read_bytes()), **change})


def test_what_is_written_is_what_is_read(
    tiny_bundle: Path, tiny_manifest: Manifest, tiny_members: dict[str, bytes], tiny_golden: Golden
) -> None:
    bundle = bundle_format.read(tiny_bundle)
    listed = {name: Member.of(content) for name, content in tiny_members.items()}
    assert bundle.manifest == replace(tiny_manifest, members=listed)
    assert bundle.members == tiny_members
    assert bundle.graph("tiny") == tiny_members["graphs/tiny.onnx"]
    np.testing.assert_array_equal(bundle.golden.frames, tiny_golden.frames)
    np.testing.assert_array_equal(bundle.golden.resets, tiny_golden.resets)
    assert bundle.golden.expected["tiny"].keys() == tiny_golden.expected["tiny"].keys()
    for name, array in tiny_golden.expected["tiny"].items():
        np.testing.assert_array_equal(bundle.golden.expected["tiny"][name], array)
        assert bundle.golden.expected["tiny"][name].dtype == array.dtype


def test_equal_inputs_give_equal_bytes(
    tmp_path: Path, tiny_bundle: Path, tiny_manifest: Manifest, tiny_members: dict[str, bytes], tiny_golden: Golden
) -> None:
    again = tmp_path / "elsewhere" / "again.edge"
    members = {**tiny_members, "golden.npz": golden.dump(tiny_golden)}
    assert bundle_format.write(again, tiny_manifest, members).members == tiny_members
    assert again.read_bytes() == tiny_bundle.read_bytes()


def test_writing_fills_in_the_members_whatever_the_manifest_said(
    tmp_path: Path, tiny_bundle: Path, tiny_manifest: Manifest, tiny_members: dict[str, bytes]
) -> None:
    stale = replace(tiny_manifest, members={"old": Member("0" * 64, 1)})
    bundle_format.write(tmp_path / "a.edge", stale, tiny_members)
    assert (tmp_path / "a.edge").read_bytes() == tiny_bundle.read_bytes()


def test_an_unknown_graph_is_named_with_the_known_ones(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"no graph 'huge' in bundle 'tiny'\n  expected: one of tiny"):
        bundle_format.read(tiny_bundle).graph("huge")


@pytest.mark.parametrize("member", ["graphs/tiny.onnx", "golden.npz", "labels.txt"])
def test_a_replaced_member_is_named(tiny_bundle: Path, member: str) -> None:
    with pytest.raises(BundleError, match=f"differ from the manifest: {member}"):
        bundle_format.unpack(rewritten(tiny_bundle, {member: b"something else"}))


def test_a_member_of_the_right_size_with_another_content_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"labels\.txt"):
        bundle_format.unpack(rewritten(tiny_bundle, {"labels.txt": b"zero\none\ntwa\n"}))


def test_an_extra_member_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="differ from the manifest: extra"):
        bundle_format.unpack(rewritten(tiny_bundle, {"extra": b""}))


@pytest.mark.parametrize("member", ["graphs/tiny.onnx", "golden.npz", "labels.txt"])
def test_a_missing_member_is_refused(tiny_bundle: Path, member: str) -> None:
    members = archive.decode(tiny_bundle.read_bytes())
    del members[member]
    with pytest.raises(BundleError, match=member):
        bundle_format.unpack(archive.encode(members))


def test_members_in_another_order_are_refused(tiny_bundle: Path) -> None:
    first, *others = archive.decode(tiny_bundle.read_bytes()).items()
    with pytest.raises(BundleError, match="their order"):
        bundle_format.unpack(archive.encode(dict([first, *reversed(others)])))


def test_the_manifest_comes_first(tiny_bundle: Path) -> None:
    first, *others = archive.decode(tiny_bundle.read_bytes()).items()
    with pytest.raises(BundleError, match=r"begin with manifest\.json"):
        bundle_format.unpack(archive.encode(dict([*others, first])))


def test_an_archive_without_members_is_refused() -> None:
    with pytest.raises(BundleError, match=r"begin with manifest\.json"):
        bundle_format.unpack(archive.encode({}))


@pytest.mark.parametrize("lost", ["golden.npz", "graphs/tiny.onnx"])
def test_what_the_manifest_promises_must_be_listed_and_there(
    tiny_manifest: Manifest, tiny_members: dict[str, bytes], tmp_path: Path, lost: str
) -> None:
    members = {name: data for name, data in tiny_members.items() if name != lost}
    with pytest.raises(BundleError, match=f"not there: {lost}"):
        bundle_format.write(tmp_path / "a.edge", tiny_manifest, members)
    assert not list(tmp_path.iterdir())


def test_a_member_called_manifest_cannot_take_its_place(
    tiny_manifest: Manifest, tiny_members: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(BundleError):
        bundle_format.write(tmp_path / "a.edge", tiny_manifest, {**tiny_members, "manifest.json": b"{}"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../escape", "/etc/passwd", "a/../../b", "a\\..\\b", "./a", "a//b", ""])
def test_a_member_name_that_leaves_the_bundle_is_refused(
    tiny_manifest: Manifest, tiny_members: dict[str, bytes], name: str
) -> None:
    members = {**tiny_members, name: b"x"}
    listed = replace(tiny_manifest, members={key: Member.of(content) for key, content in members.items()})
    with pytest.raises(BundleError):
        bundle_format.unpack(archive.encode({"manifest.json": manifest.dump(listed), **members}))


@pytest.mark.parametrize("data", [b"", b"\0", b"PK\x05\x06", b"not a zip at all", b"PK\x03\x04" * 500, bytes(5000)])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.edge"
    path.write_bytes(data)
    with pytest.raises(BundleError, match="python -m export"):
        bundle_format.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere\.edge: No such file"):
        bundle_format.read(tmp_path / "nowhere.edge")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot read"):
        bundle_format.read(tmp_path)


def test_a_file_used_as_a_folder_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(BundleError, match="cannot read"):
        bundle_format.read(tiny_bundle / "a.edge")


def test_a_path_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(BundleError):
        bundle_format.read("a\0b.edge")


def test_a_file_above_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.edge"
    with path.open("wb") as file:
        file.truncate(archive.MAXIMUM_BYTES + 1)
    with pytest.raises(BundleError, match="at most 1 GiB"):
        bundle_format.read(path)


def test_a_device_is_refused_instead_of_read_for_ever() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from edge_cnnlstm.bundle.format import read\n"
        "try: read('/dev/zero')\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    # One thread of linear algebra, or its buffers alone would fill the address space allowed here.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.strip() == "BundleError"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failing_write_leaves_the_old_bundle_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_manifest: Manifest,
    tiny_members: dict[str, bytes],
    failure: BaseException,
) -> None:
    path = tmp_path / "a.edge"
    path.write_bytes(b"the old one")

    def failing(_: int) -> None:
        raise failure

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises((BundleError, KeyboardInterrupt)) as caught:
        bundle_format.write(path, tiny_manifest, tiny_members)
    assert isinstance(caught.value, BundleError) == isinstance(failure, OSError)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["file/a.edge", "file/deeper/a.edge", "folder"])
def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, tiny_manifest: Manifest, tiny_members: dict[str, bytes], place: str
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match=f"cannot write .*{place}"):
        bundle_format.write(tmp_path / place, tiny_manifest, tiny_members)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_written_bundle_is_readable_by_everyone(
    tmp_path: Path, tiny_manifest: Manifest, tiny_members: dict[str, bytes]
) -> None:
    path = tmp_path / "a.edge"
    bundle_format.write(path, tiny_manifest, tiny_members)
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]
