"""A search space: which keys of a recipe vary, and the recipe that each point of it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import optuna

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.recipe import Choices, Recipe, Span, place, recipe_from

Value = bool | int | float | str
Space = Mapping[str, Span | Choices]

NOT_SEARCHED = {
    "seed": "a seed that happens to score well would be taken for a better network",
    "tune": "it is the search itself",
    "model.preset": "the recipe already holds what the preset stands for",
    "data.kind": "scores on different data say nothing about each other",
}
INSIDE = 0.382
"""Where a range is tried besides its ends, as a share of it: a place that is hardly ever a whole number."""


def check_space(recipe: Recipe) -> None:
    """Raise ConfigError when there is nothing to search, or naming the first key or value that makes no recipe."""
    if not recipe.tune.space:
        raise ConfigError(
            "the recipe has nothing to search",
            expected="a table [tune.space], with a range or choices for one key or more",
            fix='add, say, "fit.learning_rate" = { low = 1e-4, high = 1e-2, log = true }',
        )
    for key, searched in recipe.tune.space.items():
        for fixed, reason in NOT_SEARCHED.items():
            if key == fixed or key.startswith(f"{fixed}."):
                raise ConfigError(f"tune.space: {key!r}", expected=f"another key: {reason}", fix="take it out")
        for value in _probes(searched):
            _check_value(recipe, key, value)


def with_values(recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
    """Return the recipe with some of its keys changed; raises ConfigError when that makes no recipe."""
    document = recipe.model_dump(mode="json", exclude_none=True)
    for key, value in values.items():
        place(document, key, value)
    return recipe_from(document)


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    """Draw a point of the space."""
    return {key: _suggest_one(trial, key, searched) for key, searched in space.items()}


def _check_value(recipe: Recipe, key: str, value: Value) -> None:
    try:
        with_values(recipe, {key: value})
    except ConfigError as error:
        raise ConfigError(
            f"tune.space: {key!r} = {value!r}: {error.found}", expected=error.expected, fix=error.fix
        ) from error


def _suggest_one(trial: optuna.Trial, key: str, searched: Span | Choices) -> Value:
    if isinstance(searched, Choices):
        # Optuna knows None as a choice, too; a recipe has none.
        return cast("Value", trial.suggest_categorical(key, searched.choices))
    if isinstance(searched.low, int) and isinstance(searched.high, int):
        return trial.suggest_int(key, searched.low, searched.high, log=searched.log)
    return trial.suggest_float(key, searched.low, searched.high, log=searched.log)


def _probes(searched: Span | Choices) -> tuple[Value, ...]:
    """Return the values that show whether a key takes what it would be given."""
    if isinstance(searched, Choices):
        return searched.choices
    low, high = searched.low, searched.high
    if isinstance(low, int) and isinstance(high, int):
        return low, high
    return low, low + INSIDE * (high - low), high
