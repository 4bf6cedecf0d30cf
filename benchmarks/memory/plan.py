"""What is trained on what, and how: the same recipe for every network of a set."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from benchmarks.memory.networks import KINDS
from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import nearest
from edge_cnnlstm.training.recipe import Recipe, dump_recipe, recipe_from

MODEL = {
    "height": 32,
    "width": 32,
    "backbone": {"kind": "conv", "channels": (16, 32, 64), "strides": (2, 2, 1), "where_channels": 8},
    "hidden": 64,
}
FIT = {
    "optimizer": "adamw",
    "learning_rate": 4e-3,
    "schedule": "one-cycle",
    "weight_decay": 0.01,
    "gradient_clip": 1.0,
    "precision": "auto",
    "keep": "last",
    # Rendering within the process leaves one core to each training.
    "workers": 0,
}


@dataclass(frozen=True, slots=True)
class Task:
    """A set of clips, how many are learnt from in an epoch, and the curriculum: epochs, clips a batch, frames.

    `head` is the one that is scored, on the frames of `condition` where there is one.
    """

    data: dict[str, Any]
    stages: tuple[tuple[int, int, int | None], ...]
    head: str
    condition: str | None = None

    @property
    def score(self) -> str:
        """The score that is compared, as `metrics.Meters` names it."""
        return ".".join(filter(None, (self.head, "accuracy", self.condition)))


TASKS = {
    "occluded-digits": Task(
        {"kind": "occluded-digits", "clips": 960, "frames": 16}, ((16, 32, 3), (12, 32, None)), "digit", "hidden"
    ),
    "gestures": Task({"kind": "gestures", "clips": 960, "frames": 12}, ((16, 16, 6), (26, 16, None)), "gesture"),
    "recall": Task(
        {"kind": "recall", "clips": 640, "frames": 48},
        ((10, 32, 3), (6, 32, 6), (6, 32, 12), (5, 32, 24), (4, 32, None)),
        "digit",
    ),
}
"""The sets by name. Short clips come first: every network learns what to see before how to remember it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which sets, which networks, how many seeds, and how many clips: in an epoch (None: each set's own number), and
    of the test split.
    """

    sets: tuple[str, ...]
    networks: tuple[str, ...]
    seeds: int
    clips: int | None
    test_clips: int

    def __post_init__(self) -> None:
        _check("set", self.sets, list(TASKS))
        _check("network", self.networks, list(KINDS))

    @property
    def cells(self) -> list[Cell]:
        """Every training; whole comparisons first, so that an interrupted run compares what it has."""
        return [
            Cell(name, network, seed, self.clips, self.test_clips)
            for seed in range(self.seeds)
            for name in self.sets
            for network in self.networks
        ]


@dataclass(frozen=True, slots=True)
class Cell:
    """One training: a network on a set from a seed."""

    set: str
    network: str
    seed: int
    clips: int | None
    test_clips: int

    @property
    def recipe(self) -> Recipe:
        """How it is trained; the network's memory aside, equal for every network of a set and a seed."""
        task = TASKS[self.set]
        # The validation split decides nothing, since the last weights are kept, and every epoch would pay for it.
        data = {**task.data, "held_out": 32} | ({} if self.clips is None else {"clips": self.clips})
        stages = [
            {"epochs": epochs, "batch": batch} | ({} if frames is None else {"frames": frames})
            for epochs, batch, frames in task.stages
        ]
        return recipe_from({"seed": self.seed, "model": MODEL, "data": data, "fit": {**FIT, "stages": stages}})

    @property
    def file(self) -> str:
        """A name that no other training has, and that another recipe changes."""
        made_by = f"{self.network}\n{self.test_clips}\n{dump_recipe(self.recipe)}"
        slug = "".join(letter if letter.isalnum() else "-" for letter in self.network.lower())
        return f"{self.set}-{slug}-{self.seed}-{sha256(made_by.encode()).hexdigest()[:12]}.json"


def _check(kind: str, asked: tuple[str, ...], known: list[str]) -> None:
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"unknown {kind} {name!r}", expected=f"one of {'; '.join(known)}", fix=nearest(name, known)
            )
