"""Holds what the synthetic sets promise: that only memory can answer them, and that no image crosses a split."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.linear_model import LogisticRegression

from edge_cnnlstm.training.config import NetworkConfig
from edge_cnnlstm.training.data import canvas, digit_stills, gestures, recall
from edge_cnnlstm.training.data.batches import ClipBatches
from edge_cnnlstm.training.data.clip import SPLITS, Clip, Corpus, Split
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.data.digit_images import all_digits, split_items
from edge_cnnlstm.training.data.settings import DigitImagesConfig, GesturesConfig, RecallConfig
from edge_cnnlstm.training.tasks import due

CONFIGS: dict[str, Any] = {
    "gestures": GesturesConfig(clips=40, held_out=10),
    "recall": RecallConfig(clips=40, held_out=10),
    "digit-images": DigitImagesConfig(),
}
UNLIKELY = 1e-4
"""A test statistic less likely than this is no accident; the seeds are fixed, so that none happens by chance."""


def network(height: int = 32, width: int = 32) -> NetworkConfig:
    return NetworkConfig.model_validate({"preset": "nano", "height": height, "width": width})


def corpus(kind: str, height: int = 32, width: int = 32, seed: int = 0) -> Corpus:
    return open_corpus(CONFIGS[kind], network(height, width), seed)


def clip(kind: str, index: int, *, split: Split = "train", epoch: int = 0, seed: int = 0) -> Clip:
    made_of = corpus(kind, seed=seed)
    return made_of.clips(made_of.splits[split], training=split == "train").clip(index, epoch=epoch)


@pytest.mark.parametrize("kind", CONFIGS)
def test_equal_arguments_give_equal_clips_and_others_do_not(kind: str) -> None:
    first = clip(kind, 3)

    assert np.array_equal(first.frames, clip(kind, 3).frames)
    assert all(np.array_equal(values, clip(kind, 3).truth[name]) for name, values in first.truth.items())
    for other in (clip(kind, 4), clip(kind, 3, epoch=1), clip(kind, 3, seed=1)):
        assert not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize("kind", CONFIGS)
def test_clips_that_are_scored_are_the_same_in_every_epoch(kind: str) -> None:
    assert np.array_equal(clip(kind, 3, split="test").frames, clip(kind, 3, split="test", epoch=9).frames)


@pytest.mark.parametrize("size", [(32, 32), (24, 80), (90, 33)])
@pytest.mark.parametrize("kind", CONFIGS)
def test_clips_fit_the_network_and_answer_every_frame(kind: str, size: tuple[int, int]) -> None:
    made_of = corpus(kind, *size)
    time = getattr(CONFIGS[kind], "frames", 1)
    (head,) = made_of.heads

    for split in SPLITS:
        shown = made_of.clips(made_of.splits[split], training=split == "train").clip(0)

        assert shown.frames.shape == (time, *size, 3)
        assert shown.frames.dtype == np.uint8
        assert shown.frames.std() > 10
        assert shown.truth[head.name].shape == (time,)
        assert shown.truth[head.name].dtype == np.int64
        assert 0 <= shown.truth[head.name].min() <= shown.truth[head.name].max() < len(head.labels)
        assert head.labels[shown.truth[head.name][0]] in shown.name


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_clip_shows_only_images_of_its_own_split(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image that reaches the canvas is recorded, whatever the clip does with it."""
    shown: set[bytes] = set()
    for module, name in ((canvas, "resized"), (digit_stills, "_pictured")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, recorded(original, shown))
    own = {split: {all_digits().images[item].tobytes() for item in split_items(split)} for split in SPLITS}

    for split in SPLITS:
        shown.clear()
        for index in range(20):
            clip(kind, index % 10, split=split, epoch=index)
        assert shown
        assert shown <= own[split]


def recorded(original: Callable[..., Any], shown: set[bytes]) -> Callable[..., Any]:
    def record(digit: NDArray[np.float32], *arguments: Any) -> Any:
        shown.add(digit.tobytes())
        return original(digit, *arguments)

    return record


