from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from edge_cnnlstm.errors import ConfigError, DataError, DependencyError
from edge_cnnlstm.training.fit import fit
from edge_cnnlstm.training.recipe import Recipe, dump_recipe, load_recipe, recipe_from
from edge_cnnlstm.training.search.space import check_space, with_values
from edge_cnnlstm.training.search.study import ATTEMPTS, Worker, open_study
from edge_cnnlstm.training.tune import Search, tune

SPACE: dict[str, Any] = {
    "fit.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "fit.stages.0.batch": {"low": 4, "high": 8},
    "model.hidden": {"choices": [4, 8]},
}
DIVERGES = 1e30
WORKER = """
import sys, threading
from pathlib import Path
from edge_cnnlstm.training.recipe import load_recipe
from edge_cnnlstm.training.tune import tune

def watch(finished, going_on):
    print(finished, going_on, flush=True)
    if going_on.startswith(stuck):
        threading.Event().wait()

recipe, folder, beat, stuck = sys.argv[1:]
tune(load_recipe(recipe), Path(folder), watch=watch, beat=float(beat))
"""


def tiny(*overrides: str, space: dict[str, Any] | None = None, epochs: int = 1, **tuning: Any) -> Recipe:
    """A recipe that trains in a fraction of a second."""
    return recipe_from(
        {
            "model": {
                "height": 16,
                "width": 16,
                "backbone": {"channels": [4, 4], "strides": [2, 2], "where_channels": 2},
                "hidden": 8,
            },
            "data": {"kind": "occluded-digits", "clips": 16, "held_out": 8, "frames": 4},
            "fit": {
                "stages": [{"epochs": epochs, "batch": 8, "frames": 3}],
                "workers": 0,
                "accelerator": "cpu",
                "precision": "fp32",
            },
            "tune": {"trials": 3, "space": SPACE if space is None else space, **tuning},
        },
        overrides,
    )


