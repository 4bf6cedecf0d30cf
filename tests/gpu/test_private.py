from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.gpu import private
from edge_cnnlstm.gpu.private import open_private, write_whole
from tests.gpu.disk import Disk

SOMEBODY = 65534


@pytest.fixture
def plans(tmp_path: Path) -> Path:
    """A folder that is as it should be, with one file."""
    folder = tmp_path / "cache" / "plans"
    with open_private(folder, make=True) as opened, opened.locked():
        opened.write("a.plan", b"whole")
    return folder


def read(folder: Path, name: str = "a.plan") -> bytes | None:
    with open_private(folder) as opened:
        return opened.read(name)


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `path` another user's: truly if we may, else by being another user from now on."""
    if os.geteuid() == 0:
        os.chown(path, SOMEBODY, -1, follow_symlinks=False)
    else:
        somebody = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: somebody)


def test_whatever_the_umask_all_that_is_made_is_this_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_private(tmp_path / "a/b/plans", make=True) as opened, opened.locked():
            opened.write("a.plan", b"whole")
    finally:
        os.umask(before)

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").rglob("*")}
    assert modes == {"b": 0o700, "plans": 0o700, "a.plan": 0o600, ".lock": 0o600}


def test_a_folder_that_is_not_there_is_not_made_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_private(tmp_path / "cache" / "plans"):
        pass

    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("mode", [0o720, 0o770, 0o702, 0o777, 0o1777, 0o2770])
def test_a_folder_that_others_can_write_is_refused_with_the_line_that_mends_it(plans: Path, mode: int) -> None:
    plans.chmod(mode)

    with pytest.raises(ConfigError, match="others can write") as refused:
        read(plans)

    assert f"chmod go-w {plans}, and remove the plans" in refused.value.fix
    os.system(refused.value.fix.partition(",")[0])  # noqa: S605 - the line that a person would copy
    assert read(plans) == b"whole"


@pytest.mark.parametrize("mode", [0o770, 0o777])
def test_a_folder_above_it_that_others_can_write_is_refused(plans: Path, mode: int) -> None:
    plans.parent.chmod(mode)

    with pytest.raises(ConfigError, match=f"others can write {plans.parent} ") as refused:
        read(plans)

    assert refused.value.fix == f"chmod go-w {plans.parent}"


def test_a_sticky_folder_above_it_is_no_danger(plans: Path) -> None:
    plans.parent.chmod(0o1777)

    assert read(plans) == b"whole"


@pytest.mark.parametrize("above", [False, True])
def test_a_folder_of_another_users_is_refused(plans: Path, monkeypatch: pytest.MonkeyPatch, above: bool) -> None:
    give_away(plans.parent if above else plans, monkeypatch)

    with pytest.raises(ConfigError, match=r"belongs to user \d+") as refused:
        read(plans)

    assert f"chown {os.geteuid()} " in refused.value.fix
    assert "CACHE_DIRECTORY" in refused.value.fix


def test_a_link_in_the_folders_place_is_refused(plans: Path) -> None:
    link = plans.with_name("link")
    link.symlink_to(plans)

    for make in (False, True):
        with pytest.raises(ConfigError, match="is a symbolic link"), open_private(link, make=make):
            pass


def test_a_link_above_it_is_followed_and_what_it_leads_to_is_checked(plans: Path) -> None:
    link = plans.parent.with_name("link")
    link.symlink_to(plans.parent)
    assert read(link / "plans") == b"whole"

    plans.parent.chmod(0o777)

    with pytest.raises(ConfigError, match=f"others can write {plans.parent} "):
        read(link / "plans")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    with pytest.raises(ConfigError, match="is a symbolic link"), open_private(tmp_path / "a" / "plans", make=True):
        pass


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plans").write_bytes(b"")

    with pytest.raises(ConfigError, match="is no folder"), open_private(tmp_path / "plans", make=True):
        pass


@pytest.mark.parametrize("kind", ["link", "second name", "pipe", "folder", "for the group", "for all", "another's"])
def test_only_a_plain_file_that_nobody_else_can_write_is_read(
    plans: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    file, other = plans / "a.plan", plans.parent / "other"
    if kind == "link":
        file.rename(other)
        file.symlink_to(other)
    elif kind == "second name":
        os.link(file, other)
    elif kind == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "another's":
        # Only root can give a file away; for others the folders are another's too, which is refused as well.
        give_away(file, monkeypatch)
    else:
        file.chmod(0o620 if kind == "for the group" else 0o602)

    with pytest.raises(ConfigError, match="a plan is code"):
        read(plans)


def test_a_file_that_is_replaced_just_as_it_is_read_is_read_as_it_was(
    plans: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = private._check_file

    def replaced(path: Path, found: os.stat_result) -> None:
        path.unlink()
        path.write_bytes(b"another")
        check(path, os.fstat(descriptors[-1]))

    descriptors: list[int] = []
    monkeypatch.setattr(private, "_check_file", replaced)
    monkeypatch.setattr(
        os, "fstat", lambda descriptor, fstat=os.fstat: descriptors.append(descriptor) or fstat(descriptor)
    )

    assert read(plans) == b"whole"


def test_roots_file_is_read_by_a_user(plans: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root makes files of root's")
    monkeypatch.setattr(os, "geteuid", lambda: SOMEBODY)

    assert read(plans) == b"whole"


def test_a_file_is_replaced_whole_or_not_at_all_whichever_call_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(28, os.strerror(28))

    outcomes = []
    with open_private(tmp_path / "plans", make=True) as opened:
        folder = opened._descriptor
        for at in range(100):
            write_whole(folder, "a.plan", b"old" * 100)
            disk = Disk(at, fail)
            monkeypatch.setattr("edge_cnnlstm.gpu.private.os", disk)
            try:
                write_whole(folder, "a.plan", b"new" * 1000)
                outcomes.append("done")
            except OSError:
                outcomes.append("failed")
            monkeypatch.undo()
            content = (tmp_path / "plans" / "a.plan").read_bytes()
            assert content in (b"old" * 100, b"new" * 1000)
            assert [path.name for path in (tmp_path / "plans").iterdir()] == ["a.plan"]
            if outcomes[-1] == "done":
                break

    assert outcomes == ["failed"] * (len(outcomes) - 1) + ["done"]
    # The name changes only once the content is on the disk.
    assert disk.calls == ["open", "write", "write", "write", "fsync", "close", "rename", "fsync"]
    assert len(outcomes) == len(disk.calls) + 1
