"""Scores agree with scikit-learn, leave out what is not known or not defined, and add up over batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import UNKNOWN
from edge_cnnlstm.training.metrics import Meters, higher_is_better
from edge_cnnlstm.training.metrics.boxes import OVERLAP_THRESHOLDS, precision_pixels
from edge_cnnlstm.training.metrics.meters import HIGHER_IS_BETTER

DIGIT = HeadConfig(name="digit", task="classify", labels=tuple("0123456"))
FALL = HeadConfig(name="fall", task="classify", labels=("no", "yes"))
GESTURE = HeadConfig(name="gesture", task="classify", labels=("left", "right", "still"), per="clip")
POSE = HeadConfig(name="pose", task="regress", labels=("x", "y"), centre=(100.0, 0.0), spread=(5.0, 1.0))
TARGET = HeadConfig(name="target", task="track")
CLIPS, TIME, HEIGHT, WIDTH = 6, 5, 30, 40

Values = dict[str, Tensor]


def score(heads: tuple[HeadConfig, ...], outputs: Values, truth: Values, **conditions: Tensor) -> dict[str, float]:
    meters = Meters(heads, HEIGHT, WIDTH)
    meters.update(outputs, truth, conditions)
    return meters.compute()


def classified(labels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, labels, (CLIPS, TIME), generator=generator)
    truth[:, 1] = UNKNOWN
    logits = torch.randn(CLIPS, TIME, labels, generator=generator)
    return logits, truth


def boxes(*sides: tuple[float, float, float, float]) -> Tensor:
    return torch.tensor(sides)[None]


def test_classification_agrees_with_scikit_learn_on_what_is_known() -> None:
    logits, truth = classified(7)

    scores = score((DIGIT,), {"digit_logits": logits}, {"digit": truth})

    known = truth != UNKNOWN
    labels, found = truth[known].numpy(), logits[known].softmax(-1).numpy()
    assert scores["digit.accuracy"] == pytest.approx(sk.accuracy_score(labels, found.argmax(1)))
    assert scores["digit.f1"] == pytest.approx(sk.f1_score(labels, found.argmax(1), average="macro"))
    assert scores["digit.top3"] == pytest.approx(sk.top_k_accuracy_score(labels, found, k=3))
    assert scores["digit.auroc"] == pytest.approx(sk.roc_auc_score(labels, found, multi_class="ovr"))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    probability = torch.tensor([0.8, 0.8, 0.8, 0.8, 0.8])
    logits = torch.log(torch.stack([1 - probability, probability], -1))
    logits = (logits[:, 1:] - logits[:, :1])[None]

    scores = score((FALL,), {"fall_logits": logits}, {"fall": torch.tensor([[1, 1, 0, 0, 0]])})

    assert scores["fall.calibration_error"] == pytest.approx(0.8 - 0.4)


def test_one_logit_for_two_labels_is_that_of_the_second() -> None:
    logits = torch.tensor([[[3.0], [0.2], [-0.1], [-5.0]]])
    truth = torch.tensor([[1, 0, 0, 1]])

    scores = score((FALL,), {"fall_logits": logits}, {"fall": truth})

    assert scores["fall.accuracy"] == pytest.approx(0.5)
    assert scores["fall.auroc"] == pytest.approx(sk.roc_auc_score(truth[0], logits[0, :, 0]))
    assert "fall.top3" not in scores


def test_a_per_clip_head_is_scored_at_the_last_known_frame_alone() -> None:
    truth = torch.tensor([[0, 0, 0, UNKNOWN], [2, 2, 2, 2]])
    logits = torch.zeros(2, 4, 3)
    logits[:, :, 1] = 1
    logits[0, 2, 0] = 9

    scores = score((GESTURE,), {"gesture_logits": logits}, {"gesture": truth})

    assert scores["gesture.accuracy"] == pytest.approx(0.5)


def test_regression_agrees_with_scikit_learn_in_the_values_own_units() -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(CLIPS, TIME, 2, generator=generator) * torch.tensor([5.0, 1.0]) + torch.tensor([100.0, 0.0])
    values = truth + torch.randn(truth.shape, generator=generator)
    truth[0, :, 0] = torch.nan

    scores = score((POSE,), {"pose_values": values}, {"pose": truth})

    for index, name in enumerate(("x", "y")):
        known = ~truth[..., index].isnan()
        pair = truth[..., index][known].numpy(), values[..., index][known].numpy()
        assert scores[f"pose.mae.{name}"] == pytest.approx(sk.mean_absolute_error(*pair), rel=1e-5)
        assert scores[f"pose.r2.{name}"] == pytest.approx(sk.r2_score(*pair), rel=1e-4)
    assert scores["pose.mae"] == pytest.approx((scores["pose.mae.x"] + scores["pose.mae.y"]) / 2)


def test_tracking_is_scored_in_pixels_of_the_frame() -> None:
    pixel = 1 / WIDTH
    truth = boxes((0.5, 0.5, 0.4, 0.4), (0.5, 0.5, 0.4, 0.4), (0.5, 0.5, 0.4, 0.4), (0.5, 0.5, torch.nan, 0.4))
    found = boxes((0.5, 0.5, 0.4, 0.4), (0.5 + 4 * pixel, 0.5, 0.4, 0.4), (0.1, 0.1, 0.1, 0.1), (0.9, 0.9, 0.1, 0.1))
    outputs = {"target_box": found, "target_presence": torch.tensor([[[2.0], [0.3], [0.4], [-1.0]]])}
    visible = torch.tensor([[1.0, 1.0, 0.0, torch.nan]])

    scores = score((TARGET,), outputs, {"target_box": truth, "target_visible": visible})

    overlaps = [1.0, (16 - 4) / (16 + 4), 0.0]
    errors = [0.0, 4.0, float(np.hypot(0.4 * WIDTH, 0.4 * HEIGHT))]
    assert scores["target.iou"] == pytest.approx(np.mean(overlaps), rel=1e-5)
    assert scores["target.centre_error_px"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert precision_pixels(HEIGHT, WIDTH) == pytest.approx(2.5)
    assert scores["target.precision"] == pytest.approx(1 / 3)
    above = [np.mean([overlap > threshold + 1e-6 for threshold in OVERLAP_THRESHOLDS]) for overlap in overlaps]
    assert scores["target.success_auc"] == pytest.approx(np.mean(above))
    assert scores["target.presence_accuracy"] == pytest.approx(2 / 3)
    assert scores["target.presence_f1"] == pytest.approx(sk.f1_score([1, 1, 0], [1, 1, 1]))


def test_each_condition_is_scored_alone() -> None:
    logits, truth = classified(7)
    hidden = torch.zeros(CLIPS, TIME, dtype=torch.bool)
    hidden[:, 3:] = True

    scores = score((DIGIT,), {"digit_logits": logits}, {"digit": truth}, hidden=hidden, visible=~hidden)

    right = (logits.argmax(-1) == truth).double()
    assert scores["digit.accuracy.hidden"] == pytest.approx(float(right[:, 3:].mean()))
    assert scores["digit.accuracy.visible"] == pytest.approx(float(right[:, [0, 2]].mean()))


def test_batches_add_up_to_the_whole_also_when_a_condition_comes_late() -> None:
    logits, truth = classified(7)
    late = torch.ones(2, TIME, dtype=torch.bool)
    whole = torch.zeros(CLIPS, TIME, dtype=torch.bool)
    whole[4:] = True

    meters = Meters((DIGIT,), HEIGHT, WIDTH)
    meters.update({"digit_logits": logits[:4]}, {"digit": truth[:4]})
    meters.update({"digit_logits": logits[4:]}, {"digit": truth[4:]}, {"late": late})

    assert meters.compute() == pytest.approx(score((DIGIT,), {"digit_logits": logits}, {"digit": truth}, late=whole))


def test_after_a_reset_nothing_is_left() -> None:
    logits, truth = classified(7)
    meters = Meters((DIGIT,), HEIGHT, WIDTH)
    meters.update({"digit_logits": torch.zeros_like(logits)}, {"digit": truth}, {"x": truth == 0})
    meters.reset()
    meters.update({"digit_logits": logits}, {"digit": truth})

    assert meters.compute() == score((DIGIT,), {"digit_logits": logits}, {"digit": truth})


def test_what_is_not_defined_on_one_clip_is_left_out_without_a_warning() -> None:
    outputs = {
        "digit_logits": torch.zeros(1, 1, 7),
        "pose_values": torch.zeros(1, 1, 2),
        "target_box": torch.full((1, 1, 4), 0.5),
        "target_presence": torch.zeros(1, 1, 1),
    }
    truth = {
        "digit": torch.tensor([[3]]),
        "pose": torch.tensor([[[1.0, torch.nan]]]),
        "target_box": torch.full((1, 1, 4), torch.nan),
        "target_visible": torch.tensor([[1.0]]),
    }

    scores = score((DIGIT, POSE, TARGET), outputs, truth, hidden=torch.tensor([[False]]))

    assert scores.keys() == {
        "digit.accuracy",
        "digit.top3",
        "digit.f1",
        "digit.calibration_error",
        "pose.mae",
        "pose.mae.x",
        "target.presence_accuracy",
    }


def test_constant_truth_has_no_r2() -> None:
    truth = torch.full((2, 4, 2), 7.0)

    scores = score((POSE,), {"pose_values": torch.zeros(2, 4, 2)}, {"pose": truth})

    assert scores["pose.mae"] == pytest.approx(7.0)
    assert "pose.r2" not in scores


def test_a_condition_with_the_name_of_a_value_is_refused() -> None:
    values = torch.zeros(1, 2, 2)

    with pytest.raises(ConfigError, match="'x' is a condition of the clips and a value of the head 'pose'"):
        score((POSE,), {"pose_values": values}, {"pose": values}, x=torch.ones(1, 2, dtype=torch.bool))


def test_nothing_known_gives_no_score() -> None:
    logits, truth = classified(7)

    assert score((DIGIT,), {"digit_logits": logits}, {"digit": torch.full_like(truth, UNKNOWN)}) == {}


def test_half_precision_outputs_are_scored_like_any_other() -> None:
    logits, truth = classified(7)

    scores = score((DIGIT,), {"digit_logits": logits.bfloat16()}, {"digit": truth})

    assert scores["digit.accuracy"] == pytest.approx(
        score((DIGIT,), {"digit_logits": logits.bfloat16().float()}, {"digit": truth})["digit.accuracy"]
    )


def test_meters_keep_nothing_in_a_state_dict() -> None:
    assert not Meters((DIGIT, POSE, TARGET), HEIGHT, WIDTH).state_dict()


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("loss", False),
        ("digit.accuracy", True),
        ("target.iou.hidden", True),
        ("target.centre_error_px.hidden_3", False),
        ("pose.mae.x", False),
        ("pose.r2", True),
    ],
)
def test_a_metric_knows_which_way_is_better(metric: str, higher: bool) -> None:
    assert higher_is_better(metric) is higher


def test_every_score_has_a_direction() -> None:
    logits, truth = classified(12)
    many = HeadConfig(name="many", task="classify", labels=tuple("abcdefghijkl"))
    track = {"target_box": torch.rand(CLIPS, TIME, 4), "target_presence": torch.randn(CLIPS, TIME, 1)}
    seen: dict[str, Any] = {"target_box": torch.rand(CLIPS, TIME, 4), "target_visible": (truth > 3).float()}
    pose = torch.randn(CLIPS, TIME, 2)
    scores = score(
        (many, TARGET, POSE),
        {"many_logits": logits, "pose_values": pose, **track},
        {"many": truth, "pose": pose, **seen},
    )
    scores |= score((DIGIT,), {"digit_logits": logits[..., :7]}, {"digit": truth.clamp(max=6)})

    assert {name.split(".")[1] for name in scores} == set(HIGHER_IS_BETTER)
    for name in scores:
        higher_is_better(name)


@pytest.mark.parametrize(
    ("metric", "near"),
    [("digit.acuracy", "accuracy"), ("accuracy", "accuracy"), ("los", "loss"), ("", "choose one of these")],
)
def test_an_unknown_metric_is_refused_with_the_nearest(metric: str, near: str) -> None:
    with pytest.raises(ConfigError) as raised:
        higher_is_better(metric)
    assert near in raised.value.fix
