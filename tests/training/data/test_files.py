from __future__ import annotations

import contextlib
import copy
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from edge_cnnlstm.errors import ConfigError, DataError
from edge_cnnlstm.runtime.fit import Fit
from edge_cnnlstm.runtime.sources import video
from edge_cnnlstm.training.config import NetworkConfig
from edge_cnnlstm.training.data.batches import ClipBatches
from edge_cnnlstm.training.data.cache import SharedFrames
from edge_cnnlstm.training.data.clip import UNKNOWN, Clip
from edge_cnnlstm.training.data.files import FileClips, FileCorpus, open_files
from edge_cnnlstm.training.data.settings import AugmentConfig, VideoFolderConfig

Film = Callable[..., Path]
Numbers = Callable[[Any], list[int]]

EVERYTHING = AugmentConfig(
    crop=0.4,
    flip=0.5,
    flip_labels={"left": "right"},
    colour=0.3,
    blur=1.5,
    noise=8,
    drop=0.2,
    speed=0.5,
    occlude=0.5,
)


def all_clips(corpus: FileCorpus, *, training: bool) -> FileClips:
    return corpus.clips(np.arange(len(corpus.items)), training=training)


def opened(root: Path, network: NetworkConfig, **settings: Any) -> FileCorpus:
    return open_files(VideoFolderConfig(root=root, **{"frames": 4, **settings}), network, seed=7)


