from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.backbones import ACTIVATIONS, Backbone
from edge_cnnlstm.training.config import (
    PRESETS,
    Activation,
    ConvConfig,
    HeadConfig,
    ModelConfig,
    preset_config,
)
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.model import MOST_MISSED, CnnLstm, State


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


def told(layers: int = 1, frame_rate: float = 30.0) -> CnnLstm:
    """A network that has learnt that missed frames matter."""
    torch.manual_seed(1)
    config = ModelConfig.model_validate(
        {"preset": "nano", "layers": layers, "dt_input": True, "frame_rate": frame_rate, "heads": HEADS}
    )
    model = CnnLstm(config).eval()
    with torch.no_grad():
        model.missed.weight.normal_()
    return model


@pytest.mark.parametrize("layers", [1, 2])
def test_step_repeated_is_the_sequence_when_it_is_told_the_time_too(layers: int) -> None:
    model, frames = told(layers), random_frames(batch=3, time=6)
    start = random_state(model, 3)
    dt = torch.tensor([[0, 1, 3, 1, 20, 2], [1, 1, 1, 1, 1, 1], [0, 5, 1, 1, 2, 9]])[..., None] / 30

    with torch.inference_mode():
        together, last = model.sequence(frames, start, dt)
        state, steps = start, []
        for time in range(6):
            outputs, state = model.step(frames[:, time], state, dt[:, time])
            steps.append(outputs)
        ignorant, _ = model.sequence(frames, start)

    for name, values in together.items():
        torch.testing.assert_close(torch.stack([step[name] for step in steps], 1), values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.c, last.c, rtol=1e-5, atol=1e-5)
    changed = (together["digit_logits"] != ignorant["digit_logits"]).any(-1)
    assert changed.tolist() == [[False, False, *[True] * 4], [False] * 6, [False, *[True] * 5]]


@pytest.mark.parametrize("frame_rate", [23.976, 24, 25, 29.97, 30, 50, 59.94, 60, 120])
def test_a_frame_that_follows_the_one_before_is_as_if_nothing_were_told(frame_rate: float) -> None:
    model, frames = told(frame_rate=frame_rate), random_frames(batch=1, time=1)[:, 0]
    start = random_state(model, 1)

    with torch.inference_mode():
        expected, memory = model.step(frames, start)
        for periods in (0, 0.4, 1):
            outputs, state = model.step(frames, start, torch.full((1, 1), periods) / frame_rate)
            assert torch.equal(outputs["digit_logits"], expected["digit_logits"])
            assert torch.equal(state.c, memory.c)


def test_longer_gaps_than_the_longest_make_no_difference() -> None:
    model, frames = told(), random_frames(batch=1, time=1)[:, 0]
    start = random_state(model, 1)

    with torch.inference_mode():
        longest, longer, shorter = (
            model.step(frames, start, torch.full((1, 1), (1 + missed) / 30))[0]["digit_logits"]
            for missed in (MOST_MISSED, 1000, 10)
        )

    torch.testing.assert_close(longest, longer)
    assert not torch.equal(longest, shorter)


def test_what_missed_frames_mean_can_be_learnt() -> None:
    model = told()

    outputs, _ = model.sequence(
        random_frames(batch=1, time=3), model.initial_state(), torch.tensor([[[0.0], [0.1], [0.1]]])
    )
    outputs["target_box"].sum().backward()

    assert model.missed.weight.grad.abs().sum() > 0


def test_a_cell_agrees_with_torchs_own_lstm_cell() -> None:
    torch.manual_seed(2)
    model = CnnLstm(preset_config("nano", HEADS, layers=1)).eval()
    cell = model.cells[0]
    inputs = model.backbone.features
    theirs = torch.nn.LSTMCell(inputs, model.config.hidden)
    weight = cell.gates.weight.detach()
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
def test_the_features_are_as_wide_as_the_backbone_says(where_channels: int, max_pool: bool, side: int) -> None:
    config = ConvConfig(channels=(4, 8), strides=(2, 1), max_pool=max_pool, where_channels=where_channels)
    backbone = Backbone(config, side, side + 9).eval()

    assert backbone(torch.zeros(1, 3, side, side + 9)).shape == (1, backbone.features)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_every_preset_steps_as_its_sequence_goes(preset: str, layers: int) -> None:
    torch.manual_seed(0)
    model = CnnLstm(preset_config(preset, HEADS, layers=layers)).eval()
    size = model.config.height, model.config.width
    frames = torch.randint(0, 256, (1, 2, *size, 3), dtype=torch.uint8)

    with torch.inference_mode():
        together, _ = model.sequence(frames, model.initial_state())
        first, state = model.step(frames[:, 0], model.initial_state())
        second, _ = model.step(frames[:, 1], state)

    for name, values in together.items():
        torch.testing.assert_close(torch.stack([first[name], second[name]], 1), values, rtol=1e-4, atol=1e-4)


def test_the_reference_is_the_articles_network() -> None:
    model = CnnLstm(preset_config("reference", HEADS[:1]))
    convolutions = [module for module in model.backbone.modules() if isinstance(module, torch.nn.Conv2d)]

    assert [module.out_channels for module in convolutions] == [32, 64, 128]
    assert sum(isinstance(module, torch.nn.MaxPool2d) for module in model.backbone.modules()) == 3
    assert [cell.gates.weight.shape[0] // 4 for cell in model.cells] == [256, 256, 256]
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())


