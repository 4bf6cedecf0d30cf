from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_cnnlstm.errors import DataError
from edge_cnnlstm.training.config import NetworkConfig
from edge_cnnlstm.training.data.clip import Corpus
from edge_cnnlstm.training.data.files import FileCorpus, open_files
from edge_cnnlstm.training.data.settings import FrameFoldersConfig, Ucf101Config, VideoFolderConfig

Film = Callable[..., Path]
Numbers = Callable[[Any], list[int]]


def names(corpus: FileCorpus, split: Any) -> list[str]:
    return [corpus.items[i].name for i in corpus.splits[split]]


@pytest.fixture
def parted(tmp_path: Path, film: Film) -> Path:
    """root/<split>/<class>/<video>, whose videos all differ."""
    root = tmp_path / "parted"
    frames = 6
    for split, count in (("train", 3), ("validation", 1), ("test", 2)):
        for label in ("no", "yes"):
            for number in range(count):
                frames += 1
                film(root / split / label / f"p{count}{number}_{label}.mp4", frames)
    return root


@pytest.fixture
def jester(tmp_path: Path, album: Film) -> Path:
    root = tmp_path / "jester"
    for number in range(1, 9):
        album(root / "frames" / str(number))
    (root / "jester-v1-labels.csv").write_text("Swiping Left\nSwiping Right\n")
    rows = [f"{number};{'Swiping Left' if number % 2 else 'Swiping Right'}" for number in range(1, 9)]
    (root / "jester-v1-train.csv").write_text("\n".join(rows[:6]) + "\n")
    (root / "jester-v1-validation.csv").write_text("\n".join(rows[6:]) + "\n")
    return root


@pytest.fixture
def ucf(tmp_path: Path, film: Film) -> Path:
    root = tmp_path / "ucf"
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_bytes(b"1 Archery\r\n2 YoYo\r\n")
    train, test = [], []
    for number, label in enumerate(("Archery", "YoYo"), 1):
        for group in range(1, 9):
            for cut in (1, 2):
                name = f"{label}/v_{label}_g{group:02}_c{cut:02}.avi"
                film(root / name, 6)
                if group > 1:
                    train.append(f"{name} {number}")
                else:
                    test.append(name)
    (lists / "trainlist01.txt").write_text("\r\n".join(train) + "\r\n")
    (lists / "testlist01.txt").write_text("\n".join(test) + "\n")
    return root


def test_a_corpus_of_files_is_a_corpus(classes: Path, network: NetworkConfig) -> None:
    corpus: Corpus = open_files(VideoFolderConfig(root=classes), network, seed=0)
    (head,) = corpus.heads
    assert (head.name, head.task, head.labels, head.per) == ("label", "classify", ("left", "right"), "clip")
    assert corpus.clips(corpus.splits["test"], training=False).heads == corpus.heads


def test_split_folders_are_the_split(parted: Path, network: NetworkConfig) -> None:
    corpus = open_files(VideoFolderConfig(root=parted, per="frame"), network, seed=0)
    assert [len(corpus.splits[split]) for split in ("train", "validation", "test")] == [6, 2, 4]
    assert all(name.startswith("test/") for name in names(corpus, "test"))
    assert corpus.heads[0].labels == ("no", "yes")
    assert corpus.heads[0].per == "frame"


def test_a_split_folder_that_is_missing_is_taken_from_training(parted: Path, network: NetworkConfig) -> None:
    shutil.rmtree(parted / "validation")
    corpus = open_files(VideoFolderConfig(root=parted), network, seed=0)
    assert [len(corpus.splits[split]) for split in ("train", "validation", "test")] == [4, 2, 4]
    assert all(name.startswith("train/") for name in names(corpus, "validation"))


def test_a_class_may_be_called_train(classes: Path, network: NetworkConfig) -> None:
    (classes / "left").rename(classes / "train")
    corpus = open_files(VideoFolderConfig(root=classes), network, seed=0)
    assert corpus.heads[0].labels == ("right", "train")


