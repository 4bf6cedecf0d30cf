"""Networks trained elsewhere: a plain nn.LSTM becomes our memory, as the README of the training shows."""

from __future__ import annotations

import importlib
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from edge_cnnlstm.errors import CheckpointError, ConfigError
from edge_cnnlstm.training import adopt
from edge_cnnlstm.training.adopt import adopt_lstm
from edge_cnnlstm.training.checkpoint import load_checkpoint, load_recipe_of
from edge_cnnlstm.training.config import HeadConfig, ModelConfig
from edge_cnnlstm.training.data.video import write_video
from edge_cnnlstm.training.model import CnnLstm, State

README = (Path(adopt.__file__).parent / "README.md").read_text()

FEATURES, HIDDEN = 36, 10

Weights = dict[str, Tensor]


def network(layers: int = 2, **settings: Any) -> CnnLstm:
    """A network whose backbone makes FEATURES numbers of a frame."""
    heads = (HeadConfig(name="open", task="classify", labels=("closed", "open")),)
    backbone = {"channels": [4], "strides": [4], "where_channels": 0}
    given = {"height": 12, "width": 12, "hidden": HIDDEN, "backbone": backbone, "heads": heads}
    return CnnLstm(ModelConfig.model_validate({**given, "layers": layers, **settings})).eval()


def lstm(layers: int = 2, **settings: Any) -> nn.LSTM:
    """An LSTM that fits that network, with weights far from zero, as training leaves them."""
    made = nn.LSTM(**{"input_size": FEATURES, "hidden_size": HIDDEN, "num_layers": layers, **settings}).eval()
    generator = torch.Generator().manual_seed(layers)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.uniform_(-0.6, 0.6, generator=generator)
    return made


