"""Files that nobody but this user and root can have written: only from these is code read."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edge_cnnlstm.errors import ConfigError

LOCK = ".lock"
_UNFINISHED = (".edge-cnnlstm-", ".unfinished")
_NO_LINK = os.O_CLOEXEC | os.O_NOFOLLOW
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class PrivateFolder:
    """An open folder that others cannot write: its files are reached through it, whatever becomes of its path.

    Made by `open_private`. Everything but `read` raises OSError when the disk refuses.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None when there is none.

        Raises ConfigError when it is not a plain file with one name, of this user's or root's, that nobody else can
        write, and OSError when it cannot be read.
        """
        try:
            # Not blocking, or a pipe in a plan's place would be waited for.
            descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _NO_LINK, dir_fd=self._descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _no_file(self.path / name, "a symbolic link") from error
            raise
        try:
            _check_file(self.path / name, os.fstat(descriptor))
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(descriptor)

    def touch(self, name: str) -> None:
        """Say that a file was used now, where the disk and the file's owner permit it."""
        with suppress(OSError):
            os.utime(name, dir_fd=self._descriptor, follow_symlinks=False)

    def latest_first(self, ending: str) -> list[str]:
        """Return the names that end so, the file that was used last first."""
        used: dict[str, int] = {}
        with os.scandir(self._descriptor) as entries:
            for entry in entries:
                if entry.name.endswith(ending):
                    with suppress(FileNotFoundError):
                        used[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
        return sorted(used, key=lambda name: used[name], reverse=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that writes here; what one that was killed left unfinished is removed first."""
        # A file of its own: a folder that others may list is one that they could keep locked.
        descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o600, dir_fd=self._descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            beginning, ending = _UNFINISHED
            for name in self.latest_first(ending):
                if name.startswith(beginning):
                    self.remove(name)
            yield
        finally:
            os.close(descriptor)

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all, in place of one that has the name. Only while `locked`."""
        write_whole(self._descriptor, name, data)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Only while `locked`."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)


@contextmanager
def open_private(path: Path, *, make: bool = False) -> Iterator[PrivateFolder]:
    """Open a folder that nobody but this user and root can write, nor replace by writing one of those above it.

    With `make` it is made, as are those above it, for this user alone. Raises ConfigError that says which folder is
    open to others and how to mend it, FileNotFoundError when there is none, and OSError when it cannot be made.
    """
    # Not Path.resolve(), which raises RuntimeError for links in a circle: here they are refused as links.
    place = Path(os.path.realpath(path.parent), path.name)
    for folder in (*reversed(place.parents), place):
        if make:
            with suppress(FileExistsError):
                folder.mkdir(0o700)
        _check_folder(folder, folder.lstat(), above=folder != place)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | _NO_LINK)
    try:
        _check_folder(place, os.fstat(descriptor), above=False)
        yield PrivateFolder(place, descriptor)
    finally:
        os.close(descriptor)


def user_folder() -> Path:
    """Return where this user keeps what can be made again; raises RuntimeError for a user without a home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-cnnlstm"


def write_whole(folder: int, name: str, data: bytes, mode: int = 0o600) -> None:
    """Write a file into an open folder: whole, and safe from a power cut, or not at all. Raises OSError.

    Whatever had the name stays until the new file is on the disk.
    """
    unfinished = secrets.token_hex(8).join(_UNFINISHED)
    descriptor = os.open(unfinished, _NEW, mode, dir_fd=folder)
    try:
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished, dir_fd=folder)
        raise
    os.fsync(folder)


def _check_folder(path: Path, found: os.stat_result, *, above: bool) -> None:
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "no folder"
        raise ConfigError(f"{path} is {kind}", expected="a folder of its own", fix=f"rm {_quoted(path)}")
    # In a folder like /tmp nobody can rename or remove what is another's.
    sticky = above and bool(found.st_mode & stat.S_ISVTX)
    _check_hands(path, found, sticky=sticky, plans="" if above else ", and remove the plans that others put there")


def _check_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _no_file(path, "no plain file")
    # None are left where it was replaced since it was opened: it is still whole.
    if found.st_nlink > 1:
        raise _no_file(path, f"a file with {found.st_nlink} names")
    _check_hands(path, found, sticky=False, plans="; or remove it, it is built again")


def _check_hands(path: Path, found: os.stat_result, *, sticky: bool, plans: str) -> None:
    mine = os.geteuid()
    if found.st_uid not in (0, mine):
        raise ConfigError(
            f"{path} belongs to user {found.st_uid}",
            expected=f"user {mine} or root: a plan is code, and its owner could replace it",
            fix=f"chown {mine} {_quoted(path)}{plans}; or set CACHE_DIRECTORY to a folder of user {mine}",
        )
    if found.st_mode & _OTHERS_WRITE and not sticky:
        raise ConfigError(
            f"others can write {path} ({stat.filemode(found.st_mode)})",
            expected="only its owner can write it: a plan is code",
            fix=f"chmod go-w {_quoted(path)}{plans}",
        )


def _no_file(path: Path, kind: str) -> ConfigError:
    return ConfigError(
        f"{path} is {kind}",
        expected="a plain file with one name: a plan is code",
        fix=f"rm {_quoted(path)}; it is built again",
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