def test_groups_in_the_names_stay_together(tmp_path: Path, film: Film, network: NetworkConfig) -> None:
    for label in ("a", "b"):
        for person in range(5):
            for take in range(2):
                film(tmp_path / label / f"p{person}-{take}.mp4", 2)
    corpus = open_files(VideoFolderConfig(root=tmp_path, group=r"p(\d+)-"), network, seed=0)
    assert len(np.unique(corpus.groups)) == 5
    sides = [{corpus.items[i].group for i in members} for members in corpus.splits.values()]
    assert sum(len(side) for side in sides) == 5
    with pytest.raises(DataError, match=r"no group in the name 'p0-0\.mp4'"):
        open_files(VideoFolderConfig(root=tmp_path, group=r"person(\d+)"), network, seed=0)


@pytest.mark.parametrize("pattern", ["p[", "p", "(p)(q)"])
def test_a_group_pattern_must_name_one_group(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match=r"groups in parentheses|no regular expression"):
        VideoFolderConfig(root=tmp_path, group=pattern)


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (1, 0, 0), (float("nan"), 0.5, 0.5)])
def test_shares_must_part_the_whole(tmp_path: Path, shares: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        VideoFolderConfig(root=tmp_path, shares=shares)


def test_roots_that_hold_no_classes_are_refused(
    tmp_path: Path, classes: Path, film: Film, network: NetworkConfig
) -> None:
    def refused(root: Path) -> str:
        with pytest.raises(DataError) as raised:
            open_files(VideoFolderConfig(root=root), network, seed=0)
        return str(raised.value)

    assert "no folder" in refused(tmp_path / "nowhere")
    assert "no folder" in refused(classes / "left" / "1.mp4")
    assert "0 class folders" in refused(classes / "left")
    shutil.rmtree(classes / "left")
    assert "1 class folders" in (one := refused(classes))
    assert "'right'" in one
    (classes / "empty").mkdir()
    assert "no video in" in (empty := refused(classes))
    assert "empty" in empty


def test_a_folder_that_may_not_be_read_is_named(classes: Path, network: NetworkConfig) -> None:
    (classes / "left").chmod(0)
    try:
        if next(classes.glob("left/*"), None) is not None:
            pytest.skip("this user may read everything")
        with pytest.raises(DataError, match="left"):
            open_files(VideoFolderConfig(root=classes), network, seed=0)
    finally:
        (classes / "left").chmod(0o755)


def test_folders_beside_the_splits_are_refused(parted: Path, network: NetworkConfig) -> None:
    (parted / "walking").mkdir()
    with pytest.raises(DataError, match="walking beside"):
        open_files(VideoFolderConfig(root=parted), network, seed=0)


@pytest.mark.parametrize("how", [shutil.copy, lambda source, target: target.symlink_to(source)])
def test_a_video_in_two_splits_is_refused_whatever_it_is_called(parted: Path, network: NetworkConfig, how: Any) -> None:
    how(parted / "train" / "no" / "p30_no.mp4", parted / "test" / "no" / "other name.mp4")
    with pytest.raises(DataError, match="are the same video") as raised:
        open_files(VideoFolderConfig(root=parted), network, seed=0)
    assert "p30_no" in raised.value.found
    assert "other name" in raised.value.found


def test_frame_folders_are_read_as_the_jester_set_has_them(
    jester: Path, network: NetworkConfig, numbers: Numbers
) -> None:
    config = FrameFoldersConfig(root=jester, folders=Path("frames"), frames=4)
    corpus = open_files(config, network, seed=0)
    assert corpus.heads[0].labels == ("Swiping Left", "Swiping Right")
    assert names(corpus, "validation") == ["frames/7", "frames/8"]
    assert len(corpus.splits["test"]) == 2
    assert len(corpus.splits["train"]) == 4
    clips = corpus.clips(corpus.splits["validation"], training=False)
    assert [clips.clip(index).truth["label"].tolist() for index in (0, 1)] == [[0] * 4, [1] * 4]
    assert numbers(clips.clip(0).frames) == [4, 5, 6, 7]


def test_labels_of_the_test_set_are_used_where_they_are_known(jester: Path, network: NetworkConfig) -> None:
    (jester / "jester-v1-train.csv").write_text("\ufeff1;Swiping Left\n\n2;Swiping Right\n", encoding="utf-8")
    (jester / "test.csv").write_text("3;Swiping Left\n")
    config = FrameFoldersConfig(root=jester, folders=Path("frames"), test=Path("test.csv"))
    assert [len(members) for members in open_files(config, network, seed=0).splits.values()] == [2, 2, 1]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train", "1;Swiping Left\n2;Swipping Right\n", "line 2: unknown label 'Swipping Right'.*'Swiping Right'"),
        ("train", "1;Swiping Left\n\n2\n", "line 3: '2'"),
        ("train", "1;Swiping Left;extra\n", "id;label"),
        ("train", "1,Swiping Left\n", "id;label"),
        ("train", "99;Swiping Left\n", "no folder .*99"),
        ("train", "../frames;Swiping Left\n", "no folder"),
        ("train", "1;Swiping Left\n1;Swiping Left\n", "frames/1 is twice in train"),
        ("train", "7;Swiping Left\n2;Swiping Right\n", "frames/7 is in train and in validation"),
        ("train", "", "is empty"),
        ("train", None, "no file"),
        ("labels", "Swiping Left\n", "two or more classes"),
        ("labels", "Swiping Left\nSwiping Left\n", "each label once"),
        ("labels", b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_csv_files_that_do_not_fit_are_refused(
    jester: Path, network: NetworkConfig, file: str, content: str | bytes | None, message: str
) -> None:
    path = jester / f"jester-v1-{file}.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=f"(?s){message}"):
        open_files(FrameFoldersConfig(root=jester, folders=Path("frames")), network, seed=0)


def test_ucf101_is_split_by_its_lists_and_by_groups_for_validation(ucf: Path, network: NetworkConfig) -> None:
    corpus = open_files(Ucf101Config(root=ucf, frames=2), network, seed=0)
    assert corpus.heads[0].labels == ("Archery", "YoYo")
    assert [len(members) for members in corpus.splits.values()] == [24, 4, 4]
    assert all("_g01_" in name for name in names(corpus, "test"))
    sides = [{corpus.items[i].group for i in corpus.splits[split]} for split in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(np.unique(corpus.groups)) == 16
    clip = corpus.clips(corpus.splits["validation"], training=False).clip(0)
    assert clip.truth["label"][0] == corpus.strata[corpus.splits["validation"][0]]


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("testlist01.txt", "YoYo/v_YoYo_g02_c01.avi", "v_YoYo_g02_c01.avi is in train and in test"),
        ("trainlist01.txt", "YoYo/v_YoYo_g02_c01.avi 2", "twice in train"),
        ("trainlist01.txt", "YoYo/v_YoYo_g01_c01.avi 1", "class 1 for YoYo/v_YoYo_g01_c01.avi"),
        ("trainlist01.txt", "YoYo/v_YoYo_g99_c01.avi 2", "no file"),
        ("trainlist01.txt", "Yoyo/v_YoYo_g02_c01.avi 2", "unknown label 'Yoyo'"),
        ("classInd.txt", "three Diving", "'three Diving'"),
        ("classInd.txt", "2 Diving", "each number once"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    ucf: Path, network: NetworkConfig, file: str, line: str, message: str
) -> None:
    with (ucf / "ucfTrainTestlist" / file).open("a") as text:
        text.write(line + "\n")
    with pytest.raises(DataError, match=message):
        open_files(Ucf101Config(root=ucf), network, seed=0)


def test_lists_that_part_a_group_are_refused(ucf: Path, network: NetworkConfig) -> None:
    lists = ucf / "ucfTrainTestlist"
    train = (lists / "trainlist01.txt").read_text().split()
    moved = train.index("YoYo/v_YoYo_g02_c01.avi")
    (lists / "testlist01.txt").write_text(train[moved] + "\n")
    del train[moved : moved + 2]
    pairs = [" ".join(pair) for pair in zip(train[::2], train[1::2], strict=True)]
    (lists / "trainlist01.txt").write_text("\n".join(pairs))
    with pytest.raises(DataError, match="v_YoYo_g02"):
        open_files(Ucf101Config(root=ucf), network, seed=0)


def test_a_split_that_the_set_lacks_is_named(ucf: Path, network: NetworkConfig) -> None:
    with pytest.raises(DataError, match=r"trainlist02\.txt"):
        open_files(Ucf101Config(root=ucf, split=2), network, seed=0)
