from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from edge_cnnlstm.errors import CheckpointError, ConfigError, DataError, InterruptedTraining
from edge_cnnlstm.training import run
from edge_cnnlstm.training.checkpoint import RESUME, load_checkpoint, load_json, load_recipe_of
from edge_cnnlstm.training.config import ModelConfig
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.data.digit_images import Digits, RenderedCorpus
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.fit import fit
from edge_cnnlstm.training.loop import learner
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.recipe import Recipe, dump_recipe, recipe_from

ROOT = Path(__file__).parent.parent.parent

QUICK: dict[str, Any] = {
    "model": {
        "preset": "nano",
        "height": 32,
        "width": 32,
        "hidden": 16,
        "dropout": 0.1,
        "backbone": {"channels": (4, 8), "strides": (4, 2), "where_channels": 2},
    },
    "data": {"kind": "occluded-digits", "clips": 32, "held_out": 8, "frames": 6},
    "fit": {
        "stages": [{"epochs": 1, "frames": 3, "batch": 8}, {"epochs": 2, "batch": 8}],
        "optimizer": "adamw",
        "learning_rate": 4e-3,
        "gradient_clip": 1.0,
        "schedule": "one-cycle",
        "carry": 0.5,
        "workers": 0,
    },
}


def quick(*overrides: str) -> Recipe:
    return recipe_from(QUICK, overrides)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights.safetensors")


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def disturbed(recipe: Recipe, disturb: Callable[[int], None]) -> RenderedCorpus:
    """The recipe's corpus; before each training clip it calls `disturb` with the number of clips drawn so far."""
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    assert isinstance(corpus, RenderedCorpus)
    render, drawn = corpus.render, [0]

    def counting(rng: np.random.Generator, digits: Digits, frames: int | None) -> Clip:
        disturb(drawn[0])
        drawn[0] += 1
        return render(rng, digits, frames)

    return replace(corpus, render=counting)


def test_training_twice_from_one_seed_gives_the_same_network_and_another_seed_does_not() -> None:
    first, second, other = (fit(quick(f"seed={seed}"), progress=False).model for seed in (0, 0, 1))

    assert not first.training
    assert_same(first.state_dict(), second.state_dict())
    assert not torch.equal(first.cells[0].gates.weight, other.cells[0].gates.weight)


def test_workers_change_nothing() -> None:
    alone, helped = (fit(quick(f"fit.workers={workers}"), progress=False).model for workers in (0, 2))

    assert_same(alone.state_dict(), helped.state_dict())


MISSED = ("fit.missed=0.7", "model.dt_input=true", "fit.window=2")


def test_workers_miss_the_same_frames() -> None:
    alone, helped = (fit(quick(*MISSED, f"fit.workers={workers}"), progress=False).model for workers in (0, 2))

    assert_same(alone.state_dict(), helped.state_dict())
    assert alone.missed.weight.abs().sum() > 0


def test_a_resumed_training_misses_what_it_would_have_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = quick(*MISSED)
    whole = fit(recipe, progress=False)
    interrupted = disturbed(recipe, lambda drawn: signal.raise_signal(signal.SIGINT) if drawn == 45 else None)
    with monkeypatch.context() as patched:
        patched.setattr(run, "open_corpus", lambda *_: interrupted)
        with pytest.raises(InterruptedTraining):
            run.train(recipe, tmp_path, progress=False)

    resumed = run.resume(tmp_path, progress=False)

    assert_same(resumed.model.state_dict(), whole.model.state_dict())
    assert resumed.history == whole.history


