"""Where the videos of a classification set lie, what they show, and which split they belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.config import nearest
from edge_cnnlstm.training.data.clip import SPLITS, Split
from edge_cnnlstm.training.data.decode import VIDEO_SUFFIXES
from edge_cnnlstm.training.data.fingerprint import fingerprint
from edge_cnnlstm.training.data.settings import FrameFoldersConfig, Ucf101Config, VideoFolderConfig
from edge_cnnlstm.training.data.tracks import Annotations

UCF101_GROUP = re.compile(r"(.*_g\d+)_c\d+$")


@dataclass(frozen=True, slots=True)
class Item:
    """One video, or one folder of frames.

    `name` is its path relative to the root, with `/`. `label` is its class. Items of one `group` are never parted.
    Items without a split of their own stand in "train". `annotations` say where its target is, if it has one.
    """

    path: Path
    name: str
    label: int
    group: str
    split: Split = "train"
    annotations: Annotations | None = None


class Listing(NamedTuple):
    """The classes of a set, in the order of their numbers, and its items."""

    labels: tuple[str, ...]
    items: list[Item]


def video_folder(config: VideoFolderConfig) -> Listing:
    """List `root/<class>/<video>`, or `root/<split>/<class>/<video>`; raises DataError for anything else."""
    folders = _split_folders(config.root)
    labels = sorted({place.name for folder in folders.values() for place in _subfolders(folder)})
    if len(labels) < 2:
        raise DataError(
            f"{len(labels)} class folders in {config.root}" + (f": {labels[0]!r}" if labels else ""),
            expected="a folder per class, two or more, each full of videos",
            fix="make data.root the folder that holds the class folders",
        )
    items = []
    for split, folder in folders.items():
        for place in _subfolders(folder):
            for path in _videos(place):
                name = path.relative_to(config.root).as_posix()
                group = name if config.group is None else group_in(path.name, config.group)
                items.append(Item(path, name, labels.index(place.name), group, split))
    _refuse_copies(items)
    return Listing(tuple(labels), items)


def frame_folders(config: FrameFoldersConfig) -> Listing:
    """List the folders that the CSV files name; raises DataError for a line that does not fit the set."""
    labels = tuple(line for _, line in read_lines(config.root / config.labels))
    _refuse_repeated("label", labels, config.root / config.labels)
    root = config.root / config.folders
    there = {folder.name for folder in _subfolders(root)}
    items: list[Item] = []
    files: list[tuple[Split, Path | None]] = [
        ("train", config.train),
        ("validation", config.validation),
        ("test", config.test),
    ]
    for split, file in files:
        if file is None:
            continue
        for where, line in read_lines(config.root / file):
            name, _, label = line.partition(";")
            if not name or not label or ";" in label:
                raise DataError(f"{where}: {line!r}", expected="id;label", fix="correct that line")
            if name not in there:
                raise DataError(
                    f"{where}: no folder {root / name}", expected="a folder of images", fix="unpack it there"
                )
            path = root / name
            items.append(
                Item(path, path.relative_to(config.root).as_posix(), _number(label, labels, where), name, split)
            )
    _refuse_repeated_items(items)
    return Listing(labels, items)


def ucf101(config: Ucf101Config) -> Listing:
    """List what UCF101's split files name; raises DataError for a line that does not fit the set."""
    lists = config.root / config.splits
    index = lists / "classInd.txt"
    numbered = {}
    for where, line in read_lines(index):
        match = re.fullmatch(r"(\d+)\s+(\S+)", line)
        if match is None:
            raise DataError(f"{where}: {line!r}", expected="<number> <class>", fix="correct that line")
        numbered[match[2]] = match[1]
    labels = tuple(numbered)
    _refuse_repeated("number", tuple(numbered.values()), index)
    items = []
    files: list[tuple[Split, Path]] = [
        ("train", lists / f"trainlist{config.split:02}.txt"),
        ("test", lists / f"testlist{config.split:02}.txt"),
    ]
    for split, file in files:
        for where, line in read_lines(file):
            name, _, given = line.partition(" ")
            path = config.root / name
            label = _number(path.parent.name, labels, where)
            if given and numbered[labels[label]] != given.strip():
                raise DataError(
                    f"{where}: class {given} for {name}",
                    expected=f"{numbered[labels[label]]}, as classInd.txt says",
                    fix="use the lists of one release of the set",
                )
            if not path.is_file():
                raise DataError(f"{where}: no file {path}", expected="a video", fix="unpack the videos there")
            match = UCF101_GROUP.fullmatch(path.stem)
            if match is None:
                raise DataError(f"{where}: {name}", expected="v_<class>_gNN_cNN.avi", fix="restore the video's name")
            items.append(Item(path, name, label, match[1], split))
    _refuse_repeated_items(items)
    return Listing(labels, items)


