from __future__ import annotations

import pytest
import torch

from edge_cnnlstm.training.config import BackboneConfig, ModelConfig, preset_config
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.model import CnnLstm, State


def random_frames(batch: int, time: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, time, 64, 64, 3), dtype=torch.uint8, generator=generator)


def random_state(model: CnnLstm, batch: int) -> State:
    empty = model.initial_state(batch)
    return State(torch.rand_like(empty.h) * 2 - 1, torch.randn_like(empty.c) * 3)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_step_repeated_is_the_sequence(layers: int) -> None:
    torch.manual_seed(1)
    model = CnnLstm(preset_config("nano", HEADS, layers=layers)).eval()
    frames = random_frames(batch=3, time=12)
    start = random_state(model, 3)

    with torch.inference_mode():
        together, last = model.sequence(frames, start)
        state, steps = start, []
        for time in range(12):
            outputs, state = model.step(frames[:, time], state)
            steps.append(outputs)

    for name, values in together.items():
        torch.testing.assert_close(torch.stack([step[name] for step in steps], 1), values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.h, last.h, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.c, last.c, rtol=1e-5, atol=1e-5)


def test_a_cell_agrees_with_torchs_own_lstm_cell() -> None:
    torch.manual_seed(2)
    model = CnnLstm(preset_config("nano", HEADS, layers=1)).eval()
    cell = model.cells[0]
    theirs = torch.nn.LSTMCell(model.config.features, model.config.hidden)
    weight, inputs = cell.gates.weight.detach(), model.config.features
    with torch.no_grad():
        theirs.weight_ih.copy_(weight[:, :inputs])
        theirs.weight_hh.copy_(weight[:, inputs:])
        theirs.bias_ih.copy_(cell.gates.bias)
        theirs.bias_hh.zero_()
    x, h, c = torch.randn(4, inputs), torch.rand(4, 96), torch.randn(4, 96)

    with torch.inference_mode():
        ours, expected = cell(x, h, c), theirs(x, (h, c))

    torch.testing.assert_close(ours[0], expected[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1], expected[1], rtol=1e-5, atol=1e-6)


def test_memory_changes_the_answer_and_streams_do_not_mix() -> None:
    torch.manual_seed(3)
    model = CnnLstm(preset_config("nano", HEADS)).eval()
    frames = random_frames(batch=2, time=1)[:, 0]
    state = random_state(model, 2)

    with torch.inference_mode():
        both, after = model.step(frames, state)
        alone, alone_after = model.step(frames[1:], State(state.h[:, 1:], state.c[:, 1:]))
        empty, _ = model.step(frames, model.initial_state(2))

    torch.testing.assert_close(both["digit_logits"][1:], alone["digit_logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after.c[:, 1:], alone_after.c, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(both["digit_logits"], empty["digit_logits"], atol=1e-3)


def test_without_layers_there_is_no_memory() -> None:
    model = CnnLstm(preset_config("nano", HEADS, layers=0)).eval()
    frames = random_frames(batch=1, time=2)
    frames[:, 1] = frames[:, 0]

    with torch.inference_mode():
        outputs, _ = model.sequence(frames, model.initial_state(1))

    torch.testing.assert_close(outputs["digit_logits"][:, 0], outputs["digit_logits"][:, 1])


def test_the_frame_is_normalised_exactly() -> None:
    model = CnnLstm(preset_config("nano", HEADS))
    frame = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)

    assert torch.equal(model.normalise(frame)[0, 0].flatten() * 64 + 128, torch.arange(256.0))


@pytest.mark.parametrize("where_channels", [0, 4])
@pytest.mark.parametrize("max_pool", [True, False])
@pytest.mark.parametrize("side", [32, 33, 50])
def test_the_config_knows_how_wide_the_features_are(where_channels: int, max_pool: bool, side: int) -> None:
    backbone = BackboneConfig(channels=(4, 8), strides=(2, 1), max_pool=max_pool, where_channels=where_channels)
    config = ModelConfig(height=side, width=side + 9, backbone=backbone, layers=1, hidden=8, heads=HEADS)
    model = CnnLstm(config).eval()

    features = model.backbone(torch.zeros(1, 3, side, side + 9))

    assert features.shape == (1, config.features)