def cut_short(path: Path) -> Path:
    """Remove the second half of a video whose index is at its beginning: it promises all its frames still."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def noise(frames: int) -> Any:
    return np.random.default_rng(1).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)


def same(one: Clip, other: Clip) -> bool:
    return (
        one.name == other.name
        and np.array_equal(one.frames, other.frames)
        and all(np.array_equal(one.truth[name], other.truth[name], equal_nan=True) for name in one.truth)
    )


def test_a_held_out_clip_is_the_middle_of_its_video_at_the_network_s_size(
    classes: Path, network: NetworkConfig, numbers: Numbers
) -> None:
    corpus = opened(classes, network)
    clips = all_clips(corpus, training=False)
    for index in range(len(clips)):
        clip = clips.clip(index, epoch=index)
        assert clip.frames.shape == (4, 24, 32, 3)
        assert clip.frames.dtype == np.uint8
        assert numbers(clip.frames) == [4, 5, 6, 7]
        assert clip.name == corpus.items[index].name
        assert clip.truth["label"].tolist() == [corpus.items[index].label] * 4
        assert clip.truth["label"].dtype == np.int64


@pytest.mark.parametrize("mode", ["stretch", "crop", "letterbox"])
def test_frames_are_those_that_a_stream_would_feed(tmp_path: Path, film: Film, mode: Any) -> None:
    scene = np.random.default_rng(0).integers(0, 256, (6, 50, 70, 3), dtype=np.uint8)
    for label in ("a", "b"):
        for number in range(3):
            film(tmp_path / label / f"{number}.mp4", height=50, width=70, pictures=scene)
    network = NetworkConfig.model_validate({"height": 20, "width": 33, "fit": mode})
    clip = all_clips(opened(tmp_path, network, frames=6), training=False).clip(0)
    streamed = [frame.pixels for frame in video(tmp_path / "a" / "0.mp4", fit=Fit(20, 33, mode))]
    np.testing.assert_array_equal(clip.frames, np.stack(streamed))


def test_training_clips_begin_anywhere_and_depend_on_seed_epoch_and_index_alone(
    classes: Path, network: NetworkConfig, numbers: Numbers
) -> None:
    clips = all_clips(opened(classes, network), training=True)
    starts = {numbers(clips.clip(index, epoch=epoch).frames)[0] for epoch in range(6) for index in range(12)}
    assert starts == set(range(9))
    again = all_clips(opened(classes, network), training=True)
    assert all(same(again.clip(index, epoch=3), clips.clip(index, epoch=3)) for index in (5, 0, 11))
    other = all_clips(open_files(VideoFolderConfig(root=classes, frames=4), network, seed=8), training=True)
    assert any(not same(other.clip(index), clips.clip(index)) for index in range(12))


def test_every_nth_frame_is_taken(classes: Path, network: NetworkConfig, numbers: Numbers) -> None:
    corpus = opened(classes, network, frames=4, every=3)
    assert numbers(all_clips(corpus, training=False).clip(0).frames) == [1, 4, 7, 10]
    for epoch in range(4):
        shown = numbers(all_clips(corpus, training=True).clip(0, epoch=epoch).frames)
        assert np.diff(shown).tolist() == [3, 3, 3]


@pytest.mark.parametrize("cache_mib", [0, 16])
@pytest.mark.parametrize("training", [False, True])
def test_a_curriculum_sees_the_first_frames_of_the_same_clip(
    classes: Path, network: NetworkConfig, *, training: bool, cache_mib: int
) -> None:
    clips = all_clips(opened(classes, network, augment=EVERYTHING, cache_mib=cache_mib), training=training)
    for index in range(6):
        short, whole = clips.clip(index, epoch=2, frames=2), clips.clip(index, epoch=2)
        np.testing.assert_array_equal(short.frames, whole.frames[:2])
        np.testing.assert_array_equal(short.truth["label"], whole.truth["label"][:2])


@pytest.mark.parametrize("cache_mib", [0, 16])
@pytest.mark.parametrize("training", [False, True])
def test_a_video_that_is_too_short_stands_still_at_its_end_where_the_truth_is_unknown(
    classes: Path, network: NetworkConfig, numbers: Numbers, *, training: bool, cache_mib: int
) -> None:
    clips = all_clips(opened(classes, network, frames=15, cache_mib=cache_mib), training=training)
    for _ in range(2):
        clip = clips.clip(7, epoch=1)
        assert numbers(clip.frames) == [*range(12), 11, 11, 11]
        assert clip.truth["label"].tolist() == [1] * 12 + [UNKNOWN] * 3


@pytest.mark.parametrize("training", [False, True])
def test_a_truncated_video_is_as_long_as_what_decodes(
    tmp_path: Path, film: Film, network: NetworkConfig, *, training: bool
) -> None:
    for label in ("a", "b"):
        for number in range(3):
            cut_short(film(tmp_path / label / f"{number}.avi", pictures=noise(20)))
    plain, cached = (opened(tmp_path, network, frames=14, cache_mib=mib, corrupt="stop") for mib in (0, 16))
    for epoch in range(4):
        clip = all_clips(plain, training=training).clip(0, epoch=epoch)
        known = clip.truth["label"] != UNKNOWN
        assert 3 < known.sum() < 14
        assert known[: known.sum()].all()
        np.testing.assert_array_equal(clip.frames[~known], np.stack([clip.frames[known][-1]] * (~known).sum()))
        assert same(all_clips(cached, training=training).clip(0, epoch=epoch), clip)


def loaded(clips: FileClips, epoch: int, workers: int, **how: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    batches = ClipBatches(clips, 4, epoch=epoch, seed=5)
    return iter(DataLoader(batches, batch_size=None, num_workers=workers, **how))


@pytest.mark.parametrize("augmentation", [AugmentConfig(), EVERYTHING])
def test_workers_and_the_cache_change_nothing(
    classes: Path, film: Film, network: NetworkConfig, augmentation: AugmentConfig
) -> None:
    cut_short(film(classes / "left" / "short.avi", pictures=noise(20)))
    (classes / "right" / "broken.mp4").write_bytes(b"")
    corpus = opened(classes, network, augment=augmentation, corrupt="skip")
    plain = all_clips(corpus, training=True)
    for capacity, workers in ((0, 2), (2**20, 2), (2**20, 0), (100_000, 2)):
        cached = replace(corpus, store=SharedFrames(2 * len(corpus.items), 24, 32, capacity))
        clips = all_clips(cached, training=True)
        for epoch in range(3):
            alone, together = loaded(plain, epoch, 0), loaded(clips, epoch, workers)
            for (frames, truth, _), (other_frames, other_truth, _) in zip(alone, together, strict=True):
                assert torch.equal(frames, other_frames)
                assert torch.equal(truth["label"], other_truth["label"])
        assert cached.skipped == ("right/broken.mp4",)
        kept = sum(cached.store.get(key) is not None for key in range(2 * len(corpus.items)))
        assert kept == {0: 0, 2**20: 13, 100_000: 3}[capacity]


def test_what_workers_decode_is_still_there_for_the_workers_of_the_next_epoch(
    classes: Path, network: NetworkConfig
) -> None:
    corpus = opened(classes, network, cache_mib=16)
    first = [batch.frames for batch in loaded(all_clips(corpus, training=True), 0, 2)]
    for label in ("left", "right"):
        for path in (classes / label).iterdir():
            path.write_bytes(b"gone")
    again = [batch.frames for batch in loaded(all_clips(corpus, training=True), 0, 2)]
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_held_out_clips_are_kept_too(classes: Path, network: NetworkConfig) -> None:
    clips = all_clips(opened(classes, network, cache_mib=16), training=False)
    before = [clips.clip(index) for index in range(12)]
    for index in range(12):
        (classes / before[index].name).unlink()
    assert all(same(clips.clip(index), before[index]) for index in range(12))


@pytest.mark.slow
def test_a_corpus_travels_into_spawned_workers_with_its_cache(classes: Path, network: NetworkConfig) -> None:
    corpus = opened(classes, network, cache_mib=16)
    clips = all_clips(corpus, training=True)
    spawned = [batch.frames for batch in loaded(clips, 0, 1, multiprocessing_context="spawn")]
    for path in classes.glob("*/*"):
        path.write_bytes(b"gone")
    kept = [batch.frames for batch in loaded(clips, 0, 0)]
    assert all(torch.equal(one, other) for one, other in zip(spawned, kept, strict=True))


def test_no_shared_memory_is_left_behind_even_when_a_worker_is_killed(classes: Path, network: NetworkConfig) -> None:
    def segments(size: int) -> list[Path]:
        found = []
        for path in Path("/dev/shm").iterdir():  # noqa: S108 - where named shared memory lies
            with contextlib.suppress(FileNotFoundError):  # other processes' come and go
                found += [path] if path.stat().st_size == size else []
        return found

    def memories() -> int:
        links = [path.readlink().name for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
        return sum("edge-cnnlstm-frames" in name for name in links)

    def work(clips: FileClips, started: Any) -> None:
        started.set()
        for epoch in range(10_000):
            clips.clip(epoch % 12, epoch=epoch)

    held = memories()
    corpus = opened(classes, network, cache_mib=16)
    clips = all_clips(corpus, training=True)
    context = multiprocessing.get_context("fork")
    started = context.Event()
    worker = context.Process(target=work, args=(clips, started))
    worker.start()
    assert started.wait(30)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    assert worker.exitcode == -signal.SIGKILL
    assert same(clips.clip(3), all_clips(opened(classes, network), training=True).clip(3))
    assert not segments(os.fstat(corpus.store._file).st_size)
    assert memories() > held
    del corpus, clips
    assert memories() == held


@pytest.mark.parametrize(
    ("name", "content"), [("empty.mp4", b""), ("text.mp4", b"this is a shopping list"), ("noise.avi", bytes(3000))]
)
@pytest.mark.parametrize("training", [False, True])
def test_a_file_that_is_no_video_stops_everything_and_is_named(
    classes: Path, network: NetworkConfig, name: str, content: bytes, *, training: bool
) -> None:
    (classes / "left" / name).write_bytes(content)
    corpus = opened(classes, network)
    index = [item.name for item in corpus.items].index(f"left/{name}")
    with pytest.raises(DataError, match=name) as raised:
        all_clips(corpus, training=training).clip(index)
    assert "data.corrupt" in raised.value.fix


@pytest.mark.parametrize("training", [False, True])
def test_skipped_files_are_counted_reported_once_and_replaced_by_their_class(
    classes: Path, network: NetworkConfig, caplog: pytest.LogCaptureFixture, *, training: bool
) -> None:
    for number in (1, 4):
        (classes / "left" / f"{number}.mp4").write_bytes(b"torn")
    corpus = opened(classes, network, corrupt="skip")
    clips = all_clips(corpus, training=training)
    with caplog.at_level(logging.WARNING, "edge_cnnlstm.training.data"):
        shown = [[clips.clip(index, epoch=epoch) for index in range(12)] for epoch in range(5)]
    assert corpus.skipped == ("left/1.mp4", "left/4.mp4")
    assert [record.message.count(".mp4") for record in caplog.records] == [1, 1]
    assert "2 so far" in caplog.records[-1].message
    for epoch in shown:
        assert [clip.truth["label"][0] for clip in epoch] == [0] * 6 + [1] * 6
        assert not {clip.name for clip in epoch} & {"left/1.mp4", "left/4.mp4"}
    stand_ins = {epoch[4].name for epoch in shown}
    assert (len(stand_ins) > 1) == training
    # Whoever begins elsewhere finds the same: nothing depends on what was found before.
    fresh = all_clips(opened(classes, network, corrupt="skip"), training=training)
    assert same(fresh.clip(4, epoch=4), shown[4][4])


def test_a_class_of_which_nothing_can_be_decoded_stops_everything(classes: Path, network: NetworkConfig) -> None:
    for path in (classes / "left").iterdir():
        path.write_bytes(b"torn")
    clips = all_clips(opened(classes, network, corrupt="skip"), training=True)
    with pytest.raises(DataError, match="nothing else of its class"):
        clips.clip(0)
    assert clips.clip(8).truth["label"][0] == 1


def test_names_in_any_script_with_spaces_capitals_and_links_are_read(
    tmp_path: Path, film: Film, network: NetworkConfig, numbers: Numbers
) -> None:
    root = tmp_path / "my data, день 1"
    for number in range(3):
        film(root / "walk left" / f"vidéo {number}.MP4")
        film(root / "走る" / f"{number} %d #.AvI")
    elsewhere = film(tmp_path / "elsewhere.mp4")
    (root / "走る" / "linked.mp4").symlink_to(elsewhere)
    (root / "走る" / "notes.txt").write_text("no video")
    (root / "走る" / ".hidden.mp4").write_bytes(b"")
    clips = all_clips(opened(root, network), training=False)
    assert clips.heads[0].labels == ("walk left", "走る")
    assert len(clips) == 7
    assert all(numbers(clips.clip(index).frames) == [4, 5, 6, 7] for index in range(7))


def test_a_name_that_is_no_text_is_refused_before_opencv_sees_it(
    classes: Path, film: Film, network: NetworkConfig
) -> None:
    path = classes / "left" / os.fsdecode(b"\xff.mp4")
    film(classes / "left" / "ok.mp4").rename(path)
    corpus = opened(classes, network)
    index = [item.path for item in corpus.items].index(path)
    with pytest.raises(DataError, match="UTF-8"):
        all_clips(corpus, training=True).clip(index)
    assert len(corpus.digest()) == 64


def test_a_link_that_leads_nowhere_is_a_corrupt_file(classes: Path, network: NetworkConfig) -> None:
    (classes / "left" / "lost.mp4").symlink_to(classes / "nowhere.mp4")
    corpus = opened(classes, network, corrupt="skip")
    clips = all_clips(corpus, training=False)
    assert all(clips.clip(index).frames.shape == (4, 24, 32, 3) for index in range(13))
    assert corpus.skipped == ("left/lost.mp4",)
    assert len(corpus.digest()) == 64


def test_videos_of_different_sizes_make_one_batch(
    tmp_path: Path, film: Film, network: NetworkConfig, numbers: Numbers
) -> None:
    for label in ("a", "b"):
        for number, (height, width) in enumerate([(48, 64), (64, 48), (16, 16), (120, 160)]):
            film(tmp_path / label / f"{number}.mp4", height=height, width=width)
    frames, _, _ = ClipBatches(all_clips(opened(tmp_path, network), training=False), 8)[0]
    assert frames.shape == (8, 4, 24, 32, 3)
    assert numbers(frames.numpy()) == [[4, 5, 6, 7]] * 8


def test_with_every_setting_at_0_frames_are_what_was_decoded_bit_for_bit(classes: Path, network: NetworkConfig) -> None:
    training, held_out = (
        all_clips(opened(classes, network, frames=12), training=training) for training in (True, False)
    )
    for index in range(12):
        assert same(training.clip(index, epoch=index), held_out.clip(index))


def test_a_mirrored_clip_has_the_label_that_its_own_turns_into(classes: Path, network: NetworkConfig) -> None:
    changed = AugmentConfig(flip=0.5, flip_labels={"left": "right"})
    clips = all_clips(opened(classes, network, augment=changed), training=True)
    labels = [[int(clips.clip(index, epoch=epoch).truth["label"][0]) for index in range(12)] for epoch in range(4)]
    mirrored = np.array(labels) != np.array([0] * 6 + [1] * 6)
    assert 10 < mirrored.sum() < 38
    kept = all_clips(opened(classes, network, augment=AugmentConfig(flip=1)), training=True)
    assert [kept.clip(index).truth["label"][0] for index in range(12)] == [0] * 6 + [1] * 6


@pytest.mark.parametrize(
    ("pairs", "message"),
    [({"left": "rihgt"}, "did you mean 'right'"), ({"up": "left"}, "unknown label 'up'")],
)
def test_a_label_map_of_unknown_labels_is_refused(
    classes: Path, network: NetworkConfig, pairs: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(classes, network, augment=AugmentConfig(flip=0.5, flip_labels=pairs))


def test_a_label_map_that_two_mirrors_do_not_undo_is_refused(classes: Path, film: Film, network: NetworkConfig) -> None:
    film(classes / "up" / "1.mp4")
    both = AugmentConfig(flip_labels={"left": "right", "right": "left", "up": "up"})
    assert opened(classes, network, augment=both).mirrored.tolist() == [1, 0, 2]
    with pytest.raises(ConfigError, match="'right' turns into 'left' and into 'up'"):
        opened(classes, network, augment=AugmentConfig(flip_labels={"left": "right", "right": "up"}))


def test_the_digest_tells_data_apart_and_not_machines(
    classes: Path, film: Film, network: NetworkConfig, tmp_path: Path
) -> None:
    digest = opened(classes, network).digest()
    moved = classes.rename(tmp_path / "another place")
    assert opened(moved, network).digest() == digest
    assert opened(moved, network, frames=3, cache_mib=4).digest() == digest

    changed = moved / "left" / "3.mp4"
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    other_file = opened(moved, network).digest()
    changed.rename(moved / "right" / "other.mp4")
    other_label = opened(moved, network).digest()
    (moved / "right").rename(moved / "forward")
    other_name = opened(moved, network).digest()
    assert len({digest, other_file, other_label, other_name}) == 4


def test_a_corpus_is_split_the_same_way_every_time(classes: Path, network: NetworkConfig) -> None:
    corpus, again = opened(classes, network), opened(classes, network)
    assert {split: len(items) for split, items in corpus.splits.items()} == {"train": 8, "validation": 2, "test": 2}
    for split, items in corpus.splits.items():
        np.testing.assert_array_equal(items, again.splits[split])
        assert np.bincount(corpus.strata[items], minlength=2).tolist() == [len(items) // 2] * 2
    assert len(np.unique(np.concatenate(list(corpus.splits.values())))) == 12
    assert len(np.unique(corpus.groups)) == 12


def test_a_copy_of_clips_shares_their_cache(classes: Path, network: NetworkConfig) -> None:
    clips = all_clips(opened(classes, network, cache_mib=1), training=True)
    copied = copy.deepcopy(clips)
    expected = clips.clip(2)
    (classes / expected.name).unlink()
    assert same(copied.clip(2), expected)


def test_a_pipe_is_not_waited_for(classes: Path, network: NetworkConfig) -> None:
    os.mkfifo(classes / "left" / "pipe.mp4")
    corpus = opened(classes, network)
    index = [item.name for item in corpus.items].index("left/pipe.mp4")
    with pytest.raises(DataError, match="no such file"):
        all_clips(corpus, training=True).clip(index)
    assert len(corpus.digest()) == 64
