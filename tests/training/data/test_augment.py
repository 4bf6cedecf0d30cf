from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from edge_cnnlstm.training.data.augment import Change, Part, draw
from edge_cnnlstm.training.data.settings import AugmentConfig
from edge_cnnlstm.training.data.tracks import Annotations, Track

HEIGHT, WIDTH = 40, 60


def drawn(seed: int = 0, frames: int = 6, **settings: float) -> Change:
    return draw(AugmentConfig(**settings), frames, HEIGHT, WIDTH, np.random.default_rng(seed))


def scene(frames: int = 6, seed: int = 3) -> Any:
    coarse = np.random.default_rng(seed).integers(60, 190, (8, 12, 3), dtype=np.uint8)
    return np.stack([cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)] * frames)


def track(*boxes: tuple[float, float, float, float]) -> Track:
    return Track(np.array(boxes, np.float32), np.ones(len(boxes), np.float32))


def test_all_settings_at_0_change_nothing_at_all() -> None:
    frames = scene()
    for seed in range(5):
        change = drawn(seed)
        assert change.apply(frames) is frames
        before = track((0.1, 0.2, 0.3, 0.4), (0.9, 0.9, 0.2, 0.2))
        assert change.follow(before, HEIGHT, WIDTH) is before
        assert change.positions(4, 3, 10).tolist() == [0, 3, 6, 9]


EACH: list[dict[str, float]] = [
    {"crop": 0.5},
    {"flip": 1},
    {"colour": 0.5},
    {"blur": 3},
    {"occlude": 1},
]


@pytest.mark.parametrize("settings", EACH, ids=lambda settings: next(iter(settings)))
def test_every_frame_of_a_clip_is_changed_alike_and_every_clip_otherwise(settings: dict[str, float]) -> None:
    frames, results = scene(), []
    untouched = frames.copy()
    for seed in range(4):
        changed = drawn(seed, **settings).apply(frames)
        assert changed.dtype == np.uint8
        assert changed.shape == frames.shape
        assert (changed == changed[0]).all()
        np.testing.assert_array_equal(changed, drawn(seed, **settings).apply(frames))
        results.append(changed)
    np.testing.assert_array_equal(frames, untouched)
    assert sum((changed != frames).any() for changed in results) >= 3  # what is drawn may be next to nothing
    if "flip" not in settings:
        assert len({changed.tobytes() for changed in results}) == 4


def test_noise_is_of_one_strength_and_new_in_every_frame() -> None:
    frames = np.full((6, HEIGHT, WIDTH, 3), 128, np.uint8)
    change = drawn(1, noise=20)
    noisy = change.apply(frames).astype(float)
    assert noisy.std(axis=(1, 2, 3)) == pytest.approx(change.noise, rel=0.05)
    assert (noisy[0] != noisy[1]).any()
    np.testing.assert_array_equal(change.apply(frames[:2]), noisy[:2])


def test_one_setting_does_not_move_what_the_others_do() -> None:
    alone, together = drawn(5, crop=0.5, speed=0.5), drawn(5, crop=0.5, speed=0.5, blur=2, noise=9, occlude=1, drop=0.4)
    assert (alone.crop, alone.speed, alone.start) == (together.crop, together.speed, together.start)


@pytest.mark.parametrize(
    ("change", "pixel", "expected"),
    [
        (Change(brightness=0.5), (100, 60, 20), (150, 90, 30)),
        (Change(brightness=0.9), (200, 60, 20), (255, 114, 38)),
        (Change(contrast=0.5), (128, 100, 200), (128, 86, 236)),
        (Change(saturation=-1 + 1e-9), (255, 0, 0), (76, 76, 76)),
        (Change(saturation=1), (100, 100, 100), (100, 100, 100)),
    ],
)
def test_colours_change_as_the_names_say(change: Change, pixel: Any, expected: Any) -> None:
    frames = np.empty((1, 2, 2, 3), np.uint8)
    frames[:] = pixel
    assert change.apply(frames)[0, 0, 0].tolist() == list(expected)


def test_a_crop_is_scaled_back_to_the_whole_frame() -> None:
    frames = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, 10:30, 15:45] = 200
    assert (Change(crop=Part(15, 10, 30, 20)).apply(frames) == 200).all()
    for seed in range(50):
        part = drawn(seed, crop=0.6).crop
        assert part is not None
        assert part.width >= 0.4 * WIDTH - 1
        assert part.left >= 0
        assert part.top >= 0
        assert part.left + part.width <= WIDTH
        assert part.top + part.height <= HEIGHT