def stepped(model: CnnLstm, features: Tensor, state: State) -> tuple[Tensor, State]:
    """What the memory shows after each frame's features, [time, batch, hidden], and what it is left with."""
    shown = []
    for moment in features:
        x, state = model.advance(moment, state)
        shown.append(x)
    return torch.stack(shown), state


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_memory_computes_what_the_lstm_does(layers: int, bias: bool) -> None:
    torch.manual_seed(layers)
    theirs = lstm(layers, bias=bias)
    features = torch.randn(25, 3, FEATURES)
    h, c = torch.rand(layers, 3, HIDDEN) * 2 - 1, torch.randn(layers, 3, HIDDEN) * 2
    model = network(layers)

    adopt_lstm(model, theirs.state_dict())

    with torch.inference_mode():
        expected, (h_last, c_last) = theirs(features, (h, c))
        shown, last = stepped(model, features, State(h, c))
    torch.testing.assert_close(shown, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(last.h, h_last, rtol=0, atol=1e-6)
    torch.testing.assert_close(last.c, c_last, rtol=0, atol=1e-6)


def test_the_weights_are_found_in_the_state_dict_of_a_whole_network() -> None:
    theirs = nn.ModuleDict({"cnn": nn.Conv2d(3, 4, 3), "rnn": nn.ModuleDict({"lstm": lstm()}), "other": nn.LSTM(3, 4)})
    alone, whole = network(), network()

    adopt_lstm(alone, lstm().state_dict())
    adopt_lstm(whole, theirs.state_dict(), "rnn.lstm.")

    for name, tensor in alone.cells.state_dict().items():
        assert torch.equal(whole.cells.state_dict()[name], tensor), name


@pytest.mark.parametrize("settings", [{"batch_first": True}, {"dropout": 0.5}])
def test_what_has_no_weights_makes_no_difference(settings: dict[str, Any]) -> None:
    plain, other = network(), network()

    adopt_lstm(plain, lstm().state_dict())
    adopt_lstm(other, lstm(**settings).state_dict())

    assert all(map(torch.equal, plain.cells.parameters(), other.cells.parameters()))


def test_weights_of_another_precision_become_float32_and_stay_their_owners() -> None:
    theirs, model = lstm().half(), network()

    adopt_lstm(model, theirs.state_dict())
    expected = theirs.weight_ih_l0.float()
    with torch.no_grad():
        theirs.weight_ih_l0.zero_()

    assert torch.equal(model.cells[0].gates.weight[:, :FEATURES], expected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def changed(change: Callable[[Weights], object]) -> Weights:
    weights = {name: tensor.clone() for name, tensor in lstm().state_dict().items()}
    change(weights)
    return weights


REFUSED = {
    "bidirectional": (lstm(bidirectional=True).state_dict(), ConfigError, "bidirectional.*weight_ih_l0_reverse"),
    "projections": (lstm(proj_size=4).state_dict(), ConfigError, r"projections.*weight_hr_l0.*proj_size = 0"),
    "more layers": (lstm(3).state_dict(), ConfigError, "num_layers = 3.*expected: 2.*model.layers to 3"),
    "fewer layers": (lstm(1).state_dict(), ConfigError, "num_layers = 1.*expected: 2.*model.layers to 1"),
    "inputs": (lstm(input_size=35).state_dict(), ConfigError, r"'weight_ih_l0' has shape \(40, 35\).*\(40, 36\)"),
    "hidden": (lstm(hidden_size=9).state_dict(), ConfigError, r"'weight_ih_l0' has shape \(36, 36\).*model.hidden"),
    "a GRU": (nn.GRU(FEATURES, HIDDEN, 2).state_dict(), ConfigError, r"'weight_ih_l0' has shape \(30, 36\)"),
    "a cell": (nn.LSTMCell(FEATURES, HIDDEN).state_dict(), ConfigError, "no weights of an LSTM.*weight_ih_l0"),
    "nothing": ({}, ConfigError, "no weights of an LSTM.*state dict of an nn.LSTM"),
    "the prefix forgotten": (
        nn.ModuleDict({"lstm": lstm(), "second": lstm()}).state_dict(),
        ConfigError,
        "prefix 'lstm.' or 'second.'",
    ),
    "something beside": (
        changed(lambda weights: weights.update({"norm.weight": torch.ones(HIDDEN)})),
        ConfigError,
        "more than a plain LSTM: tensor 'norm.weight'",
    ),
    "a lost weight": (
        changed(lambda weights: weights.pop("weight_hh_l0")),
        CheckpointError,
        "weight_hh_l0' is missing",
    ),
    "a lost bias": (changed(lambda weights: weights.pop("bias_hh_l1")), CheckpointError, "bias_hh_l1' is missing"),
    "NaN": (changed(lambda weights: weights["bias_ih_l1"][3].fill_(torch.nan)), CheckpointError, "bias_ih_l1' holds"),
    "Inf": (changed(lambda weights: weights["weight_hh_l1"][0].fill_(-torch.inf)), CheckpointError, "hh_l1' holds"),
    "too large": (
        changed(lambda weights: weights.update(bias_hh_l1=torch.full((40,), 1e300, dtype=torch.float64))),
        CheckpointError,
        "bias_hh_l1' holds values that are NaN or infinite as float32",
    ),
    "integers": (
        changed(lambda weights: weights.update(weight_hh_l1=torch.ones(40, 10, dtype=torch.int8))),
        CheckpointError,
        "weight_hh_l1' is torch.int8",
    ),
    "no tensor": (
        changed(lambda weights: weights.update(bias_ih_l0=[0.0] * 40)),
        CheckpointError,
        "bias_ih_l0' is list",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_and_the_network_stays_as_it_was(case: str) -> None:
    weights, error, message = REFUSED[case]
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    with pytest.raises(error, match=f"(?s){message}"):
        adopt_lstm(model, weights)

    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_network_without_memory_takes_no_lstm() -> None:
    with pytest.raises(ConfigError, match=r"(?s)expected: 0.*model\.layers to 2"):
        adopt_lstm(network(layers=0), lstm().state_dict())


def test_two_classes_become_one_number() -> None:
    """As the README says: the second row minus the first."""
    torch.manual_seed(0)
    theirs, model, shown = nn.Linear(HIDDEN, 2), network(), torch.randn(5, HIDDEN)
    with torch.inference_mode():
        model.heads[0].weight.copy_(theirs.weight[1:] - theirs.weight[:1])
        model.heads[0].bias.copy_(theirs.bias[1:] - theirs.bias[:1])

        expected = theirs(shown).softmax(1)[:, 1:]
        found = model.read(shown)["open_logits"].sigmoid()

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


THEIRS = '''

class MyNet(nn.Module):
    """Somebody's network, which knows nothing of ours: pictures in 0..1, a clip at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = MyCnn(8).layers
        self.lstm = nn.LSTM(16 * 7 * 7, 48, num_layers=2, batch_first=True, dropout=0.3)
        self.head = nn.Linear(48, 3)

    def forward(self, pictures: Tensor) -> Tensor:
        seen = self.cnn(pictures.flatten(0, 1)).flatten(1)
        return self.head(self.lstm(seen.unflatten(0, pictures.shape[:2]))[0])
'''


@pytest.fixture
def documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The README's files, with MyNet and videos of three classes beside them; returns its program."""
    section = README.partition("## Your own network\n")[2].partition("\n## ")[0]
    backbone, program = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    (recipe,) = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)
    (tmp_path / "my_nets.py").write_text(backbone + THEIRS)
    (tmp_path / "mine.toml").write_text(recipe)
    noise = np.random.default_rng(0)
    for label in ("left", "right", "still"):
        for number in range(3):
            pictures = noise.integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
            write_video(tmp_path / "videos" / label / f"{number}.mp4", pictures, 64, 64, rate=25)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return program


def test_the_documented_adoption_is_a_checkpoint_that_computes_the_same(documented: str, tmp_path: Path) -> None:
    (tmp_path / "adopt.py").write_text(documented)
    torch.manual_seed(4)
    theirs = importlib.import_module("my_nets").MyNet().eval()
    save_model(theirs, str(tmp_path / "my_net.safetensors"))
    frames = torch.randint(0, 256, (2, 9, 64, 64, 3), dtype=torch.uint8)

    made = runpy.run_path(str(tmp_path / "adopt.py"))["model"].eval()
    loaded = load_checkpoint(tmp_path / "runs" / "adopted")

    with torch.inference_mode():
        expected = theirs(frames.permute(0, 1, 4, 2, 3) / 255)
        for model in (made, loaded):
            outputs, _ = model.sequence(frames, model.initial_state(2))
            torch.testing.assert_close(outputs["label_logits"], expected, rtol=0, atol=1e-6)
    assert loaded.config.heads[0].labels == ("left", "right", "still")
    assert load_recipe_of(tmp_path / "runs" / "adopted").data.root == tmp_path / "videos"
