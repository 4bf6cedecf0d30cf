from __future__ import annotations

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.errors import CheckpointError, ConfigError, InterruptedTraining
from edge_cnnlstm.training import cross_validate as module
from edge_cnnlstm.training.checkpoint import load_checkpoint, load_recipe_of
from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.cross_validate import CrossValidation, cross_validate, folds_of
from edge_cnnlstm.training.data.clip import ClipSet, Corpus, Split
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.evaluate import evaluate, torch_answer
from edge_cnnlstm.training.recipe import Recipe, recipe_from

Items = NDArray[np.int64]


def tiny(*overrides: str) -> Recipe:
    """A recipe that trains in a fraction of a second."""
    return recipe_from(
        {
            "model": {
                "height": 16,
                "width": 16,
                "backbone": {"channels": [4, 4], "strides": [2, 2], "where_channels": 2},
                "hidden": 8,
            },
            "data": {"kind": "occluded-digits", "clips": 16, "held_out": 12, "frames": 12},
            "fit": {
                "stages": [{"epochs": 2, "batch": 8, "frames": 3}],
                "workers": 0,
                "accelerator": "cpu",
                "precision": "fp32",
            },
        },
        overrides,
    )


def opened(recipe: Recipe) -> Corpus:
    return open_corpus(recipe.data, recipe.model, recipe.seed)


@dataclass
class Watched:
    """A corpus that remembers of which items clips were asked for, and presses Ctrl-C before the request `ctrl_c`."""

    corpus: Corpus
    asked: list[tuple[Items, bool]] = field(default_factory=list)
    ctrl_c: int = -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self.corpus, name)

    def clips(self, items: Items, *, training: bool) -> ClipSet:
        if len(self.asked) == self.ctrl_c:
            return Interrupting(self.corpus.clips(items, training=training))
        self.asked.append((items, training))
        return self.corpus.clips(items, training=training)