def scored(search: Search) -> list[tuple[str, float | None, dict[str, Any]]]:
    return [(trial.state, trial.score, dict(sorted(trial.values.items()))) for trial in search.trials]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A search of three trials that nothing disturbed."""
    return tune(tiny(), tmp_path_factory.mktemp("searched"))


def test_the_best_recipe_is_complete_and_scores_again_what_its_trial_scored(searched: Search, tmp_path: Path) -> None:
    searched.save(tmp_path)
    best = load_recipe(tmp_path / "best.toml")
    assert best == searched.recipe == with_values(tiny(), searched.best.values)
    assert searched.best.score == min(trial.score or 0.0 for trial in searched.trials)
    assert fit(best, progress=False).scores["loss"] == searched.best.score
    document = json.loads((tmp_path / "tuning.json").read_text())
    assert [trial["values"].keys() for trial in document["trials"]] == [SPACE.keys()] * 3
    assert [trial["state"] for trial in document["trials"]] == ["complete"] * 3
    assert sum(document["importances"].values()) == pytest.approx(1)


def test_values_lie_in_the_space_and_differ_from_trial_to_trial(searched: Search) -> None:
    for trial in searched.trials:
        rate, batch, hidden = (trial.values[key] for key in SPACE)
        assert isinstance(rate, float)
        assert 1e-4 <= rate <= 1e-1
        assert batch in range(4, 9)
        assert hidden in (4, 8)
    assert len({trial.values["fit.learning_rate"] for trial in searched.trials}) == 3


def test_a_search_that_goes_on_tries_what_one_without_a_break_would_have_tried(
    searched: Search, tmp_path: Path
) -> None:
    assert len(tune(tiny(trials=1), tmp_path).trials) == 1
    assert scored(tune(tiny(), tmp_path)) == scored(searched)
    assert scored(tune(tiny(), tmp_path)) == scored(searched)


def test_a_trial_that_ctrl_c_interrupts_does_not_count_and_its_values_are_tried_again(
    searched: Search, tmp_path: Path
) -> None:
    def press(finished: int, going_on: str) -> None:
        if going_on.startswith("trial 1, epoch"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(tiny(), tmp_path, watch=press)
    assert scored(tune(tiny(), tmp_path)) == scored(searched)


def test_optuna_says_nothing_and_its_settings_are_left_as_they_were(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = optuna.logging.get_verbosity()
    tune(tiny(trials=1), tmp_path)
    assert "rial" not in "".join(capfd.readouterr())
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({}, ("nothing to search",)),
        ({"fit.learning_rat": {"low": 0.1, "high": 0.2}}, ("fit.learning_rat", "did you mean 'learning_rate'?")),
        ({"fits.learning_rate": {"low": 0.1, "high": 0.2}}, ("fits", "did you mean 'fit'?")),
        ({"fit.learning_rate.x": {"low": 0.1, "high": 0.2}}, ("'learning_rate'", "is a value")),
        ({"fit.stages.1.batch": {"low": 1, "high": 2}}, ("'1'", "0 to 0")),
        ({"fit.stages.batch": {"low": 1, "high": 2}}, ("'batch'", "no entry")),
        ({"model.layers": {"low": -1, "high": 2}}, ("model.layers", "-1")),
        ({"model.layers": {"low": 1.0, "high": 3.0}}, ("model.layers", "1.764")),
        ({"model.backbone.activation": {"choices": ["relu", "sine"]}}, ("activation", "'sine'")),
        ({"model.backbone.kind": {"choices": ["conv", "residual"]}}, ("model.backbone.kind", "'residual'")),
        ({"seed": {"low": 0, "high": 9}}, ("'seed'",)),
        ({"tune.trials": {"low": 1, "high": 9}}, ("'tune.trials'",)),
        ({"model.preset": {"choices": ["nano", "small"]}}, ("'model.preset'",)),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_any_training(
    space: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refusal:
        tune(tiny(space=space), tmp_path)
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "searched",
    [
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 0.1, "high": float("inf")},
        {"low": 1, "hihg": 2},
        {"choices": [1]},
        {"choices": [1, 1.0]},
        3,
    ],
)
def test_a_range_or_choices_that_cannot_be_are_refused_by_name(searched: Any) -> None:
    with pytest.raises(ConfigError, match=r"tune\.space\.fit\.learning_rate"):
        tiny(space={"fit.learning_rate": searched})


def test_a_key_that_the_recipe_leaves_out_can_be_searched() -> None:
    check_space(tiny(space={"fit.weights.digit": {"low": 0.5, "high": 2.0}}))
    assert with_values(tiny(), {"fit.weights.digit": 0.5, "fit.stages.0.batch": 7}).fit.stages[0].batch == 7


@pytest.mark.parametrize("metric", ["accuracy", "digit.acuracy", "digits.accuracy"])
def test_a_metric_that_cannot_be_is_refused_before_any_training(metric: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=metric):
        tune(tiny(metric=metric), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_metric_that_the_data_do_not_have_ends_the_search_at_its_first_epoch(tmp_path: Path) -> None:
    told: list[str] = []
    with pytest.raises(ConfigError, match=r"digit\.iou"):
        tune(tiny(metric="digit.iou"), tmp_path, watch=lambda finished, going_on: told.append(going_on))
    assert told == ["trial 0"]


def test_a_score_is_maximized_and_an_error_is_minimized(tmp_path: Path) -> None:
    accuracy = tune(tiny(metric="digit.accuracy"), tmp_path / "accuracy")
    distance = tune(tiny(metric="target.centre_error_px"), tmp_path / "error")
    assert accuracy.maximize
    assert not distance.maximize
    assert accuracy.best.score == max(trial.score or 0.0 for trial in accuracy.trials)
    assert distance.best.score == min(trial.score or 0.0 for trial in distance.trials)


def test_a_trial_that_diverges_counts_as_failed_and_the_search_goes_on(tmp_path: Path) -> None:
    space = {"fit.learning_rate": {"choices": [1e-3, DIVERGES]}}
    found = tune(tiny(space=space, trials=6), tmp_path)
    by_state = {trial.state: trial for trial in found.trials}
    assert len(found.trials) == 6
    assert by_state["failed"].values["fit.learning_rate"] == DIVERGES
    assert "epoch 0" in str(by_state["failed"].error)
    assert found.best.values["fit.learning_rate"] == 1e-3


def test_three_failures_and_nothing_else_stop_the_search_with_the_error(tmp_path: Path) -> None:
    space = {"fit.learning_rate": {"low": DIVERGES, "high": 2 * DIVERGES}}
    told: list[str] = []
    with pytest.raises(DataError, match="epoch 0"):
        tune(tiny(space=space, trials=9), tmp_path, watch=lambda finished, going_on: told.append(going_on))
    assert told == ["trial 0", "trial 1", "trial 2"]


def test_a_combination_that_is_no_recipe_counts_as_failed(tmp_path: Path) -> None:
    space = {"model.layers": {"low": 0, "high": 1}, "model.scan": {"choices": ["frames", "rows"]}}
    found = tune(tiny("seed=3", "model.backbone.where_channels=0", space=space, trials=6), tmp_path)
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert all(trial.values == {"model.layers": 0, "model.scan": "rows"} for trial in failed)


@pytest.mark.parametrize("pruner", ["median", pytest.param("hyperband", marks=pytest.mark.slow)])
def test_hopeless_trials_are_stopped_early(pruner: str, tmp_path: Path) -> None:
    space = {"fit.learning_rate": {"choices": [1e-2, 1e4]}}
    found = tune(tiny("fit.optimizer=sgd", space=space, epochs=3, trials=8, pruner=pruner), tmp_path)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    assert found.best.state == "complete"
    assert found.best.values["fit.learning_rate"] == 1e-2


def test_a_study_is_never_continued_with_another_recipe(tmp_path: Path) -> None:
    storage = str(tmp_path / "shared.log")
    tune(tiny(trials=1, storage=storage), tmp_path / "a")
    with pytest.raises(ConfigError, match=r"fit\.carry was 0\.0 and is 0\.5"):
        tune(tiny("fit.carry=0.5", trials=1, storage=storage), tmp_path / "b")
    narrower = {**SPACE, "model.hidden": {"choices": [4, 6]}}
    with pytest.raises(ConfigError, match=r"tune\.space\.model\.hidden\.choices\.1 was 8 and is 6"):
        tune(tiny(space=narrower, trials=1, storage=storage), tmp_path / "b")
    elsewhere = tune(tiny("fit.workers=1", trials=1, storage=storage), tmp_path / "b")
    assert len(elsewhere.trials) == 1
    assert len(tune(tiny("fit.carry=0.5", trials=1, storage=storage, study="other"), tmp_path / "b").trials) == 1


def test_a_database_holds_a_study_as_well(searched: Search, tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/studies.db"
    tune(tiny(trials=2, storage=storage), tmp_path)
    found = tune(tiny(trials=3, storage=storage), tmp_path)
    assert scored(found) == scored(searched)
    assert "sqlite" not in dump_recipe(found.recipe)


@pytest.mark.parametrize(
    ("storage", "kind"),
    [("nosuch://me:secret@host/db", ConfigError), ("postgresql+asyncpg://me:secret@host/db", DependencyError)],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(
    storage: str, kind: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(kind, match="host/db") as refusal:
        tune(tiny(storage=storage), tmp_path)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("damage", [b"{}\n", b"not json\n", b"\xff\xfe\n", b'{"op_code": 99, "worker_id": ""}\n'])
def test_a_damaged_journal_is_refused_and_left_as_it_is(damage: bytes, tmp_path: Path) -> None:
    (tmp_path / "study.log").write_bytes(damage + damage)
    with pytest.raises(ConfigError, match=r"study\.log"):
        tune(tiny(), tmp_path)
    assert (tmp_path / "study.log").read_bytes() == damage + damage


@contextmanager
def another_process(
    folder: Path, recipe: Recipe, *, beat: float = 10.0, stuck: str = "nowhere"
) -> Iterator[subprocess.Popen[str]]:
    """A worker in a process of its own, which stops to think for ever where it is to be `stuck`."""
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.toml"
    path.write_text(dump_recipe(recipe))
    command = [sys.executable, "-W", "error", "-c", WORKER, str(path), str(folder), str(beat), stuck]
    root, alone = Path(__file__).parents[2], {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=alone) as process:
        try:
            yield process
        finally:
            process.kill()


def test_two_processes_share_a_study_and_together_make_exactly_its_trials(tmp_path: Path) -> None:
    # Whether a trial is hopeless depends on which others were done before it, and so on the clock.
    recipe = tiny(trials=10, storage=str(tmp_path / "shared.log"), pruner="none")
    told: list[str] = []
    with another_process(tmp_path / "other", recipe) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "0 trial 0\n"
        found = tune(recipe, tmp_path / "here", watch=lambda finished, going_on: told.append(going_on))
        said, _ = other.communicate()
    assert other.returncode == 0
    assert said.splitlines()[-1] == "10 done"
    assert [trial.state for trial in found.trials] == ["complete"] * 10
    assert len({trial.values["fit.learning_rate"] for trial in found.trials}) == 10
    here = {int(line.split()[1].rstrip(",")) for line in told if ", epoch" in line}
    there = {int(line.split()[2].rstrip(",")) for line in said.splitlines() if ", epoch" in line}
    assert here
    assert there
    assert not here & there
    assert here | there >= {trial.number for trial in found.trials} - {0}


def test_the_trial_of_a_killed_worker_is_made_good_by_the_next_run(searched: Search, tmp_path: Path) -> None:
    with another_process(tmp_path, tiny(), beat=0.1, stuck="trial 1, epoch") as worker:
        assert worker.stdout is not None
        assert any(line.startswith("1 trial 1, epoch") for line in worker.stdout)
        worker.kill()

    found = tune(tiny(), tmp_path, beat=0.1)
    assert len(found.trials) == 3
    assert Counter(map(repr, scored(found))) == Counter(map(repr, scored(searched)))


def plain_worker(folder: Path, trials: int, *, beat: float = 0.02) -> Worker:
    """A worker whose trials need no training, with a connection of its own to the journal."""
    study = open_study(str(folder / "study.log"), "plain", {}, optuna.pruners.NopPruner(), maximize=False)
    return Worker(study, trials, seed=0, beat=beat)


def fail_if_called() -> None:
    pytest.fail("waits for another worker, and there is none")


def test_workers_that_all_hurry_never_make_a_trial_too_many(tmp_path: Path) -> None:
    trials, workers = 12, [plain_worker(tmp_path, 12, beat=5) for _ in range(4)]
    start = threading.Barrier(len(workers))
    made: list[int] = []

    def work(worker: Worker) -> None:
        start.wait()
        while trial := worker.claim(lambda: None):
            with worker.working_on(trial):
                worker.complete(trial, trial.suggest_float("x", 0, 1))
                made.append(trial.number)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finished = workers[0].finished()
    assert sorted(made) == sorted(trial.number for trial in finished)
    assert len(finished) == trials
    assert len({trial.params["x"] for trial in finished}) == trials


def test_a_trial_over_which_worker_after_worker_dies_counts_as_failed(tmp_path: Path) -> None:
    values = []
    for _ in range(ATTEMPTS):
        dying = plain_worker(tmp_path, 1)
        trial = dying.claim(lambda: None)
        assert trial is not None
        values.append(trial.suggest_float("x", 0, 1))
    last = plain_worker(tmp_path, 1)
    assert last.claim(lambda: None) is None
    (failed,) = last.finished()
    assert failed.state == TrialState.FAIL
    assert "workers died" in failed.user_attrs["error"]
    assert len(set(values)) == 1


def test_a_person_who_stops_a_last_attempt_does_not_make_it_fail(tmp_path: Path) -> None:
    for _ in range(ATTEMPTS - 1):
        assert plain_worker(tmp_path, 1).claim(lambda: None) is not None
    worker = plain_worker(tmp_path, 1)
    trial = worker.claim(lambda: None)
    assert trial is not None
    with pytest.raises(KeyboardInterrupt), worker.working_on(trial):
        raise KeyboardInterrupt
    assert worker.finished() == []
    again = worker.claim(fail_if_called)
    assert again is not None
    worker.complete(again, 1.0)
    assert [one.state for one in worker.finished()] == [TrialState.COMPLETE]


def test_a_worker_that_wakes_after_it_was_taken_for_dead_changes_nothing(tmp_path: Path) -> None:
    sleeper, other = plain_worker(tmp_path, 1, beat=60), plain_worker(tmp_path, 1)
    trial = sleeper.claim(fail_if_called)
    assert trial is not None
    with sleeper.working_on(trial):
        taken_over = other.claim(lambda: None)
        assert taken_over is not None
        other.complete(taken_over, 0.5)
        trial.report(0.1, 0)
        pytest.fail("the trial is no longer this worker's")
    sleeper.complete(trial, 0.1)
    assert [one.value for one in other.finished()] == [0.5]


def test_a_living_worker_is_waited_for(tmp_path: Path) -> None:
    busy, other = plain_worker(tmp_path, 1), plain_worker(tmp_path, 1)
    trial = busy.claim(fail_if_called)
    assert trial is not None
    waited = itertools.count(1)

    def waiting() -> None:
        if next(waited) == 20:  # far longer than a dead worker is waited for
            busy.complete(trial, 0.1)

    with busy.working_on(trial):
        assert other.claim(waiting) is None
    assert [one.value for one in other.finished()] == [0.1]
