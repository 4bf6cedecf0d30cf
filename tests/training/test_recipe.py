from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import ConvConfig
from edge_cnnlstm.training.data.settings import OccludedDigitsConfig, VideoFolderConfig
from edge_cnnlstm.training.recipe import Span, dump_recipe, load_recipe, recipe_from, shipped_recipes

BARE: dict[str, Any] = {"model": {"preset": "nano"}, "data": {"kind": "occluded-digits"}}


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_survives_being_saved(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    (tmp_path / "saved.toml").write_text(dump_recipe(recipe))

    assert load_recipe(tmp_path / "saved.toml") == recipe


def test_the_defaults_are_the_articles() -> None:
    fit = recipe_from(BARE).fit

    assert (fit.optimizer, fit.epochs, fit.stages[0].batch) == ("adam", 10, 32)


def test_a_preset_is_filled_in_around_what_is_given() -> None:
    recipe = recipe_from(BARE | {"model": {"preset": "nano", "layers": 2, "backbone": {"activation": "silu"}}})

    assert recipe.model.layers == 2
    assert isinstance(recipe.model.backbone, ConvConfig)
    assert recipe.model.backbone.activation == "silu"
    assert recipe.model.backbone.channels == (16, 32, 64, 64)


def test_a_backbone_of_another_kind_replaces_the_presets() -> None:
    backbone = {"kind": "residual", "stem": 8, "stages": [{"channels": 16, "stride": 2}]}

    assert recipe_from(BARE | {"model": {"preset": "nano", "backbone": backbone}}).model.backbone.kind == "residual"


def test_overrides_are_toml_and_fall_back_to_text() -> None:
    recipe = recipe_from(
        BARE,
        [
            "seed=3",
            "fit.learning_rate=1e-2",
            "fit.optimizer=sgd",
            "fit.stages=[{epochs=2, batch=4, frames=3}, {epochs=1}]",
            "tune.space={'model.layers' = {low=1, high=3}}",
            "data.frames = 8",
            "fit.stages.1.batch=7",
        ],
    )

    assert recipe.seed == 3
    assert recipe.fit.learning_rate == 0.01
    assert recipe.fit.optimizer == "sgd"
    assert [stage.frames for stage in recipe.fit.stages] == [3, None]
    assert [stage.batch for stage in recipe.fit.stages] == [4, 7]
    assert recipe.tune.space == {"model.layers": Span(low=1, high=3)}
    assert isinstance(recipe.data, OccludedDigitsConfig)
    assert recipe.data.frames == 8


def test_overrides_leave_the_document_as_it_was() -> None:
    document: dict[str, Any] = {"model": {"preset": "nano"}, "data": {"kind": "occluded-digits"}}

    recipe_from(document, ["data.frames=8", "fit.patience=2"])

    assert document == BARE


@pytest.mark.parametrize(
    ("override", "key", "nearest"),
    [
        ("fit.learning_rat=1", "fit.learning_rat", "learning_rate"),
        ("model.backbone.chanels=[1]", "model.backbone.chanels", "channels"),
        ("data.frame=1", "data.frame", "frames"),
        ("sead=1", "sead", "seed"),
        ("tune.trails=3", "tune.trails", "trials"),
        ("fit.stages=[{epochs=1, bacth=3}]", "fit.stages.0.bacth", "batch"),
    ],
)
def test_an_unknown_key_is_named_with_its_place_and_the_nearest_known_one(
    override: str, key: str, nearest: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s)unknown key '{key}'.*did you mean '{nearest}'"):
        recipe_from(BARE, [override])


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("fit.learning_rate=-1", "fit.learning_rate"),
        ("fit.learning_rate=fast", "fit.learning_rate"),
        ("fit.optimizer=adm", "fit.optimizer"),
        ("data.kind=photos", "data"),
        ("model.layers=-1", "model.layers"),
        ("model.backbone.strides=[2]", "strides"),
        ("fit.stages=[]", "fit.stages"),
        ("model.preset=nanno", "nanno"),
        ("tune.space={'fit.learning_rate'={low=1, high=0}}", "low 1"),
        ("seed=-1", "seed"),
        ("seed", "override"),
        ("seed.a=1", "seed"),
        ("fit.stages.3.batch=1", "stages"),
        ("=1", "override"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_key(override: str, where: str) -> None:
    with pytest.raises(ConfigError, match=where):
        recipe_from(BARE, ["seed=0", override])


def test_a_missing_recipe_names_those_that_ship() -> None:
    with pytest.raises(ConfigError, match="did you mean 'occluded-digits'"):
        load_recipe("occluded-digit")


def test_broken_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("[model]\npreset = nano\n")

    with pytest.raises(ConfigError, match="line 2"):
        load_recipe(tmp_path / "broken.toml")


def test_paths_survive_being_saved(tmp_path: Path) -> None:
    recipe = recipe_from(BARE | {"data": {"kind": "video-folder", "root": str(tmp_path)}})
    (tmp_path / "saved.toml").write_text(dump_recipe(recipe))

    loaded = load_recipe(tmp_path / "saved.toml").data

    assert isinstance(loaded, VideoFolderConfig)
    assert loaded.root == tmp_path
