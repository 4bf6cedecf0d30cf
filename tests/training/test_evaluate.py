from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.training.data.occluded_digits import Clip
from edge_cnnlstm.training.evaluate import ACROSS, Answers, score


def clip(label: int, visible: list[bool]) -> Clip:
    time = len(visible)
    boxes = np.tile(np.array([32, 32, 16, 16], np.float32), (time, 1))
    return Clip(np.zeros((time, 64, 64, 3), np.uint8), boxes, np.array(visible), label)


def test_scores_split_by_sight_and_line_up_on_the_first_hidden_frame() -> None:
    clips = [clip(3, [True, True, False, False]), clip(5, [True, False, False, True])]

    def answer(frames: NDArray[np.uint8]) -> Answers:
        return np.array([3, 3, 3, 5]), np.tile(np.array([0.5, 0.5, 0.25, 0.25], np.float32), (4, 1))

    scores = score(answer, clips)

    assert scores.clips == 2
    assert scores.visible == pytest.approx(3 / 4)
    assert scores.hidden == pytest.approx(1 / 4)
    assert scores.iou == pytest.approx(1)
    assert scores.centre_error_px_visible == 0
    across = dict(zip(ACROSS, scores.across_occlusion, strict=True))
    assert across[0] == pytest.approx(1 / 2)
    assert across[-2] == 1
    assert across[-6] is None


def test_a_box_two_pixels_off_costs_two_pixels_and_some_overlap() -> None:
    def answer(frames: NDArray[np.uint8]) -> Answers:
        return np.array([1, 1]), np.tile(np.array([34 / 64, 0.5, 0.25, 0.25], np.float32), (2, 1))

    scores = score(answer, [clip(1, [True, False])])

    assert scores.centre_error_px_visible == pytest.approx(2)
    assert scores.centre_error_px_hidden == pytest.approx(2)
    assert scores.iou == pytest.approx(14 * 16 / (2 * 256 - 14 * 16))
