from __future__ import annotations

from pathlib import Path

import pytest

from edge_cnnlstm.errors import ConfigError, DataError
from edge_cnnlstm.training.checkpoint import load_recipe_of
from edge_cnnlstm.training.data.clip import Corpus
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.model import CnnLstm
from export.pipeline import Settings, export


def test_data_that_asks_other_questions_is_refused(checkpoint: Path, trained: CnnLstm, tmp_path: Path) -> None:
    recipe = load_recipe_of(checkpoint)
    other = open_corpus(recipe.data.model_copy(update={"ask": ("digit", "odd")}), recipe.model, recipe.seed)

    with pytest.raises(DataError, match=r"(?s)a network with heads .*'digit'.*'target'.*those of its data: .*'odd'"):
        export(trained, recipe, other, tmp_path / "model.edge", "model", Settings())

    assert not list(tmp_path.iterdir())


def test_a_layer_to_keep_that_does_not_exist_is_refused(
    checkpoint: Path, trained: CnnLstm, corpus: Corpus, tmp_path: Path
) -> None:
    settings = Settings(keep=("backbone.stages_1",))

    with pytest.raises(ConfigError, match=r"(?s)no layer 'backbone\.stages_1' to keep.*one of backbone\.stages_0"):
        export(trained, load_recipe_of(checkpoint), corpus, tmp_path / "model.edge", "model", settings)
