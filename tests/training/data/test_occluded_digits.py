from __future__ import annotations

import numpy as np
import pytest

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.data.clip import SPLITS, Clip, Split
from edge_cnnlstm.training.data.digit_images import all_digits, split_items
from edge_cnnlstm.training.data.occluded_digits import OPENING_FRAMES, Scene, corpus, held_out_clip
from edge_cnnlstm.training.data.settings import OccludedDigitsConfig
from edge_cnnlstm.training.recipe import load_recipe


def render_clip(split: Split, seed: int, index: int, scene: Scene | None = None) -> Clip:
    return held_out_clip(index, scene or Scene(), split=split, seed=seed)


def test_no_digit_image_is_in_two_splits_and_none_is_lost() -> None:
    digits = all_digits()
    images = {split: {image.tobytes() for image in digits.only(split_items(split)).images} for split in SPLITS}

    assert sorted(item for split in SPLITS for item in split_items(split)) == list(range(1797))
    assert not images["train"] & images["test"]
    assert not images["train"] & images["validation"]
    assert not images["validation"] & images["test"]


def test_every_split_has_every_digit_in_like_numbers() -> None:
    for split in SPLITS:
        counts = np.bincount(all_digits().labels[split_items(split)], minlength=10)
        assert counts.min() >= 0.85 * counts.max()


def test_the_same_seed_renders_the_same_pixels_and_another_does_not() -> None:
    first, again, other = render_clip("test", 5, 3), render_clip("test", 5, 3), render_clip("test", 6, 3)

    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.truth["target_box"], again.truth["target_box"])
    assert not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize("scene", [Scene(), Scene(frames=3), Scene(frames=48, height=240, width=320)])
def test_clips_are_what_they_say(scene: Scene) -> None:
    for index in range(20):
        clip = render_clip("train", 0, index, scene)
        boxes = np.asarray(clip.truth["target_box"])
        low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2

        assert clip.frames.shape == (scene.frames, scene.height, scene.width, 3)
        assert clip.frames.dtype == np.uint8
        assert low.min() >= 0
        assert high.max() <= 1
        assert clip.conditions["visible"][:OPENING_FRAMES].all()
        assert np.array_equal(clip.truth["target_visible"], clip.conditions["visible"])
        assert np.array_equal(clip.conditions["hidden"], ~clip.conditions["visible"])


def test_every_clip_of_sixteen_frames_hides_its_digit() -> None:
    assert all(not render_clip("train", 0, index).conditions["visible"].all() for index in range(100))


def test_the_box_is_where_the_digit_is() -> None:
    """Ink is brighter than any background, so the brightest pixels of the opening frame lie in its box."""
    inside = []
    for index in range(30):
        clip = render_clip("train", 1, index)
        x, y, width, height = clip.truth["target_box"][0] * 64
        motion = np.abs(clip.frames[0].astype(int) - clip.frames[OPENING_FRAMES - 1]).sum(axis=2)
        row, column = np.unravel_index(motion.argmax(), motion.shape)
        reach = 10  # the digit has moved on by the frame it is compared with
        inside.append(abs(column - x) <= width / 2 + reach and abs(row - y) <= height / 2 + reach)
    assert np.mean(inside) >= 0.9


def test_an_unknown_split_is_refused() -> None:
    unknown: Split = "holdout"  # type: ignore[assignment]  # that is what is tested
    with pytest.raises(ConfigError, match="train, validation, test"):
        split_items(unknown)


def test_a_training_set_draws_new_clips_in_every_epoch_and_a_held_out_one_does_not() -> None:
    network = load_recipe("occluded-digits").model
    drawn = corpus(OccludedDigitsConfig(clips=5, held_out=3), network, seed=0)
    training = drawn.clips(drawn.splits["train"], training=True)
    held_out = drawn.clips(drawn.splits["test"], training=False)

    assert (len(training), len(held_out)) == (5, 3)
    assert not np.array_equal(training.clip(0, epoch=0).frames, training.clip(0, epoch=1).frames)
    assert np.array_equal(held_out.clip(0, epoch=0).frames, held_out.clip(0, epoch=1).frames)
    assert training.clip(2, frames=3).frames.shape == (3, 64, 64, 3)


def test_the_digest_tells_data_apart() -> None:
    network = load_recipe("occluded-digits").model
    digests = {corpus(OccludedDigitsConfig(frames=frames), network, seed=0).digest() for frames in (16, 16, 17)}

    assert len(digests) == 2
