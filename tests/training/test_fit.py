from __future__ import annotations

import math

import pytest
import torch

from edge_cnnlstm.errors import ConfigError, DataError
from edge_cnnlstm.training.config import preset_config
from edge_cnnlstm.training.data.clips import Stage
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.fit import FitConfig, Training, fit, shortened
from edge_cnnlstm.training.model import CnnLstm, State
from edge_cnnlstm.training.tasks import Truth, loss

QUICK = FitConfig(curriculum=(Stage(frames=3, clips=8, batches=6), Stage(frames=6, clips=4, batches=2)))


def test_training_twice_from_one_seed_gives_the_same_network() -> None:
    config = preset_config("nano", HEADS)

    first, second = fit(config, QUICK, progress=False), fit(config, QUICK, progress=False)

    assert not first.training
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    model = CnnLstm(preset_config("nano", HEADS))
    frames = torch.randint(0, 256, (8, 3, 64, 64, 3), dtype=torch.uint8)
    truth = Truth(torch.rand(8, 3, 4), torch.rand(8, 3) > 0.5, torch.arange(8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []

    for _ in range(12):
        outputs, _ = model.sequence(frames, model.initial_state(8))
        value = loss(model.config.heads, outputs, truth)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())

    assert losses[-1] < 0.7 * losses[0]


def test_a_diverged_loss_stops_the_training_and_names_the_batch() -> None:
    model = CnnLstm(preset_config("nano", HEADS))
    with torch.no_grad():
        model.cells[0].gates.bias[0] = math.nan
    truth = Truth(torch.rand(2, 3, 4), torch.rand(2, 3) > 0.5, torch.arange(2))

    with pytest.raises(DataError, match="batch 7"):
        Training(model, QUICK, 5).training_step((torch.zeros(2, 3, 64, 64, 3, dtype=torch.uint8), truth), 7)


def test_three_clips_in_four_begin_with_what_another_clip_left_behind() -> None:
    torch.manual_seed(0)
    training = Training(CnnLstm(preset_config("nano", HEADS)), QUICK, 5)
    left = State(torch.rand(1, 400, 96) + 1, torch.rand(1, 400, 96) + 1)
    training.last_state = left

    carried = training._carried_state(400)

    kept = carried.h[0].abs().sum(dim=1) > 0
    assert 0.65 < kept.float().mean() < 0.85
    assert torch.equal(carried.h[:, kept], left.h.roll(1, dims=1)[:, kept])
    assert torch.equal(kept, carried.c[0].abs().sum(dim=1) > 0)
    assert training._carried_state(8).h.abs().sum() == 0


def test_a_shortened_curriculum_keeps_its_stages() -> None:
    stages = shortened(FitConfig(), 62).curriculum

    assert [stage.batches for stage in stages] == [25, 36]
    assert [stage.batches for stage in shortened(FitConfig(), 2).curriculum] == [1, 1]


def test_too_short_a_training_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        fit(preset_config("nano", HEADS), shortened(FitConfig(), 2), progress=False)