def group_in(name: str, pattern: str) -> str:
    """Return the group that a pattern finds in a file's name; raises DataError when it finds none."""
    match = re.search(pattern, name)
    if match is None or match[1] is None:
        raise DataError(
            f"no group in the name {name!r}", expected=f"a name that matches {pattern!r}", fix="correct data.group"
        )
    return match[1]


def read_lines(path: Path) -> list[tuple[str, str]]:
    """Return the lines of a text file that are not blank, stripped, each after its place in words for messages.

    Raises DataError when the file is missing, empty or no text.
    """
    lines = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(read_text(path).splitlines(), 1)]
    lines = [(where, line) for where, line in lines if line]
    if not lines:
        raise DataError(f"{path} is empty", expected="one line or more", fix="restore the file")
    return lines


def read_text(path: Path) -> str:
    """Return what a text file holds; raises DataError when it is missing or not in UTF-8."""
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"no file {path}", expected="a text file", fix="correct its name in the recipe") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {error}", expected="text in UTF-8", fix="save it as UTF-8") from error


def _split_folders(root: Path) -> dict[Split, Path]:
    """Return the folder of each split; a root whose folders are classes is all `train`.

    A folder `train` is a split when it holds folders; else it is a class that is called so.
    """
    folders = {folder.name: folder for folder in _subfolders(root)}
    if "train" not in folders or not any(_subfolders(folders["train"])):
        return {"train": root}
    others = sorted(set(folders) - set(SPLITS))
    if others:
        raise DataError(
            f"folders {', '.join(others)} beside {root / 'train'}",
            expected=f"only {', '.join(SPLITS)}",
            fix="move them into the splits",
        )
    return {split: folders[split] for split in SPLITS if split in folders}


def _subfolders(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise DataError(f"no folder {folder}", expected="the folder that holds the data", fix="correct data.root")
    return (path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))


def _videos(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES and not path.is_dir()]
    videos = [path for path in found if not path.name.startswith(".")]
    if not videos:
        raise DataError(
            f"no video in {folder}",
            expected=f"files ending in {', '.join(sorted(VIDEO_SUFFIXES))}",
            fix="add videos of this class, or remove its folder",
        )
    return videos


def _number(label: str, labels: Sequence[str], where: str) -> int:
    if label not in labels:
        raise DataError(
            f"{where}: unknown label {label!r}", expected=f"one of {', '.join(labels)}", fix=nearest(label, labels)
        )
    return labels.index(label)


def _refuse_repeated(what: str, values: Sequence[str], file: Path) -> None:
    if len(values) < 2 or len(set(values)) < len(values):
        raise DataError(
            f"{file}: {', '.join(values)}", expected=f"two or more classes, each {what} once", fix="correct the file"
        )


def _refuse_repeated_items(items: Iterable[Item]) -> None:
    seen: dict[str, Item] = {}
    for item in items:
        other = seen.setdefault(item.name, item)
        if other is not item:
            where = f"twice in {item.split}" if other.split == item.split else f"in {other.split} and in {item.split}"
            raise DataError(f"{item.name} is {where}", expected="every video once", fix="remove it from one list")


def _refuse_copies(items: Iterable[Item]) -> None:
    """Refuse one content in two splits: the name alone does not tell, as a copy or a link may have another."""
    sizes: dict[int, list[Item]] = {}
    for item in items:
        size = item.path.stat().st_size if item.path.exists() else 0
        sizes.setdefault(size, []).append(item)
    for size, alike in sizes.items():
        if size == 0 or len({item.split for item in alike}) < 2:
            continue
        seen: dict[bytes, Item] = {}
        for item in alike:
            other = seen.setdefault(fingerprint(item.path), item)
            if other.split != item.split:
                raise DataError(
                    f"{other.name} and {item.name} are the same video",
                    expected="every video in one split: what is scored on was never seen in training",
                    fix="remove one of them",
                )