def test_no_image_is_equal_to_one_of_another_split() -> None:
    images = {split: {all_digits().images[item].tobytes() for item in split_items(split)} for split in SPLITS}

    assert not images["train"] & images["test"]
    assert not images["train"] & images["validation"]
    assert not images["validation"] & images["test"]


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_the_clips_depend_on_is_in_the_digest(kind: str) -> None:
    field = "repeats" if kind == "digit-images" else "frames"
    other = CONFIGS[kind].model_copy(update={field: 7})

    assert corpus(kind).digest() == corpus(kind).digest()
    assert open_corpus(other, network(), 0).digest() != corpus(kind).digest()


# ---- stills


def test_an_epoch_of_stills_shows_every_training_image_and_a_test_every_test_image_once_in_order() -> None:
    made_of = corpus("digit-images")

    for split in SPLITS:
        items = made_of.splits[split]
        clips = made_of.clips(items, training=split == "train")
        labels = [int(clips.clip(index).truth["digit"][0]) for index in range(len(clips))]
        assert labels == all_digits().labels[items].tolist()


def test_repeats_show_each_image_so_often_and_never_alike() -> None:
    made_of = open_corpus(DigitImagesConfig(repeats=3), network(), 0)
    items = made_of.splits["train"][:5]
    clips = made_of.clips(items, training=True)

    shown = [clips.clip(index) for index in range(len(clips))]

    assert len(shown) == 15
    assert [int(still.truth["digit"][0]) for still in shown] == all_digits().labels[items].tolist() * 3
    assert len({still.frames.tobytes() for still in shown}) == 15
    assert len(made_of.clips(items, training=False)) == 5
    with pytest.raises(IndexError):
        clips.clip(15)


def test_a_still_that_is_scored_is_the_image_itself() -> None:
    """Averaging the 4 × 4 pixels that one of the 8 × 8 has become gives it back, but for the curve of the spline."""
    made_of = corpus("digit-images")
    items = made_of.splits["test"]
    clips = made_of.clips(items, training=False)

    for index in range(0, len(items), 40):
        pixels = clips.clip(index).frames[0].astype(float) / 255
        small = pixels.reshape(8, 4, 8, 4, 3).mean(axis=(1, 3, 4))
        assert (pixels == pixels[..., :1]).all()
        assert np.corrcoef(small.ravel(), all_digits().images[items[index]].ravel())[0, 1] > 0.98


def test_augmented_stills_stay_legible_and_in_the_frame() -> None:
    """The nearest plain image of another warp of an image is one of the same digit, nearly always."""
    made_of = corpus("digit-images")
    items = made_of.splits["train"][:300]
    plain = made_of.clips(items, training=False)
    warped = made_of.clips(items, training=True)
    known = np.stack([plain.clip(index).frames[0, ..., 0].ravel() for index in range(300)]).astype(float)
    labels = all_digits().labels[items]

    right = 0
    for index in range(300):
        seen = warped.clip(index, epoch=1).frames[0, ..., 0].ravel().astype(float)
        right += labels[((known - seen) ** 2).sum(axis=1).argmin()] == labels[index]
        assert seen.sum() > 0.6 * known[index].sum()
    assert right > 0.9 * 300


def test_without_augmentation_training_shows_the_images_themselves() -> None:
    made_of = open_corpus(DigitImagesConfig(augment=False), network(), 0)
    items = made_of.splits["train"]

    trained, scored = (made_of.clips(items, training=training).clip(7, epoch=2) for training in (True, False))
    assert np.array_equal(trained.frames, scored.frames)


# ---- gestures

FRAMES = 10


