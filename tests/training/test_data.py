from __future__ import annotations

import numpy as np
import pytest

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.data.clips import ClipBatches, Stage
from edge_cnnlstm.training.data.occluded_digits import (
    OPENING_FRAMES,
    SPLITS,
    Scene,
    Split,
    digit_images,
    render_clip,
)


def test_no_digit_image_is_in_two_splits_and_none_is_lost() -> None:
    images = {split: {image.tobytes() for image in digit_images(split)[0]} for split in SPLITS}

    assert sum(len(digit_images(split)[0]) for split in SPLITS) == 1797
    assert not images["train"] & images["test"]
    assert not images["train"] & images["validation"]
    assert not images["validation"] & images["test"]


def test_every_split_has_every_digit_in_like_numbers() -> None:
    for split in SPLITS:
        counts = np.bincount(digit_images(split)[1], minlength=10)
        assert counts.min() >= 0.85 * counts.max()


def test_the_same_seed_renders_the_same_pixels_and_another_does_not() -> None:
    first, again, other = render_clip("test", 5, 3), render_clip("test", 5, 3), render_clip("test", 6, 3)

    assert np.array_equal(first.frames, again.frames)
    assert np.array_equal(first.boxes, again.boxes)
    assert not np.array_equal(first.frames, other.frames)


@pytest.mark.parametrize("scene", [Scene(), Scene(frames=3), Scene(frames=48, height=240, width=320)])
def test_clips_are_what_they_say(scene: Scene) -> None:
    for index in range(20):
        clip = render_clip("train", 0, index, scene)
        left, right = clip.boxes[:, 0] - clip.boxes[:, 2] / 2, clip.boxes[:, 0] + clip.boxes[:, 2] / 2
        top, bottom = clip.boxes[:, 1] - clip.boxes[:, 3] / 2, clip.boxes[:, 1] + clip.boxes[:, 3] / 2

        assert clip.frames.shape == (scene.frames, scene.height, scene.width, 3)
        assert clip.frames.dtype == np.uint8
        assert min(left.min(), top.min()) >= 0
        assert right.max() <= scene.width
        assert bottom.max() <= scene.height
        assert clip.visible[:OPENING_FRAMES].all()


def test_every_clip_of_sixteen_frames_hides_its_digit() -> None:
    assert all(not render_clip("train", 0, index).visible.all() for index in range(100))


def test_the_box_is_where_the_digit_is() -> None:
    """Ink is brighter than any background, so the brightest pixels of the opening frame lie in its box."""
    inside = []
    for index in range(30):
        clip = render_clip("train", 1, index)
        x, y, width, height = clip.boxes[0]
        motion = np.abs(clip.frames[0].astype(int) - clip.frames[OPENING_FRAMES - 1]).sum(axis=2)
        row, column = np.unravel_index(motion.argmax(), motion.shape)
        reach = 10  # the digit has moved on by the frame it is compared with
        inside.append(abs(column - x) <= width / 2 + reach and abs(row - y) <= height / 2 + reach)
    assert np.mean(inside) >= 0.9


def test_an_unknown_split_is_refused() -> None:
    unknown: Split = "holdout"  # type: ignore[assignment]  # that is what is tested
    with pytest.raises(ConfigError, match="train, validation, test"):
        digit_images(unknown)


def test_batches_follow_the_curriculum_and_never_repeat_a_clip() -> None:
    batches = ClipBatches("train", 0, 64, (Stage(frames=3, clips=4, batches=2), Stage(frames=16, clips=2, batches=1)))

    frames = [batches[index][0] for index in range(len(batches))]

    assert [tuple(batch.shape) for batch in frames] == [(4, 3, 64, 64, 3), (4, 3, 64, 64, 3), (2, 16, 64, 64, 3)]
    openings = [clip[0].numpy().tobytes() for batch in frames for clip in batch]
    assert len(set(openings)) == len(openings)
    with pytest.raises(IndexError):
        batches[3]
