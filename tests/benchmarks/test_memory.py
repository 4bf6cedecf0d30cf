"""Holds how memory is compared: equal budgets, honest networks, counted costs, intervals that are what they say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from torch import Tensor

from benchmarks.memory import plan, show, summary, trials
from benchmarks.memory.networks import KINDS, CnnMean, CnnTcn, build, macs_per_frame, parameters
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import HeadConfig, NetworkConfig
from edge_cnnlstm.training.data.batches import ClipBatches
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.model import CnnLstm, State

ROOT = Path(__file__).resolve().parents[2]
HEADS = (HeadConfig(name="gesture", task="classify", labels=("left", "right", "up")),)
FEATURES, HIDDEN = 2 * 4 * 4, 5


def tiny(name: str, seed: int = 0) -> CnnLstm:
    """Frames of 8 × 8, one convolution to 2 channels of 4 × 4, memory 5 wide, 3 classes."""
    torch.manual_seed(seed)
    backbone = {"kind": "conv", "channels": (2,), "strides": (2,), "where_channels": 0}
    network = NetworkConfig.model_validate({"height": 8, "width": 8, "backbone": backbone, "hidden": HIDDEN})
    return build(name, network, HEADS).eval()


def frames(clips: int, time: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (clips, time, 8, 8, 3), dtype=torch.uint8, generator=generator)


def stepped(model: CnnLstm, clips: Tensor, state: State) -> tuple[Tensor, State]:
    logits = []
    for frame in clips.unbind(1):
        outputs, state = model.step(frame, state)
        logits.append(outputs["gesture_logits"])
    return torch.stack(logits, 1), state


# ---- networks


@pytest.mark.parametrize("name", KINDS)
def test_step_repeated_is_the_sequence_whatever_came_before(name: str) -> None:
    """80 frames: more than any network here looks back on."""
    model, clips = tiny(name), frames(3, 80)

    with torch.inference_mode():
        _, before = model.sequence(frames(3, 7, seed=2), model.initial_state(3))
        for start in (model.initial_state(3), before):
            together, last = model.sequence(clips, start)
            steps, after = stepped(model, clips, start)
            torch.testing.assert_close(steps, together["gesture_logits"], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(after.h, last.h, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(after.c, last.c, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_no_network_sees_the_future_and_all_but_one_remember_the_past(name: str) -> None:
    model, clips = tiny(name), frames(2, 20)
    future, past = clips.clone(), clips.clone()
    future[:, 12:] = 255 - future[:, 12:]
    past[:, :4] = 255 - past[:, :4]

    with torch.inference_mode():
        logits, later, earlier = (
            model.sequence(each, model.initial_state(2))[0]["gesture_logits"] for each in (clips, future, past)
        )

    torch.testing.assert_close(later[:, :12], logits[:, :12], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(later[:, 12:], logits[:, 12:], atol=1e-6)
    remembers = not torch.allclose(earlier[:, 8:], logits[:, 8:], rtol=0, atol=1e-9)
    assert remembers == (name != "CNN")


@pytest.mark.parametrize("name", KINDS)
def test_clips_of_a_batch_do_not_mix(name: str) -> None:
    model, clips = tiny(name), frames(3, 6)

    with torch.inference_mode():
        batch, _ = model.sequence(clips, model.initial_state(3))
        alone, _ = model.sequence(clips[1:2], model.initial_state())

    torch.testing.assert_close(batch["gesture_logits"][1:2], alone["gesture_logits"], rtol=1e-4, atol=1e-5)


def test_the_mean_is_the_mean_of_all_features_so_far() -> None:
    model, clips = tiny("CNN + mean"), frames(2, 9)
    assert isinstance(model, CnnMean)

    with torch.inference_mode():
        outputs, state = model.sequence(clips, model.initial_state(2))
        features = model.features(clips)
        for time in range(9):
            expected = model.read(model.dense(features[:, : time + 1].mean(dim=1)))["gesture_logits"]
            torch.testing.assert_close(outputs["gesture_logits"][:, time], expected, rtol=1e-4, atol=1e-5)

    torch.testing.assert_close(state.h[0], features.mean(dim=1), rtol=1e-4, atol=1e-5)
    assert (state.c == 9).all()


def test_the_mean_does_not_know_the_order() -> None:
    model, clips = tiny("CNN + mean"), frames(1, 8)

    with torch.inference_mode():
        forward, _ = model.sequence(clips, model.initial_state())
        backward, _ = model.sequence(clips.flip(1), model.initial_state())

    torch.testing.assert_close(forward["gesture_logits"][:, -1], backward["gesture_logits"][:, -1])


def test_the_tcn_looks_back_on_63_frames_and_no_further() -> None:
    model, clips = tiny("CNN-TCN"), frames(1, 70)
    assert isinstance(model, CnnTcn)

    def changes(frame: int) -> bool:
        other = clips.clone()
        other[:, frame] = 255 - other[:, frame]
        with torch.inference_mode():
            first, second = (model.sequence(each, model.initial_state())[0] for each in (clips, other))
        return not torch.equal(first["gesture_logits"][:, -1], second["gesture_logits"][:, -1])

    assert model.initial_state().h.shape == (60, 1, HIDDEN)
    assert model.initial_state().c.shape == (2, 1, FEATURES)
    assert [changes(frame) for frame in (6, 7, 69)] == [False, True, True]


def test_a_new_gru_remembers() -> None:
    model = tiny("CNN-GRU")
    assert torch.equal(model.cell.bias_hh, torch.tensor([0.0] * 5 + [1.0] * 5 + [0.0] * 5))


@pytest.mark.parametrize("name", KINDS)
def test_every_weight_of_every_network_learns(name: str) -> None:
    model = tiny(name).train()

    outputs, _ = model.sequence(frames(4, 5), model.initial_state(4))
    torch.nn.functional.cross_entropy(outputs["gesture_logits"][:, -1], torch.tensor([0, 1, 2, 0])).backward()

    assert all(weights.grad is not None and weights.grad.any() for weights in model.parameters())


def test_costs_are_those_that_a_hand_counts() -> None:
    convolution, head = 3 * 9 * 2 * 16, HIDDEN * 3
    gates = {
        "CNN": FEATURES * HIDDEN,
        "CNN + mean": FEATURES * HIDDEN,
        "CNN-LSTM, 1 layer": (FEATURES + HIDDEN) * 4 * HIDDEN,
        "CNN-LSTM, 2 layers": (FEATURES + HIDDEN + 2 * HIDDEN) * 4 * HIDDEN,
        "CNN-LSTM, 3 layers": (FEATURES + HIDDEN + 4 * HIDDEN) * 4 * HIDDEN,
        "CNN-GRU": (FEATURES + HIDDEN) * 3 * HIDDEN,
        "CNN-TCN": FEATURES * HIDDEN + 3 * FEATURES * HIDDEN + 4 * 3 * HIDDEN * HIDDEN,
    }
    assert {name: macs_per_frame(tiny(name)) for name in KINDS} == {
        name: convolution + memory + head for name, memory in gates.items()
    }


def test_parameters_are_those_that_a_hand_counts() -> None:
    backbone, head = 3 * 9 * 2 + 2 * 2, (HIDDEN + 1) * 3  # batch norm has a scale and a shift a channel
    assert parameters(tiny("CNN")) == backbone + (FEATURES + 1) * HIDDEN + head
    assert parameters(tiny("CNN-LSTM, 1 layer")) == backbone + (FEATURES + HIDDEN + 1) * 4 * HIDDEN + head
    assert parameters(tiny("CNN-GRU")) == backbone + (FEATURES + HIDDEN + 2) * 3 * HIDDEN + head


def test_counting_leaves_a_network_in_its_mode_and_its_statistics_alone() -> None:
    model = tiny("CNN").train()
    before = {name: values.clone() for name, values in model.state_dict().items()}

    macs_per_frame(model)

    assert model.training
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


# ---- plan


def planned(**changes: Any) -> plan.Plan:
    asked: dict[str, Any] = {"sets": tuple(plan.TASKS), "networks": tuple(KINDS), "seeds": 3, "clips": None}
    return plan.Plan(**{**asked, "test_clips": 1000, **changes})


def test_every_network_of_a_set_and_a_seed_has_the_same_budget() -> None:
    cells = planned().cells

    assert len(cells) == 3 * 7 * 3
    for name in plan.TASKS:
        for seed in range(3):
            recipes = [cell.recipe for cell in cells if (cell.set, cell.seed) == (name, seed)]
            assert len(recipes) == 7
            assert all(recipe == recipes[0] for recipe in recipes)
            assert recipes[0].seed == seed
            assert recipes[0].fit.keep == "last"


def test_networks_of_one_seed_learn_from_the_same_batches() -> None:
    first, second = (cell for cell in planned(seeds=1, sets=("recall",), clips=64).cells[:2])
    batches = []
    for cell in (first, second):
        corpus = open_corpus(cell.recipe.data, cell.recipe.model, cell.recipe.seed)
        clips = corpus.clips(corpus.splits["train"], training=True)
        batches.append(ClipBatches(clips, 8, epoch=3, frames=4, seed=cell.recipe.seed)[2][0])
    assert torch.equal(*batches)


def test_every_cell_has_a_file_of_its_own_that_changes_with_the_recipe() -> None:
    files = [cell.file for cell in [*planned().cells, *planned(clips=64).cells, *planned(test_clips=7).cells]]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("change", [{"sets": ("recal",)}, {"networks": ("CNN-LSTM, 1 layers",)}])
def test_an_unknown_name_is_refused_and_the_nearest_named(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"did you mean '(recall|CNN-LSTM, 1 layer)'"):
        planned(**change)


# ---- summary, table and picture


def trial(name: str, network: str, accuracy: float, macs: int) -> dict[str, Any]:
    return {"set": name, "network": network, "accuracy": accuracy, "macs_per_frame": macs, "parameters": 1234}


TRIALS = [
    *(trial("recall", "CNN", accuracy, 1000) for accuracy in (0.1, 0.12, 0.11)),
    *(trial("recall", "CNN-LSTM, 1 layer", accuracy, 1080) for accuracy in (0.95, 0.97, 0.96)),
    trial("gestures", "CNN", 0.125, 1000),
]


def test_the_interval_is_students() -> None:
    """Half of it for 1, 2, 3: t(0.975, 2) = 4.302653, deviation 1, divided by √3."""
    assert summary.margin([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5, abs=1e-6)
    assert summary.margin([0.5, 0.5]) == 0
    assert summary.margin([0.5]) is None


def test_rows_hold_mean_interval_and_cost_over_the_cnn() -> None:
    cnn, lstm, gestures = summary.rows(TRIALS)

    assert cnn.mean == pytest.approx(0.11)
    assert cnn.margin == pytest.approx(4.302653 * 0.01 / 3**0.5, abs=1e-7)
    assert lstm.accuracies == (0.95, 0.97, 0.96)
    assert (cnn.over_cnn, lstm.over_cnn) == (0, pytest.approx(0.08))
    assert gestures.margin is None
    assert summary.rows(TRIALS[3:6])[0].over_cnn is None


def test_the_markdown_table_holds_every_number() -> None:
    text = show.markdown(summary.rows(TRIALS), {"recall": "recall", "gestures": "gestures"})

    assert text.splitlines() == [
        "| network | MACs a frame | over CNN | parameters | recall | gestures |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| CNN | 1,000 | +0.0 % | 1,234 | 11.0 % ± 2.5 | 12.5 % |",
        "| CNN-LSTM, 1 layer | 1,080 | +8.0 % | 1,234 | 96.0 % ± 2.5 |  |",
    ]


def test_the_picture_has_a_panel_for_each_set_and_a_mark_for_each_network(tmp_path: Path) -> None:
    titles, chance = {"recall": "recall", "gestures": "gestures"}, {"recall": 0.1, "gestures": 0.125}
    show.draw(summary.rows(TRIALS), titles, chance, tmp_path / "new" / "memory.png")
    show.draw(summary.rows(TRIALS[:1]), titles, chance, tmp_path / "one.png")

    picture, one = cv2.imread(str(tmp_path / "new" / "memory.png")), cv2.imread(str(tmp_path / "one.png"))
    assert picture.shape[1] == 2 * one.shape[1]
    reddish = (picture[..., 2].astype(int) - picture[..., 1] > 80).sum()
    assert reddish > 100
    assert not (one[..., 2].astype(int) - one[..., 1] > 80).any()


# ---- trials


def test_what_is_done_is_never_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = planned(sets=("recall",), networks=("CNN", "CNN-GRU"), seeds=2).cells
    for number, cell in enumerate(cells):
        (tmp_path / cell.file).write_text(json.dumps({"number": number}))
    monkeypatch.setattr(trials, "trial", lambda cell: pytest.fail("trained again"))
    done: list[int] = []

    found = trials.run(cells, tmp_path, 1, lambda: done.append(1))

    assert [each["number"] for each in found] == [0, 1, 2, 3]
    assert len(done) == 4


@pytest.mark.slow
def test_a_run_from_end_to_end_keeps_everything_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    files = ["-o", str(tmp_path / "m.json"), "--picture", str(tmp_path / "m.png"), "--table", str(tmp_path / "m.md")]
    options = ["--set", "occluded-digits", "--clips", "32", "--seeds", "1", "--test-clips", "50", *files]
    command: list[Any] = [sys.executable, "-m", "benchmarks", "memory", *options, "--kept", str(tmp_path / "kept")]

    first: dict[Path, int] = {}
    for networks in (["CNN"], ["CNN", "CNN-TCN"]):
        asked = [*command, *(word for name in networks for word in ("--network", name))]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
        assert len(kept) == len(networks)
        assert first.items() <= kept.items()
        first = kept

    report = json.loads((tmp_path / "m.json").read_text())
    assert [row["network"] for row in report["rows"]] == ["CNN", "CNN-TCN"]
    assert [trial["accuracy"] for trial in report["trials"]] == [row["mean"] for row in report["rows"]]
    assert report["command"].endswith("--network CNN --network CNN-TCN --seeds 1 --test-clips 50 --clips 32")
    assert {"machine", "versions", "commit", "recipes", "method"} <= report.keys()
    assert report["versions"]["torch"]
    assert "CNN-TCN" in (tmp_path / "m.md").read_text()
    assert cv2.imread(str(tmp_path / "m.png")) is not None