@pytest.fixture(scope="module")
def tracks() -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Positions [clips, time, 2] and sizes [clips, time] of many clips of each gesture."""
    rng = np.random.default_rng(5)
    found = {}
    for gesture in gestures.GESTURES:
        drawn = [gestures.draw_track(rng, gesture, FRAMES) for _ in range(2000)]
        found[gesture] = np.stack([centre for centre, _ in drawn]), np.stack([size for _, size in drawn])
    return found


def test_at_every_frame_of_every_gesture_positions_are_uniform_and_sizes_log_uniform(
    tracks: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> None:
    smallest, largest = map(math.log, gestures.SIZES)
    for centres, sizes in tracks.values():
        for time in range(FRAMES):
            nearness = (np.log(sizes[:, time]) - smallest) / (largest - smallest)
            for values in (centres[:, time, 0], centres[:, time, 1], nearness):
                assert stats.kstest(values, "uniform").pvalue > UNLIKELY
            cells = np.histogramdd(np.column_stack([centres[:, time], nearness]), bins=4, range=[(0, 1)] * 3)[0]
            assert stats.chisquare(cells.ravel()).pvalue > UNLIKELY


@pytest.mark.parametrize(
    ("gesture", "opposite"),
    [("left", "right"), ("up", "down"), ("clockwise", "counterclockwise"), ("nearer", "farther")],
)
def test_opposite_gestures_are_each_other_played_backwards(
    tracks: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]], gesture: str, opposite: str
) -> None:
    """Compared by what every two frames between them say: the motion on the torus, and the change of size."""
    for number in range(3):
        forward, backward = (motion(*tracks[name])[..., number] for name in (gesture, opposite))
        assert stats.ks_2samp(forward[:, 0], -backward[:, -1]).pvalue > UNLIKELY


def test_each_gesture_moves_as_its_name_says(
    tracks: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
) -> None:
    for gesture, (centres, sizes) in tracks.items():
        dx, dy, growth = np.moveaxis(motion(centres, sizes), -1, 0)
        turn = dx[:, :-1] * dy[:, 1:] - dy[:, :-1] * dx[:, 1:]
        still = {"dx": np.allclose(dx, 0), "dy": np.allclose(dy, 0), "growth": np.allclose(growth, 0)}
        if gesture in {"left", "right"}:
            assert (np.sign(dx) == (1 if gesture == "right" else -1)).all()
            assert still == {"dx": False, "dy": True, "growth": True}
        elif gesture in {"up", "down"}:
            assert (np.sign(dy) == (1 if gesture == "down" else -1)).all()
            assert still == {"dx": True, "dy": False, "growth": True}
        elif gesture in {"clockwise", "counterclockwise"}:
            assert (np.sign(turn) == (1 if gesture == "clockwise" else -1)).all()
            assert still["growth"]
        else:
            assert (np.sign(growth) == (1 if gesture == "nearer" else -1)).all()
            assert still == {"dx": True, "dy": True, "growth": False}


def motion(centres: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Steps from frame to frame, [clips, time − 1, (x, y, nearness)], the short way round."""
    smallest, largest = map(math.log, gestures.SIZES)
    nearness = (np.log(sizes) - smallest) / (largest - smallest)
    steps = np.diff(np.concatenate([centres, nearness[..., None]], axis=2), axis=1)
    return np.round((steps + 0.5) % 1 - 0.5, 9)


def test_a_straight_gesture_in_a_wide_frame_goes_as_far_in_pixels() -> None:
    for aspect, gesture, axis, share in ((2.0, "right", 0, 0.5), (2.0, "down", 1, 1.0), (0.5, "down", 1, 0.5)):
        square, _ = gestures.draw_track(np.random.default_rng(1), gesture, 2)
        other, _ = gestures.draw_track(np.random.default_rng(1), gesture, 2, aspect)
        assert (other[1] - other[0])[axis] % 1 == pytest.approx(share * ((square[1] - square[0])[axis] % 1))


def test_the_pixels_are_where_the_track_is() -> None:
    ink = gestures._wrapped(np.ones((8, 8), np.float32), np.array([0.0, 0.25]), 0.25, 32, 64)

    assert ink.sum() == pytest.approx(64)
    assert np.flatnonzero(ink.any(axis=0)).tolist() == [0, 1, 2, 3, 60, 61, 62, 63]
    assert np.flatnonzero(ink.any(axis=1)).tolist() == list(range(4, 12))


def test_no_single_frame_tells_the_gesture_even_to_a_fitted_classifier() -> None:
    made_of = open_corpus(GesturesConfig(clips=1600), network(16, 16), 0)
    clips = made_of.clips(made_of.splits["train"], training=True)
    shown = [clips.clip(index) for index in range(len(clips))]
    labels = np.array([each.truth["gesture"][0] for each in shown])

    for frame in (0, 15):
        pixels = np.stack([each.frames[frame].mean(axis=2).ravel() for each in shown]) / 255
        fitted = LogisticRegression(max_iter=40, tol=1e-2).fit(pixels[:1200], labels[:1200])
        right = int((fitted.predict(pixels[1200:]) == labels[1200:]).sum())
        assert stats.binomtest(right, 400, 1 / len(gestures.GESTURES)).pvalue > 0.01