@pytest.mark.parametrize("dt_input", [True, False])
def test_only_a_network_with_dt_input_is_told_and_only_in_training(
    dt_input: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also from window to window: only the first frame of a clip follows on none."""
    told: list[torch.Tensor | None] = []
    roll = CnnLstm.roll

    def watched(self: CnnLstm, features: torch.Tensor, state: Any, dt: torch.Tensor | None = None) -> Any:
        told.append(dt)
        return roll(self, features, state, dt)

    monkeypatch.setattr(CnnLstm, "roll", watched)
    stages, rate = "fit.stages=[{epochs=1, batch=32}]", "model.frame_rate=10"
    settings = ("fit.missed=0.8", stages, rate, "fit.window=3", "fit.schedule=constant", "fit.carry=1")
    fit(quick(*settings, f"model.dt_input={str(dt_input).lower()}"), progress=False)

    *windows, validation = told
    assert validation is None
    if not dt_input:
        assert windows == [None, None]
        return
    first, second = (window for window in windows if window is not None)
    assert first.shape == second.shape == (32, 3, 1)
    assert not first[:, 0].any()
    assert (second[:, 0] >= 0.0999).all()
    periods = torch.cat([first, second], dim=1) * 10
    torch.testing.assert_close(periods, periods.round())
    assert (periods > 1).any()


def test_a_network_that_is_told_of_missed_frames_must_miss_some(caplog: pytest.LogCaptureFixture) -> None:
    fit(quick("model.dt_input=true", "fit.stages=[{epochs=1, batch=8}]", "fit.schedule=constant"), progress=False)
    assert "fit.missed" in caplog.text
    with pytest.raises(ConfigError, match=r"fit\.missed"):
        recipe_from(QUICK, ["fit.missed=1"])
    single = recipe_from({"model": {"preset": "reference", "scan": "rows"}, "data": {"kind": "digit-images"}})
    with pytest.raises(ConfigError, match=r"fit\.missed with a network that scans"):
        fit(single.model_copy(update={"fit": single.fit.model_copy(update={"missed": 0.5})}), progress=False)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_optimizer_and_schedule_lowers_the_loss(optimizer: str, schedule: str) -> None:
    rate = "0.05" if optimizer == "sgd" else "0.004"
    settings = [f"fit.optimizer={optimizer}", f"fit.schedule={schedule}", f"fit.learning_rate={rate}"]

    fitted = fit(quick("fit.stages=[{epochs=4, batch=8}]", *settings), progress=False)

    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]


def test_what_a_training_leaves_behind_is_complete_and_can_be_repeated(tmp_path: Path) -> None:
    fitted = run.train(quick(), tmp_path / "first", progress=False)
    report = load_json(tmp_path / "first" / "training.json")

    assert_same(load_checkpoint(tmp_path / "first").state_dict(), fitted.model.state_dict())
    assert report["scores"] == fitted.scores
    assert [record["epoch"] for record in report["history"]] == [0, 1, 2]
    assert len(report["data_digest"]) == 64
    assert report["versions"]["torch"]
    assert not (tmp_path / "first" / RESUME).exists()
    logged = (tmp_path / "first/logs/version_0/metrics.csv").read_text()
    assert "validation.digit.accuracy" in logged
    assert list((tmp_path / "first/logs/version_0").glob("events.out.tfevents*"))

    run.train(load_recipe_of(tmp_path / "first"), tmp_path / "again", progress=False)

    assert_same(weights(tmp_path / "first"), weights(tmp_path / "again"))


@pytest.mark.parametrize("clips_before", [3, 17, 32, 45, 66, 90])
def test_an_interrupted_training_resumes_to_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, clips_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = quick()
    whole = fit(recipe, progress=False)

    def press_ctrl_c(drawn: int) -> None:
        if drawn == clips_before:
            signal.raise_signal(signal.SIGINT)

    interrupted = disturbed(recipe, press_ctrl_c)
    with monkeypatch.context() as patched:
        patched.setattr(run, "open_corpus", lambda *_: interrupted)
        with pytest.raises(InterruptedTraining, match=r"--resume"):
            run.train(recipe, tmp_path, progress=False)
    assert (tmp_path / RESUME).is_file()

    resumed = run.resume(tmp_path, progress=False)

    assert_same(resumed.model.state_dict(), whole.model.state_dict())
    assert resumed.history == whole.history
    assert not (tmp_path / RESUME).exists()


@pytest.fixture
def foreground() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, even if a shell started these tests in its background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("foreground")
def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def press_twice(drawn: int) -> None:
        if drawn == 10:
            # Each is heard before the next: signals sent by kill() may arrive as one.
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(quick(), corpus=disturbed(quick(), press_twice), folder=tmp_path, progress=False)

    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resuming_refuses_other_data_and_complete_trainings_and_training_refuses_a_used_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.train(quick(), tmp_path / "done", progress=False)
    with pytest.raises(CheckpointError, match="complete"):
        run.resume(tmp_path / "done", progress=False)
    with pytest.raises(ConfigError, match="already holds a training"):
        run.train(quick(), tmp_path / "done", progress=False)
    with pytest.raises(CheckpointError, match=r"training\.toml"):
        run.resume(tmp_path / "nothing", progress=False)

    def stop(drawn: int) -> None:
        if drawn == 12:
            signal.raise_signal(signal.SIGTERM)

    interrupted = disturbed(quick(), stop)
    with monkeypatch.context() as patched:
        patched.setattr(run, "open_corpus", lambda *_: interrupted)
        with pytest.raises(InterruptedTraining):
            run.train(quick(), tmp_path / "half", progress=False)
        changed = replace(interrupted, describe="something else")
        patched.setattr(run, "open_corpus", lambda *_: changed)
        with pytest.raises(CheckpointError, match="data digest was"):
            run.resume(tmp_path / "half", progress=False)


def interrupt(folder: Path, monkeypatch: pytest.MonkeyPatch, *, after: int = 12, corpus: Any = None) -> None:
    interrupted = corpus or disturbed(
        quick(), lambda drawn: signal.raise_signal(signal.SIGINT) if drawn == after else None
    )
    with monkeypatch.context() as patched:
        patched.setattr(run, "open_corpus", lambda *_: interrupted)
        with pytest.raises(InterruptedTraining):
            run.train(quick(), folder, progress=False)


@pytest.mark.parametrize("kept", [0, 50, 5000, -1])
def test_a_damaged_resume_file_is_refused_by_name(tmp_path: Path, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(tmp_path, monkeypatch, after=3)
    path = tmp_path / RESUME
    path.write_bytes(path.read_bytes()[:kept])

    with pytest.raises(CheckpointError, match=r"resume\.safetensors"):
        run.resume(tmp_path, progress=False)


def test_a_recipe_that_was_changed_since_is_refused_with_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(tmp_path, monkeypatch)
    path = tmp_path / "training.toml"
    path.write_text(path.read_text().replace("hidden = 16", "hidden = 24"))

    with pytest.raises(CheckpointError, match=r"model\.hidden was 16 and is 24"):
        run.resume(tmp_path, progress=False)


def test_a_training_that_was_killed_while_saving_resumes_from_the_last_whole_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, saves, save = fit(quick(), progress=False), [0], learner.save_checkpoint

    def killed(model: CnnLstm, folder: Path) -> None:
        saves[0] += 1
        if saves[0] == 2:
            raise SystemExit(9)
        save(model, folder)

    with monkeypatch.context() as patched:
        patched.setattr(learner, "save_checkpoint", killed)
        with pytest.raises(SystemExit):
            run.train(quick(), tmp_path, progress=False)

    assert_same(run.resume(tmp_path, progress=False).model.state_dict(), whole.model.state_dict())


def test_a_training_that_had_stopped_early_learns_nothing_more_when_resumed(tmp_path: Path) -> None:
    recipe = quick(
        "fit.stages=[{epochs=40, batch=8}]", "fit.patience=1", "fit.learning_rate=0.5", "fit.schedule=constant"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "forget_progress", lambda _: None)
        stopped = run.train(recipe, tmp_path, progress=False)

    assert run.resume(tmp_path, progress=False).history == stopped.history


@pytest.mark.parametrize("layer", ["backbone.stages.0", "heads.0"])
def test_a_validation_that_is_not_finite_is_no_epoch(tmp_path: Path, layer: str) -> None:
    """Weights that overflow without a gradient that does: the last batch of an epoch may leave such."""
    model = CnnLstm(ModelConfig.model_validate({**quick().model.model_dump(), "heads": HEADS}))

    def overflow(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output if module.training else output * torch.inf

    model.get_submodule(layer).register_forward_hook(overflow)

    with pytest.raises(DataError, match=rf"(?s)validation loss.*first in '{layer}"):
        fit(quick(), model=model, folder=tmp_path, progress=False)

    assert not (tmp_path / "weights.safetensors").exists()


def test_weights_that_are_not_finite_are_named_and_the_last_good_epoch_is_kept(tmp_path: Path) -> None:
    recipe = quick()
    corpus = open_corpus(recipe.data, recipe.model, recipe.seed)
    model = CnnLstm(ModelConfig.model_validate({**recipe.model.model_dump(), "heads": HEADS}))
    good: list[dict[str, torch.Tensor]] = []

    def poison(epoch: int, scores: dict[str, float]) -> None:
        if epoch == 1:
            good.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            with torch.no_grad():
                model.cells[0].gates.bias[3] = torch.nan

    with pytest.raises(DataError, match=r"(?s)epoch 2, batch 0, first in 'cells\.0\.gates'.*last good epoch"):
        fit(
            recipe.model_copy(update={"fit": recipe.fit.model_copy(update={"keep": "last"})}),
            corpus=corpus,
            model=model,
            folder=tmp_path,
            progress=False,
            on_epoch=poison,
        )

    assert_same(weights(tmp_path), good[0])


def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    model = CnnLstm(ModelConfig.model_validate({**quick().model.model_dump(), "heads": HEADS}))
    model.heads[0].weight.register_hook(lambda gradient: gradient * torch.inf)

    with pytest.raises(DataError, match=r"gradient.*heads\.0"):
        fit(quick(), model=model, progress=False)

    assert all(torch.isfinite(tensor).all() for tensor in model.state_dict().values())


def test_gradients_whose_norm_alone_overflows_are_refused_too() -> None:
    model = CnnLstm(ModelConfig.model_validate({**quick().model.model_dump(), "heads": HEADS}))
    model.heads[0].weight.register_hook(lambda gradient: torch.full_like(gradient, 1e30))

    with pytest.raises(DataError, match="the norm of all gradients"):
        fit(quick(), model=model, progress=False)


def test_training_stops_early_and_keeps_the_best_epoch() -> None:
    settings = ["fit.stages=[{epochs=40, batch=8}]", "fit.patience=2", "fit.learning_rate=0.5", "fit.schedule=constant"]

    fitted = fit(quick(*settings), progress=False)

    losses = [record["loss"] for record in fitted.history]
    assert len(losses) < 40
    assert fitted.kept_epoch == int(np.argmin(losses)) == len(losses) - 3
    assert fitted.scores["loss"] == min(losses)


def test_a_score_can_be_monitored_and_an_unknown_one_is_refused_with_the_nearest() -> None:
    fitted = fit(quick("fit.monitor=target.iou"), progress=False)

    overlaps = [record["target.iou"] for record in fitted.history]
    assert fitted.kept_epoch == int(np.argmax(overlaps))
    for unknown, nearest in (("digit.acuracy", "accuracy"), ("digits.accuracy", "digit")):
        with pytest.raises(ConfigError, match=nearest):
            fit(quick(f"fit.monitor={unknown}"), progress=False)


def test_weights_of_heads_weigh_and_must_name_heads() -> None:
    plain, deaf = fit(quick(), progress=False), fit(quick("fit.weights={digit=0.0}"), progress=False)

    assert deaf.scores["loss"] < plain.scores["loss"]
    with pytest.raises(ConfigError, match="did you mean 'digit'"):
        fit(quick("fit.weights={digits=2.0}"), progress=False)


def test_the_gradient_runs_back_through_one_window_only() -> None:
    """With a window of the whole clip nothing changes; with a shorter one the weights come out different."""
    whole, same, short = (fit(quick(f"fit.window={window}"), progress=False).model.state_dict() for window in (0, 6, 2))

    assert_same(whole, same)
    assert not torch.equal(whole["cells.0.gates.weight"], short["cells.0.gates.weight"])


def test_windows_see_the_memory_that_the_ones_before_them_left() -> None:
    """Without a gradient through time the forward pass is that of the whole clip: equal losses in the first batch."""
    first = "fit.stages=[{epochs=1, batch=32}]"
    whole, short = (
        fit(
            quick(
                first,
                "fit.schedule=constant",
                f"fit.window={window}",
                "model.dropout=0",
                "model.backbone.batch_norm=false",
            ),
            progress=False,
        )
        for window in (0, 2)
    )

    assert whole.history[0]["train_loss"] == pytest.approx(short.history[0]["train_loss"], rel=1e-5)


def test_a_cell_penalty_keeps_the_cell_state_small() -> None:
    settings = ["fit.stages=[{epochs=8, batch=8}]", "fit.schedule=constant"]
    free = fit(quick(*settings), progress=False).model
    held = fit(quick(*settings, "fit.cell_penalty=1.0"), progress=False).model
    frames = torch.randint(0, 256, (4, 60, 32, 32, 3), dtype=torch.uint8)

    with torch.inference_mode():
        reached = [model.sequence(frames, model.initial_state(4))[1].c.abs().mean() for model in (free, held)]

    assert reached[1] < 0.5 * reached[0]


def test_too_few_batches_for_one_cycle_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8"):
        fit(quick("fit.stages=[{epochs=1, batch=32}]"), progress=False)


def test_mixed_precision_learns_too() -> None:
    fitted = fit(quick("fit.precision=bf16", "fit.stages=[{epochs=4, batch=8}]"), progress=False)

    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]
    assert all(tensor.dtype != torch.bfloat16 for tensor in fitted.model.state_dict().values())


PAGE_FAULTS = """
import resource
import sys

import torch

from edge_cnnlstm.training.loop.heap import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_is_taken_from_the_system_once() -> None:
    given_back, kept = (
        int(subprocess.check_output([sys.executable, "-c", PAGE_FAULTS, how], cwd=ROOT))
        for how in ("given back", "kept")
    )

    assert kept < given_back / 4


AFTER_OPENCV = """
import sys

import cv2
import numpy as np

from edge_cnnlstm.training.fit import fit
from edge_cnnlstm.training.recipe import load_recipe

cv2.setNumThreads(4)
cv2.GaussianBlur(np.zeros((2000, 2000), np.float32), (9, 9), 2)
fit(load_recipe(sys.argv[1]), progress=False)
print(cv2.getNumThreads())
"""


def test_workers_start_after_opencv_has_started_threads(tmp_path: Path) -> None:
    """A forked worker that ends the threads of OpenCV waits for ever: none of them came along."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(dump_recipe(quick("fit.workers=1")))
    command = [sys.executable, "-c", AFTER_OPENCV, str(recipe)]

    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=300)

    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "4"


def two_processes(arguments: list[str], python_path: Path) -> subprocess.Popen[str]:
    """Start `train` in two processes that share each batch, in a process group of their own, as a terminal does."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edge_cnnlstm.cli"]
    return subprocess.Popen(
        [sys.executable, "-m", *launch, "train", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(python_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def assert_done(training: subprocess.Popen[str]) -> None:
    _, said = training.communicate()
    assert training.returncode == 0, said[-3000:]


RAGGED = '''
from dataclasses import replace

from edge_cnnlstm.training.data import occluded_digits
from edge_cnnlstm.training.data.clip import Clip
from edge_cnnlstm.training.data.settings import OccludedDigitsConfig

def ragged(network, seed):
    """Occluded digits in clips of one to six frames."""
    corpus = occluded_digits.corpus(OccludedDigitsConfig(clips=32, held_out=8, frames=6), network, seed)
    return replace(corpus, render=lambda rng, *how: cut(corpus.render(rng, *how), rng.integers(1, 7)))

def cut(clip, frames):
    first = lambda named: {name: values[:frames] for name, values in named.items()}
    return Clip(clip.frames[:frames], first(clip.truth), first(clip.conditions))
'''


@pytest.mark.parametrize("data", [[], ["fit.window=2", "data={kind='module', module='own_clips:ragged'}"]])
def test_two_processes_learn_what_one_learns(data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without batch norm, whose statistics are each process's own, the weights agree to rounding."""
    (tmp_path / "own_clips.py").write_text(RAGGED)
    monkeypatch.syspath_prepend(tmp_path)
    # Batches of 7 do not go round among two processes: one takes four clips of each, the other three.
    settings = ["model.backbone.batch_norm=false", "model.dropout=0", "fit.carry=0", "fit.stages.1.batch=7"]
    recipe = quick(*settings, *data)
    (tmp_path / "recipe.toml").write_text(dump_recipe(recipe))

    alone = run.train(recipe, tmp_path / "one", progress=False)
    assert_done(two_processes([str(tmp_path / "recipe.toml"), "-o", str(tmp_path / "two")], tmp_path))

    two = weights(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        assert torch.allclose(tensor, two[name], atol=2e-4), name
    history = load_json(tmp_path / "two" / "training.json")["history"]
    assert history[-1]["loss"] == pytest.approx(alone.history[-1]["loss"], rel=1e-3)


@pytest.mark.slow
def test_two_processes_stop_together_and_resume_to_the_same_weights(tmp_path: Path) -> None:
    """Dropout, carried memory and batch norm included: each process goes on with its own."""
    (tmp_path / "recipe.toml").write_text(dump_recipe(quick("data.clips=480")))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert_done(two_processes([str(tmp_path / "recipe.toml"), "-o", str(whole)], tmp_path))

    training = two_processes([str(tmp_path / "recipe.toml"), "-o", str(stopped)], tmp_path)
    while not (stopped / RESUME).is_file():
        assert training.poll() is None, training.communicate()[1][-3000:]
        time.sleep(0.05)
    os.killpg(training.pid, signal.SIGINT)
    _, said = training.communicate()

    assert training.returncode == 1
    assert said.count("Stopping after this batch") == 1
    assert "train --resume" in said
    assert (stopped / RESUME).is_file()
    assert_done(two_processes(["--resume", str(stopped)], tmp_path))
    assert_same(weights(whole), weights(stopped))


def test_every_task_is_learnt_at_once() -> None:
    """Two kinds of classification, boxes and velocities, from one memory: each loss falls."""
    ask = 'data.ask=["digit", "odd", "target", "velocity"]'
    fitted = fit(quick(ask, "fit.stages=[{epochs=6, batch=8}]", "fit.schedule=constant"), progress=False)

    assert fitted.history[-1]["train_loss"] < fitted.history[0]["train_loss"]
    assert {"digit.accuracy", "odd.accuracy", "target.iou", "velocity.mae"} <= set(fitted.scores)
