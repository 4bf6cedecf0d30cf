from __future__ import annotations

import math

import pytest
import torch

from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import UNKNOWN
from edge_cnnlstm.training.tasks import due, giou, losses

DIGIT = HeadConfig(name="digit", task="classify", labels=("a", "b", "c"))
OPEN = HeadConfig(name="open", task="classify", labels=("closed", "open"))
ANGLE = HeadConfig(name="angle", task="regress", labels=("pan", "tilt"), centre=(90.0, 0.0), spread=(30.0, 2.0))
TARGET = HeadConfig(name="target", task="track")


def test_a_multi_class_loss_is_the_cross_entropy_of_what_is_known() -> None:
    logits = torch.tensor([[[2.0, 0.0, 0.0], [0.0, 5.0, 0.0]]], requires_grad=True)
    found = losses((DIGIT,), {"digit_logits": logits}, {"digit": torch.tensor([[0, UNKNOWN]])})["digit"]

    assert found.item() == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)))
    found.backward()
    assert logits.grad is not None
    assert not logits.grad[0, 1].any()


def test_a_binary_loss_is_that_of_the_sigmoid() -> None:
    logits = torch.tensor([[[1.5], [-0.5], [3.0]]])
    found = losses((OPEN,), {"open_logits": logits}, {"open": torch.tensor([[1, 0, UNKNOWN]])})["open"]

    assert found.item() == pytest.approx((math.log1p(math.exp(-1.5)) + math.log1p(math.exp(-0.5))) / 2)


def test_values_are_weighed_by_their_spread_and_unknown_ones_cost_nothing() -> None:
    values = torch.tensor([[[120.0, 7.0]]], requires_grad=True)
    found = losses((ANGLE,), {"angle_values": values}, {"angle": torch.tensor([[[90.0, math.nan]]])})["angle"]

    assert found.item() == pytest.approx(0.5)  # one spread off, at the corner of smooth L1
    found.backward()
    assert values.grad is not None
    assert values.grad[0, 0, 1] == 0


def test_a_perfect_box_costs_nothing_and_an_unknown_one_neither() -> None:
    box = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]], requires_grad=True)
    truth = {
        "target_box": torch.tensor([[[0.5, 0.5, 0.2, 0.2], [math.nan] * 4]]),
        "target_visible": torch.full((1, 2), math.nan),
    }
    found = losses((TARGET,), {"target_box": box, "target_presence": torch.zeros(1, 2, 1)}, truth)["target"]

    assert found.item() == pytest.approx(0, abs=1e-6)
    found.backward()
    assert box.grad is not None
    assert torch.isfinite(box.grad).all()


def test_nothing_known_costs_nothing_and_keeps_gradients_finite() -> None:
    heads = (DIGIT, OPEN, ANGLE, TARGET)
    outputs = {
        "digit_logits": torch.randn(2, 3, 3, requires_grad=True),
        "open_logits": torch.randn(2, 3, 1, requires_grad=True),
        "angle_values": torch.randn(2, 3, 2, requires_grad=True),
        "target_box": torch.rand(2, 3, 4, requires_grad=True),
        "target_presence": torch.randn(2, 3, 1, requires_grad=True),
    }
    truth = {
        "digit": torch.full((2, 3), UNKNOWN),
        "open": torch.full((2, 3), UNKNOWN),
        "angle": torch.full((2, 3, 2), math.nan),
        "target_box": torch.full((2, 3, 4), math.nan),
        "target_visible": torch.full((2, 3), math.nan),
    }

    found = losses(heads, outputs, truth)

    assert all(loss.item() == 0 for loss in found.values())
    torch.stack(list(found.values())).sum().backward()
    for tensor in outputs.values():
        assert tensor.grad is not None
        assert not tensor.grad.any()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0.5, 0.5, 0.2, 0.2], 1.0),
        ([0.6, 0.5, 0.2, 0.2], 1 / 3),  # half of each shared; the hull is the union
        ([0.9, 0.5, 0.2, 0.2], -(0.6 - 0.4) / 0.6),  # apart, on one height
        ([0.5, 0.5, 0.4, 0.4], 0.25),
    ],
)
def test_the_generalized_overlap_of_known_boxes(box: list[float], expected: float) -> None:
    found = giou(torch.tensor(box), torch.tensor([0.5, 0.5, 0.2, 0.2]))

    assert found.item() == pytest.approx(expected, abs=1e-5)


def test_boxes_without_area_have_finite_overlap_and_gradient() -> None:
    box = torch.zeros(4, requires_grad=True)

    overlap = giou(box, torch.zeros(4))
    overlap.backward()

    assert torch.isfinite(overlap)
    assert box.grad is not None
    assert torch.isfinite(box.grad).all()


def test_a_per_clip_head_is_asked_at_each_clips_last_known_frame() -> None:
    clip_digit = DIGIT.model_copy(update={"per": "clip"})
    clip_angle = ANGLE.model_copy(update={"per": "clip"})
    values = torch.arange(16.0).reshape(2, 4, 2)
    values[1, 3, 0] = math.nan
    truth = {"digit": torch.tensor([[2, 2, 2, 2], [1, 1, UNKNOWN, UNKNOWN]]), "angle": values}

    asked = due((clip_digit, clip_angle), truth)

    assert asked["digit"].tolist() == [[-1, -1, -1, 2], [-1, 1, -1, -1]]
    assert asked["angle"].isnan().all(-1).tolist() == [[True, True, True, False], [True, True, False, True]]
    assert torch.equal(asked["angle"][0, 3], values[0, 3])
    assert due((DIGIT, ANGLE), truth) == truth


def test_the_losses_of_windows_add_up_to_the_loss_of_the_clip() -> None:
    torch.manual_seed(0)
    heads = (DIGIT, ANGLE, TARGET)
    outputs = {
        "digit_logits": torch.randn(3, 7, 3),
        "angle_values": torch.randn(3, 7, 2) * 30,
        "target_box": torch.rand(3, 7, 4),
        "target_presence": torch.randn(3, 7, 1),
    }
    labels = torch.randint(-1, 3, (3, 7))
    boxes = torch.rand(3, 7, 4)
    boxes[0, 2:5] = math.nan
    truth = {
        "digit": labels,
        "angle": torch.randn(3, 7, 2),
        "target_box": boxes,
        "target_visible": (torch.rand(3, 7) > 0.5).float(),
    }

    whole = losses(heads, outputs, truth)
    parts = [
        losses(
            heads,
            {name: value[:, part] for name, value in outputs.items()},
            {name: value[:, part] for name, value in truth.items()},
            whole=truth,
        )
        for part in (slice(0, 3), slice(3, 6), slice(6, 7))
    ]

    for name, loss in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), loss)