# ---- recall


def test_the_last_frame_is_asked_and_the_first_digit_is_the_answer() -> None:
    made_of = corpus("recall")
    frames, truth, _ = ClipBatches(made_of.clips(made_of.splits["train"], training=True), 8, seed=0)[0]

    asked = due(made_of.heads, truth)["digit"]

    assert frames.shape[:2] == (8, 48)
    assert (asked[:, :-1] == -1).all()
    assert (asked[:, -1] == truth["digit"][:, 0]).all()


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 48, 100])
def test_a_shorter_or_longer_clip_is_of_the_same_kind(frames: int) -> None:
    """Its last frame can be asked: it begins with the whole first digit, or as much of it as fits."""
    made_of = corpus("recall")
    cut = made_of.clips(made_of.splits["train"], training=True).clip(2, frames=frames)

    assert len(cut.frames) == len(cut.truth["digit"]) == frames
    assert len(set(cut.truth["digit"].tolist())) == 1
    first = cut.frames[: recall.CUE_FRAMES].astype(int)
    assert np.abs(first - first[0]).max() < 12 * canvas.NOISE
    if frames > recall.CUE_FRAMES:
        assert np.abs(cut.frames[recall.CUE_FRAMES].astype(int) - first[0]).max() > 12 * canvas.NOISE


def test_the_digits_that_follow_are_drawn_as_often_and_independently_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = {all_digits().images[item].tobytes(): int(all_digits().labels[item]) for item in split_items("train")}
    shown: list[int] = []
    original = recall._placed

    def placed(rng: np.random.Generator, digit: NDArray[np.float32], height: int, width: int) -> Any:
        shown.append(labels[digit.tobytes()])
        return original(rng, digit, height, width)

    monkeypatch.setattr(recall, "_placed", placed)
    made_of = open_corpus(RecallConfig(clips=3000, frames=12), network(8, 8), 0)
    clips = made_of.clips(made_of.splits["train"], training=True)
    followed: defaultdict[int, list[int]] = defaultdict(list)
    for index in range(len(clips)):
        shown.clear()
        label = int(clips.clip(index).truth["digit"][0])
        assert shown[0] == label
        followed[label] += shown[1:]

    counts = np.array([np.bincount(followed[label], minlength=10) for label in range(10)])
    assert stats.chi2_contingency(counts).pvalue > UNLIKELY
    assert stats.chisquare(counts.sum(axis=0), all_share(counts.sum())).pvalue > UNLIKELY
    assert counts.sum() / (3 * len(clips)) == pytest.approx(1 - recall.BLANK, abs=0.02)


def all_share(total: int) -> NDArray[np.float64]:
    """How often each digit is expected: as often as the training images have it."""
    counts = np.bincount(all_digits().labels[split_items("train")], minlength=10)
    return np.asarray(counts * (total / counts.sum()))


def test_where_the_first_digit_lies_and_what_it_looks_like_is_as_for_any_other() -> None:
    """Brightness and spread of the ink in the first frame, and in later frames that show a digit, are alike."""
    made_of = open_corpus(RecallConfig(clips=600, frames=9), network(), 0)
    clips = made_of.clips(made_of.splits["train"], training=True)
    contrast: dict[int, list[float]] = {0: [], 6: []}
    for index in range(len(clips)):
        shown = clips.clip(index).frames.astype(float)
        for frame, values in contrast.items():
            spread = float(np.abs(shown[frame] - shown[frame].mean(axis=(0, 1))).max())
            values.append(spread)
    shows_digit = np.array(contrast[6]) > np.quantile(contrast[0], 0.02)
    assert shows_digit.mean() == pytest.approx(1 - recall.BLANK, abs=0.08)
    assert stats.ks_2samp(contrast[0], np.array(contrast[6])[shows_digit]).pvalue > UNLIKELY