def test_boxes_follow_the_picture_exactly() -> None:
    """A white rectangle is where its box says, before and after."""
    for seed in range(30):
        change = drawn(seed, crop=0.3, flip=0.5)
        frames = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
        frames[0, 15:25, 20:40] = 255
        before = track((30 / WIDTH, 20 / HEIGHT, 20 / WIDTH, 10 / HEIGHT))
        after = change.follow(before, HEIGHT, WIDTH)
        shown = change.apply(frames)[0, ..., 0] / 255.0
        # The mass of a row, and its centre, tell the box to a fraction of a pixel.
        row, column = shown.max(axis=0), shown.max(axis=1)
        x = ((np.arange(WIDTH) + 0.5) * row).sum() / row.sum() / WIDTH
        y = ((np.arange(HEIGHT) + 0.5) * column).sum() / column.sum() / HEIGHT
        np.testing.assert_allclose(after.boxes[0], [x, y, row.sum() / WIDTH, column.sum() / HEIGHT], atol=0.012)
        assert after.visible.tolist() == [1]


def test_a_target_that_leaves_the_picture_is_cut_then_out_of_sight_then_gone() -> None:
    boxes = track((0.5, 0.5, 0.2, 0.2), (0.28, 0.5, 0.2, 0.2), (0.22, 0.5, 0.2, 0.2), (0.05, 0.5, 0.1, 0.2))
    half = Part(WIDTH // 4, 0, WIDTH // 2, HEIGHT)
    after = Change(crop=half).follow(boxes, HEIGHT, WIDTH)
    np.testing.assert_allclose(
        after.boxes,
        [[0.5, 0.5, 0.4, 0.2], [0.13, 0.5, 0.26, 0.2], [0.07, 0.5, 0.14, 0.2], [np.nan] * 4],
        atol=1e-6,
    )
    assert after.visible.tolist() == [1, 1, 0, 0]


def test_what_is_not_known_stays_unknown() -> None:
    unknown = Annotations(np.array([4]), track((0.5, 0.5, 0.1, 0.1))).at(np.array([3, 4, 4, 5]))
    after = Change(crop=Part(0, 0, 30, 40), flip=True, occluder=Part(0, 0, 60, 40)).follow(unknown, HEIGHT, WIDTH)
    assert np.isnan(after.visible).tolist() == [True, False, False, True]
    assert np.isnan(after.boxes).all(axis=1).tolist() == [True, False, False, True]


def test_a_target_behind_the_occluder_is_out_of_sight_and_keeps_its_box() -> None:
    boxes = track((0.25, 0.5, 0.2, 0.2), (0.75, 0.5, 0.2, 0.2), (0.5, 0.5, 0.2, 0.2))
    after = Change(occluder=Part(0, 0, 28, HEIGHT)).follow(boxes, HEIGHT, WIDTH)
    np.testing.assert_array_equal(after.boxes, boxes.boxes)
    assert after.visible.tolist() == [0, 1, 1]


def test_the_occluder_hides_the_same_place_of_every_frame() -> None:
    change = drawn(2, occlude=1)
    assert change.occluder is not None
    changed = change.apply(np.zeros((3, HEIGHT, WIDTH, 3), np.uint8))
    assert (changed[change.occluder.slices] == change.occluder_colour).all()
    assert (changed.max(axis=-1) > 0).sum() == 3 * change.occluder.width * change.occluder.height


def test_speed_moves_frames_apart_or_together() -> None:
    assert Change(start=0, speed=1.5).positions(4, 2, 100).tolist() == [0, 3, 6, 9]
    assert Change(start=0, speed=0.5).positions(5, 1, 100).tolist() == [0, 0, 1, 2, 2]
    assert Change(start=0.999, speed=1.5).positions(4, 2, 12).tolist() == [2, 5, 8, 11]
    speeds = [drawn(seed, speed=0.5).speed for seed in range(200)]
    assert 0.5 <= min(speeds) < 0.6
    assert 1.4 < max(speeds) <= 1.5


def test_a_dropped_frame_shows_the_one_before_it() -> None:
    dropped = np.array([True, False, True, True, False])
    assert Change(start=0, dropped=dropped).positions(5, 2, 100).tolist() == [0, 2, 2, 2, 8]
    share = np.mean([drawn(seed, frames=100, drop=0.3).dropped for seed in range(20)])
    assert share == pytest.approx(0.3, abs=0.04)


def test_a_clip_lies_anywhere_and_never_past_the_end_of_long_enough_footage() -> None:
    starts = [drawn(seed).positions(4, 3, 20) for seed in range(300)]
    assert {int(positions[0]) for positions in starts} == set(range(11))
    assert max(int(positions[-1]) for positions in starts) == 19
    assert Change().positions(4, 1, 12).tolist() == [4, 5, 6, 7]
    assert Change().positions(4, 1, 2).tolist() == [0, 1, 2, 3]