@dataclass
class Interrupting:
    """Clips; before the first one is made somebody presses Ctrl-C."""

    made: ClipSet
    pressed: bool = False

    def __len__(self) -> int:
        return len(self.made)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.made, name)

    def clip(self, index: int, **how: Any) -> Any:
        if not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
        return self.made.clip(index, **how)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """The corpus that every cross-validation of a test uses."""
    corpus = Watched(opened(tiny()))
    monkeypatch.setattr(module, "open_corpus", lambda *_: corpus)
    return corpus


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> tuple[CrossValidation, Path]:
    """A cross-validation of three folds that nothing disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("validated")
    return cross_validate(tiny(), 3, folder, progress=False), folder


def scores(found: CrossValidation) -> list[dict[str, float]]:
    return [fold.scores for fold in found.folds]


@pytest.mark.parametrize("folds", [2, 5, 139])
def test_no_digit_image_is_in_two_folds_and_the_test_images_are_in_none(folds: int) -> None:
    corpus = opened(tiny())
    parts = folds_of(corpus, folds, seed=0)
    assert len(parts) == folds
    held_out = np.concatenate([part.held_out for part in parts])
    assert len(np.unique(held_out)) == len(held_out)
    usable = np.concatenate([corpus.splits["train"], corpus.splits["validation"]])
    np.testing.assert_array_equal(np.sort(held_out), np.sort(usable))
    for part in parts:
        together = np.concatenate([part.train, part.validation, part.held_out])
        np.testing.assert_array_equal(np.sort(together), np.sort(usable))
        assert not np.isin(together, corpus.splits["test"]).any()


def test_every_fold_has_its_share_of_every_digit() -> None:
    corpus = opened(tiny())
    counts = np.stack([np.bincount(corpus.strata[part.held_out], minlength=10) for part in folds_of(corpus, 5, seed=0)])
    assert (np.ptp(counts, axis=0) <= 1).all()
    assert (counts > 20).all()


@dataclass
class People:
    """Items that show people, several of each, doing one of three things; nothing of it can be seen."""

    strata: Items
    groups: Items
    splits: Mapping[Split, Items]
    heads: tuple[HeadConfig, ...] = (HeadConfig(name="does", task="classify", labels=("wave", "point", "nod")),)

    def clips(self, items: Items, *, training: bool) -> ClipSet:
        raise NotImplementedError

    def digest(self) -> str:
        return ""


def people(strata: Items, groups: Items) -> People:
    last = np.arange(len(strata) - 30, len(strata))
    rest = np.arange(len(strata) - 30)
    return People(strata, groups, {"train": rest[::2], "validation": rest[1::2], "test": last})


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("folds", [2, 4])
def test_nobody_is_in_two_folds_nor_in_training_and_in_what_judges_it(folds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corpus = people(rng.integers(0, 3, 300), rng.integers(0, 25, 300))
    folds_people = []
    for part in folds_of(corpus, folds, seed):
        train, validation, held_out = (
            set(corpus.groups[items].tolist()) for items in (part.train, part.validation, part.held_out)
        )
        assert not train & validation
        assert not train & held_out
        assert not validation & held_out
        assert set(corpus.strata[part.train].tolist()) == {0, 1, 2}
        folds_people.append(held_out)
    assert not set.intersection(*folds_people)
    assert sum(map(len, folds_people)) == len(set.union(*folds_people))


def test_more_folds_than_the_rarest_class_has_groups_are_refused_by_its_name() -> None:
    strata = np.arange(300) % 3
    groups = np.where(strata == 2, np.arange(300) % 12 // 3, 100 + np.arange(300))
    corpus = people(strata, groups)
    with pytest.raises(ConfigError, match="class 'nod' is in 4 groups") as refusal:
        folds_of(corpus, 5, seed=0)
    assert "--folds 4" in refusal.value.fix
    assert len(folds_of(corpus, 4, seed=0)) == 4


def test_a_class_that_one_group_alone_shows_is_refused_by_its_name() -> None:
    strata = np.arange(300) % 3
    corpus = people(strata, np.where(strata == 1, 7, 100 + np.arange(300)))
    with pytest.raises(ConfigError, match="class 'point' is in 1 group only"):
        folds_of(corpus, 2, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_two_groups_is_held_out_in_one_fold_and_learnt_in_the_other(seed: int) -> None:
    strata = np.arange(300) % 2
    strata[[10, 20]] = 2
    corpus = people(strata, np.arange(300))
    for part in folds_of(corpus, 2, seed):
        assert (corpus.strata[part.held_out] == 2).sum() == 1
        assert (corpus.strata[part.train] == 2).sum() == 1


@pytest.mark.parametrize("groups", [np.arange(300) % 2, np.arange(300) % 3])
def test_groups_that_cannot_be_shared_out_are_refused_with_a_class_that_suffers(groups: Items) -> None:
    strata = np.arange(300) % 3
    strata[:270] = np.where(groups[:270] == 0, 0, strata[:270])
    with pytest.raises(ConfigError, match=r"class '\w+'"):
        folds_of(people(strata, groups), 2, seed=0)


def test_two_items_of_each_class_are_too_few_for_two_folds() -> None:
    strata = np.concatenate([np.arange(6) % 3, np.arange(30) % 3])
    with pytest.raises(ConfigError, match="fold 1 leaves too little of class"):
        folds_of(people(strata, np.arange(36)), 2, seed=0)


@pytest.mark.parametrize("folds", [-1, 0, 1])
def test_fewer_than_two_folds_are_refused(folds: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--folds {folds}"):
        cross_validate(tiny(), folds, tmp_path)
    assert not list(tmp_path.iterdir())


def test_held_out_items_are_never_trained_on_and_test_items_are_never_touched(watched: Watched, tmp_path: Path) -> None:
    parts = folds_of(watched, 2, seed=0)
    cross_validate(tiny(), 2, tmp_path, progress=False)
    assert [training for _, training in watched.asked] == [True, False, False] * 2
    for number, part in enumerate(parts):
        train, validation, held_out = (items for items, _ in watched.asked[3 * number : 3 * number + 3])
        np.testing.assert_array_equal(train, part.train)
        np.testing.assert_array_equal(validation, part.validation)
        np.testing.assert_array_equal(held_out, part.held_out)
        assert not np.isin(held_out, np.concatenate([train, validation])).any()
    assert not np.isin(np.concatenate([items for items, _ in watched.asked]), watched.splits["test"]).any()


def test_each_folds_network_scores_again_what_the_fold_scored(validated: tuple[CrossValidation, Path]) -> None:
    found, folder = validated
    corpus = opened(tiny())
    for part, fold in zip(folds_of(corpus, 3, seed=0), found.folds, strict=True):
        model = load_checkpoint(folder / f"fold-{fold.fold}")
        held_out = corpus.clips(part.held_out, training=False)
        assert evaluate(torch_answer(model), held_out, corpus.heads).scores == fold.scores
        assert load_recipe_of(folder / f"fold-{fold.fold}") == tiny()
        assert (fold.train_items, fold.held_out_items) == (len(part.train), len(part.held_out))


def test_the_spread_is_the_mean_and_the_sample_deviation_over_the_folds(
    validated: tuple[CrossValidation, Path], tmp_path: Path
) -> None:
    found, _ = validated
    for name, spread in found.spread.items():
        values = [fold[name] for fold in scores(found) if name in fold]
        assert spread.folds == len(values)
        assert spread.mean == pytest.approx(np.mean(values))
        if len(values) > 1:
            assert spread.deviation == pytest.approx(np.std(values, ddof=1))
    assert found.spread["digit.accuracy"].folds == 3
    found.save(tmp_path)
    document = json.loads((tmp_path / "cross-validation.json").read_text())
    assert document["spread"]["digit.accuracy"]["mean"] == found.spread["digit.accuracy"].mean
    assert [fold["scores"] for fold in document["folds"]] == scores(found)


def test_finished_folds_are_read_back_and_a_missing_one_is_done_again(
    validated: tuple[CrossValidation, Path], watched: Watched
) -> None:
    found, folder = validated
    assert cross_validate(tiny("fit.workers=1"), 3, folder, progress=False) == found
    assert watched.asked == []
    (folder / "fold-2" / "scores.json").unlink()
    again = cross_validate(tiny(), 3, folder, progress=False)
    assert scores(again) == scores(found)
    assert len(watched.asked) == 3


def test_a_fold_that_ctrl_c_interrupts_goes_on_to_the_same_scores(
    validated: tuple[CrossValidation, Path], watched: Watched, tmp_path: Path
) -> None:
    watched.ctrl_c = 3  # the second fold's training clips
    with pytest.raises(InterruptedTraining, match="fold 2") as stop:
        cross_validate(tiny(), 3, tmp_path, progress=False)
    assert "same command" in stop.value.fix
    assert (tmp_path / "fold-1" / "scores.json").is_file()
    assert (tmp_path / "fold-2" / "resume.safetensors").is_file()
    watched.ctrl_c = -1
    assert scores(cross_validate(tiny(), 3, tmp_path, progress=False)) == scores(validated[0])
    assert not list(tmp_path.rglob("resume.*"))


@pytest.mark.parametrize(
    ("recipe", "folds", "words"),
    [
        (tiny("fit.learning_rate=0.01"), 3, "fit.learning_rate was 0.001 and is 0.01"),
        (tiny("data.frames=11"), 3, "data.frames was 12 and is 11"),
        (tiny(), 4, "number of folds was 3 and is 4"),
    ],
)
def test_folds_of_another_recipe_are_never_mixed_in(
    recipe: Recipe, folds: int, words: str, validated: tuple[CrossValidation, Path]
) -> None:
    with pytest.raises(ConfigError, match="another cross-validation") as refusal:
        cross_validate(recipe, folds, validated[1], progress=False)
    assert words in str(refusal.value)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"fold": 1}'])
def test_damaged_scores_of_a_fold_are_named(
    damage: str, validated: tuple[CrossValidation, Path], tmp_path: Path
) -> None:
    (tmp_path / "folds.json").write_bytes((validated[1] / "folds.json").read_bytes())
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "scores.json").write_text(damage)
    with pytest.raises(CheckpointError, match=r"fold-1.scores\.json"):
        cross_validate(tiny(), 3, tmp_path, progress=False)