def test_scanning_rows_runs_along_the_feature_map_and_carries_nothing_from_image_to_image() -> None:
    torch.manual_seed(0)
    settings = {"preset": "reference", "scan": "rows", "layers": 2, "hidden": 16, "heads": HEADS[:1]}
    model = CnnLstm(ModelConfig.model_validate(settings)).eval()
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)

    with torch.inference_mode():
        together, state = model.sequence(images[None], model.initial_state())
        alone, _ = model.step(images, random_state(model, 3))
        rows = model.see(images)
        x, within = rows, model.initial_state(3)
        for row in rows.unbind(1):
            h, c = [], []
            x = row
            for index, cell in enumerate(model.cells):
                x, after = cell(x, within.h[index], within.c[index])
                h.append(x)
                c.append(after)
            within = State(torch.stack(h), torch.stack(c))
        scanned = model.read(x)

    assert rows.shape == (3, 4, 4 * 128)
    torch.testing.assert_close(together["digit_logits"][0], alone["digit_logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scanned["digit_logits"], alone["digit_logits"], rtol=1e-5, atol=1e-5)
    assert not state.h.any()


@pytest.mark.parametrize("settings", [{"layers": 0}, {"backbone": {"where_channels": 4}}])
def test_rows_cannot_be_scanned_without_memory_or_with_a_readout(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="scanning rows"):
        ModelConfig.model_validate({"preset": "reference", "scan": "rows", "heads": HEADS, **settings})


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_used_in_the_whole_backbone(activation: Activation) -> None:
    config = ConvConfig(channels=(4, 8), strides=(2, 1), where_channels=2, activation=activation)
    backbone = Backbone(config, 16, 16)

    assert sum(isinstance(module, ACTIVATIONS[activation]) for module in backbone.modules()) == 3


class Patches(torch.nn.Module):
    """A user's backbone: non-overlapping patches, as a map or flattened to a vector."""

    def __init__(self, channels: int = 4, *, flat: bool = False) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, channels, 8, 8)
        self.flat = flat

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        patches: torch.Tensor = self.patches(image)
        return patches.flatten(1) if self.flat else patches


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("users_package")
    package.Patches = Patches  # type: ignore[attr-defined]  # a module made for this test
    package.nothing = 3  # type: ignore[attr-defined]  # likewise
    monkeypatch.setitem(sys.modules, "users_package", package)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("flat", "where_channels"), [(False, 0), (False, 2), (True, 0)])
def test_a_users_own_module_is_a_backbone(flat: bool, where_channels: int) -> None:
    backbone = {
        "kind": "module",
        "module": "users_package:Patches",
        "options": {"channels": 6, "flat": flat},
        "where_channels": where_channels,
    }
    config = ModelConfig.model_validate({"preset": "nano", "backbone": backbone, "heads": HEADS})
    model = CnnLstm(ModelConfig.model_validate_json(config.model_dump_json())).eval()

    outputs, _ = model.step(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), model.initial_state())

    assert model.backbone.features == (6 + 2 * 64 if where_channels else 6 * 64)
    assert outputs["digit_logits"].shape == (1, 10)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("module", "options", "found"),
    [
        ("no_such_package:Net", {}, "No module named"),
        ("users_package:Missing", {}, "Missing"),
        ("users_package:nothing", {}, "is 3"),
        ("users_package:Patches", {"chanels": 3}, "chanels"),
        ("os:system", {}, "built-in"),
        ("torch.nn:LSTM", {"input_size": 3, "hidden_size": 4}, "fails|makes"),
    ],
)
def test_a_module_that_is_no_backbone_is_refused(module: str, options: dict[str, Any], found: str) -> None:
    backbone = {"kind": "module", "module": module, "options": options}

    with pytest.raises(ConfigError, match=found):
        CnnLstm(ModelConfig.model_validate({"preset": "nano", "backbone": backbone, "heads": HEADS}))


def test_a_frame_too_small_for_the_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger frames"):
        CnnLstm(ModelConfig.model_validate({"preset": "reference", "height": 4, "width": 4, "heads": HEADS}))


def test_two_labels_are_one_logit_and_values_come_in_their_own_units() -> None:
    heads = (
        HeadConfig(name="open", task="classify", labels=("closed", "open")),
        HeadConfig(name="angle", task="regress", labels=("pan", "tilt"), centre=(90.0, -5.0), spread=(30.0, 2.0)),
    )
    model = CnnLstm(preset_config("nano", heads)).eval()
    with torch.no_grad():
        for head in model.heads:
            head.weight.zero_()
            head.bias.fill_(1.0)

    outputs, _ = model.step(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), model.initial_state())

    assert outputs["open_logits"].tolist() == [[1.0]]
    assert outputs["angle_values"].tolist() == [[120.0, -3.0]]


@pytest.mark.parametrize(
    "head",
    [
        {"name": "a", "task": "classify", "labels": ["one"]},
        {"name": "a", "task": "classify", "labels": ["one", "one"]},
        {"name": "a", "task": "regress", "labels": ["x"], "centre": [0]},
        {"name": "a", "task": "regress"},
        {"name": "a b", "task": "track"},
        {"name": "a", "task": "segment"},
    ],
)
def test_a_head_that_makes_no_sense_is_refused(head: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HeadConfig.model_validate(head)
