"""Data of the user's own: a module that a recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training import run
from edge_cnnlstm.training.checkpoint import load_checkpoint, load_recipe_of
from edge_cnnlstm.training.data.corpora import open_corpus
from edge_cnnlstm.training.evaluate import evaluate, torch_answer
from edge_cnnlstm.training.recipe import Recipe, recipe_from

BLINKS = '''
"""Clips in which a lamp blinks at one of two rates."""

import hashlib

import numpy as np

from edge_cnnlstm.training.config import HeadConfig
from edge_cnnlstm.training.data.clip import Clip

nothing = 3


class Blinks:
    heads = (HeadConfig(name="rate", task="classify", labels=("slow", "fast"), per="clip"),)

    def __init__(self, network, seed, frames):
        self.size, self.seed, self.frames = (network.height, network.width), seed, frames
        items = np.arange(24)
        self.splits = {"train": items[:16], "validation": items[16:20], "test": items[20:]}
        self.strata, self.groups = items % 2, items
        if frames < 1:
            raise ValueError("no clip is that short")

    def clips(self, items, *, training):
        return BlinkingClips(self, items)

    def digest(self):
        return hashlib.sha256(f"{self.size} {self.seed} {self.frames}".encode()).hexdigest()


class BlinkingClips:
    heads = Blinks.heads

    def __init__(self, corpus, items):
        self.corpus, self.items = corpus, items

    def __len__(self):
        return len(self.items)

    def clip(self, index, *, epoch=0, frames=None):
        fast = int(self.items[index]) % 2
        time = np.arange(frames or self.corpus.frames)
        lit = time // (1 if fast else 4) % 2
        shown = np.broadcast_to(lit[:, None, None, None] * 255, (len(time), *self.corpus.size, 3))
        return Clip(shown.astype(np.uint8), {"rate": np.full(len(time), fast)})


def unfinished(network, seed):
    return object()
'''


@pytest.fixture(autouse=True)
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_blinks.py").write_text(BLINKS)
    monkeypatch.syspath_prepend(tmp_path)


def recipe(module: str = "own_blinks:Blinks", **options: Any) -> Recipe:
    backbone = {"channels": [4], "strides": [4], "where_channels": 2}
    return recipe_from(
        {
            "model": {"height": 16, "width": 16, "backbone": backbone, "hidden": 8},
            "data": {"kind": "module", "module": module, "options": options},
            "fit": {
                "learning_rate": 0.03,
                "stages": [{"epochs": 25, "batch": 8}],
                "workers": 0,
                "accelerator": "cpu",
                "precision": "fp32",
            },
        }
    )


def test_data_of_ones_own_is_trained_on_and_found_again(tmp_path: Path) -> None:
    run.train(recipe(frames=12), tmp_path / "run", progress=False)

    saved = load_recipe_of(tmp_path / "run")
    corpus = open_corpus(saved.data, saved.model, saved.seed)
    model = load_checkpoint(tmp_path / "run")
    tested = evaluate(torch_answer(model), corpus.clips(corpus.splits["test"], training=False), model.config.heads)

    assert saved == recipe(frames=12)
    assert tested.clips == 4
    assert tested.scores["rate.accuracy"] == 1.0


@pytest.mark.parametrize(
    ("module", "options", "found"),
    [
        ("no_such_package:Blinks", {}, "No module named"),
        ("own_blinks:Missing", {}, "Missing"),
        ("own_blinks:nothing", {}, "is 3"),
        ("own_blinks:Blinks", {"frame": 12}, "'frame'"),
        ("own_blinks:Blinks", {"frames": 0}, "no clip is that short"),
        ("own_blinks:unfinished", {}, "has no heads, splits, strata, groups, clips, digest"),
    ],
)
def test_a_module_that_is_no_data_is_refused(module: str, options: dict[str, Any], found: str) -> None:
    broken = recipe(module, **options)

    with pytest.raises(ConfigError, match=found):
        open_corpus(broken.data, broken.model, broken.seed)
