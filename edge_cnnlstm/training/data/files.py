"""Videos and folders of frames on disk as a corpus: decoded in whatever process asks, kept for all of them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_cnnlstm.errors import ConfigError, DataError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.training.config import HeadConfig, NetworkConfig, nearest
from edge_cnnlstm.training.data import augment, boxes, layouts
from edge_cnnlstm.training.data.augment import Change
from edge_cnnlstm.training.data.cache import SharedFrames
from edge_cnnlstm.training.data.clip import UNKNOWN, Clip, Split
from edge_cnnlstm.training.data.decode import Footage, KeptFootage, Moment, moment, open_footage
from edge_cnnlstm.training.data.fingerprint import fingerprint
from edge_cnnlstm.training.data.layouts import Item
from edge_cnnlstm.training.data.settings import (
    BoxesConfig,
    FilesConfig,
    FrameFoldersConfig,
    Ucf101Config,
    VideoFolderConfig,
)
from edge_cnnlstm.training.data.split import group_numbers, split_items
from edge_cnnlstm.training.data.tracks import Track

FileData = VideoFolderConfig | FrameFoldersConfig | Ucf101Config | BoxesConfig

LABEL = "label"
TARGET = "target"
"""What the heads are called."""

logger = logging.getLogger("edge_cnnlstm.training.data")


def open_files(config: FileData, network: NetworkConfig, seed: int) -> FileCorpus:
    """Return the videos on disk as a corpus, with clips at the network's frame size.

    Nothing but annotated videos is decoded yet: a file that cannot be is found when it is first needed. Raises
    DataError for files that make no such set, and ConfigError for labels that augmentation cannot exchange.
    """
    fit = Fit(network.height, network.width, network.fit)
    try:
        head, items = _listed(config, fit)
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename}: {error.strerror}",
            expected="files this user may read",
            fix="check data.root",
        ) from error
    splits = split_items(items, head.labels, config.shares, seed)
    store = SharedFrames(2 * len(items), fit.height, fit.width, config.cache_mib * 2**20)
    return FileCorpus(config, head, tuple(items), splits, mirrored_labels(head, config), fit, seed, store)


def mirrored_labels(head: HeadConfig, config: FilesConfig) -> NDArray[np.int64]:
    """Return what each label turns into in a mirror; raises ConfigError for labels that do not exist or pair up."""
    turned: dict[str, str] = {}
    for pair in config.augment.flip_labels.items():
        for label, other in (pair, pair[::-1]):
            if label not in head.labels:
                raise ConfigError(
                    f"data.augment.flip_labels: unknown label {label!r}",
                    expected=f"one of {', '.join(head.labels)}" if head.labels else "nothing: this set has no labels",
                    fix=nearest(label, head.labels),
                )
            if turned.setdefault(label, other) != other:
                raise ConfigError(
                    f"data.augment.flip_labels: {label!r} turns into {turned[label]!r} and into {other!r}",
                    expected="each label in one pair: mirrored twice, a clip is what it was",
                    fix="name each pair once",
                )
    return np.array([head.labels.index(turned.get(label, label)) for label in head.labels], np.int64)


@dataclass(frozen=True, slots=True)
class FileCorpus:
    """Videos as items, with one clip of each in an epoch.

    It owns the memory that all its clip sets, in all processes, keep decoded frames in. What is kept is fitted but
    not yet changed: of a training item its whole footage, since its clip begins elsewhere in each epoch, and of
    others their one clip. Footage that does not fit into what is left of the memory is decoded anew each time.
    """

    config: FileData
    head: HeadConfig
    items: tuple[Item, ...]
    splits: Mapping[Split, NDArray[np.int64]]
    mirrored: NDArray[np.int64]
    fit: Fit
    seed: int
    store: SharedFrames

    @property
    def heads(self) -> tuple[HeadConfig, ...]:
        return (self.head,)

    @property
    def strata(self) -> NDArray[np.int64]:
        return np.array([item.label for item in self.items], np.int64)

    @property
    def groups(self) -> NDArray[np.int64]:
        return group_numbers(self.items)

    @property
    def skipped(self) -> tuple[str, ...]:
        """Names of the items that could not be decoded so far, in any process."""
        return tuple(self.items[key].name for key in self.store.marked())

    def clips(self, items: NDArray[np.int64], *, training: bool) -> FileClips:
        return FileClips(self, items, training)

    def digest(self) -> str:
        """Return the SHA-256 over each item: its path under the root, the size and the first and last 64 KiB of
        its file, its label, its group, the split that a file gives it, and its boxes.

        Of a folder of frames: the names and sizes of all images, and the ends of the first and the last.
        """
        digest = hashlib.sha256()
        for item in sorted(self.items, key=lambda item: item.name):
            label = self.head.labels[item.label] if self.head.labels else ""
            digest.update(os.fsencode("\0".join([item.name, label, item.group, item.split, ""])))
            digest.update(fingerprint(item.path))
            if item.annotations is not None:
                frames, track = item.annotations
                digest.update(frames.tobytes() + track.boxes.tobytes() + track.visible.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FileClips:
    """Clip i shows item i of `members`: a moment of it, changed in training, and its middle otherwise.

    An item that cannot be decoded stops everything, or is skipped: then another of its class stands in for it, the
    same one in every process, also in a set to be scored on. It is reported once, on the logger
    `edge_cnnlstm.training.data`.
    """

    corpus: FileCorpus
    members: NDArray[np.int64]
    training: bool

    @property
    def heads(self) -> tuple[HeadConfig, ...]:
        return self.corpus.heads

    def __len__(self) -> int:
        return len(self.members)

    def clip(self, index: int, *, epoch: int = 0, frames: int | None = None) -> Clip:
        """Return clip `index`; raises DataError when it cannot be decoded, or nothing of its class can."""
        change = self._change(index, epoch)
        for number in self._candidates(index, epoch):
            found = self._tried(number, change, frames)
            if found is not None:
                return self._clip(self.corpus.items[number], found, change)
        item = self.corpus.items[self.members[index]]
        raise DataError(
            f"{item.name} cannot be decoded, and nothing else of its class can",
            expected="one video or more of each class that OpenCV decodes",
            fix="replace the files that were reported",
        )

    def _change(self, index: int, epoch: int) -> Change:
        if not self.training:
            return Change()
        config, fit = self.corpus.config, self.corpus.fit
        rng = np.random.default_rng([self.corpus.seed, epoch, index])
        return augment.draw(config.augment, config.frames, fit.height, fit.width, rng)

    def _candidates(self, index: int, epoch: int) -> Iterator[int]:
        """Yield the item itself, then the others of its class in an order of their own for each clip."""
        own = int(self.members[index])
        yield own
        strata = self.corpus.strata[self.members]
        others = self.members[(strata == strata[index]) & (self.members != own)]
        rng = np.random.default_rng([self.corpus.seed, epoch if self.training else 0, index, 1])
        yield from (int(other) for other in rng.permutation(others))

    def _tried(self, number: int, change: Change, frames: int | None) -> Moment | None:
        """Return the moment, or None when it cannot be decoded and such are skipped."""
        try:
            return self._moment(number, change, frames)
        except DataError as error:
            if self.corpus.config.corrupt == "stop":
                raise
            if self.corpus.store.mark(number):
                skipped = len(self.corpus.skipped)
                logger.warning("skipped, and another of its class shown instead: %s (%d so far)", error.found, skipped)
            return None

    def _moment(self, number: int, change: Change, frames: int | None) -> Moment:
        config, store = self.corpus.config, self.corpus.store

        def choose(count: int) -> NDArray[np.int64]:
            return change.positions(config.frames, config.every, count)[:frames]

        if self.training:
            return moment(self._footage(number), choose)
        kept = store.get(_key(number, training=False))
        if kept is not None:
            return Moment(kept.frames[:frames].copy(), choose(kept.number), kept.number)
        found = moment(open_footage(self.corpus.items[number].path, self.corpus.fit), choose)
        if len(found.frames) == config.frames:
            store.put(_key(number, training=False), found.frames, found.length)
        return found

    def _footage(self, number: int) -> Footage:
        """Return the item's footage: kept, or decoded whole to be kept, or, where that is too long, as a file."""
        store = self.corpus.store
        kept = store.get(_key(number, training=True))
        if kept is not None:
            return KeptFootage(*kept)
        footage = open_footage(self.corpus.items[number].path, self.corpus.fit)
        promised = footage.count
        if not store.has_room(promised):
            return footage
        try:
            whole = footage.read(np.arange(promised))
        except DataError:
            # One image of a folder may be broken: it matters only to the clips that show it.
            return open_footage(self.corpus.items[number].path, self.corpus.fit)
        store.put(_key(number, training=True), whole, promised)
        return KeptFootage(whole, promised)

    def _clip(self, item: Item, found: Moment, change: Change) -> Clip:
        frames, known = change.apply(found.frames), found.positions < found.length
        if item.annotations is None:
            label = int(self.corpus.mirrored[item.label]) if change.flip else item.label
            return Clip(frames, {LABEL: np.where(known, label, UNKNOWN).astype(np.int64)}, name=item.name)
        boxes, visible = change.follow(item.annotations.at(found.positions), *frames.shape[1:3])
        track = Track(np.where(known[:, None], boxes, np.float32(np.nan)), np.where(known, visible, np.float32(np.nan)))
        truth = {f"{TARGET}_box": track.boxes, f"{TARGET}_visible": track.visible}
        return Clip(frames, truth, {"visible": track.visible == 1, "hidden": track.visible == 0}, name=item.name)


def _key(number: int, *, training: bool) -> int:
    return 2 * number + training


def _listed(config: FileData, fit: Fit) -> tuple[HeadConfig, list[Item]]:
    if isinstance(config, BoxesConfig):
        return HeadConfig(name=TARGET, task="track"), boxes.annotated_videos(config, fit)
    if isinstance(config, VideoFolderConfig):
        listing = layouts.video_folder(config)
    elif isinstance(config, FrameFoldersConfig):
        listing = layouts.frame_folders(config)
    else:
        listing = layouts.ucf101(config)
    return HeadConfig(name=LABEL, task="classify", labels=listing.labels, per=config.per), listing.items
