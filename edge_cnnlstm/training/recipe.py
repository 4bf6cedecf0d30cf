"""One typed TOML for everything that makes a training: network, data, how to fit, and what to search."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli
import tomli_w
from pydantic import BaseModel, Discriminator, Field, FiniteFloat, Tag, ValidationError, model_validator

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import NetworkConfig, Section, nearest
from edge_cnnlstm.training.data.settings import DataConfig

SHIPPED = files("edge_cnnlstm.training") / "recipes"


class Stage(Section):
    """One stage of a curriculum: so many epochs, in batches of so many clips, cut to their first `frames`.

    Without `frames` the clips are whole.
    """

    epochs: int = Field(gt=0)
    batch: int = Field(default=32, gt=0)
    frames: int | None = Field(default=None, gt=0)


class FitConfig(Section):
    """How to train. The defaults are the article's: Adam, 10 epochs, batches of 32.

    `learning_rate` is the peak where a schedule moves it. `gradient_clip` is the largest norm of all gradients
    together (0: not clipped). `window` is how many frames the gradient runs back through in a longer clip, whose
    memory is carried on (0: the whole clip). `carry` is the share of clips that begin with what another clip left in
    the memory, as a stream does at a scene cut. `missed` is the largest share of a clip's frames that are left out in
    training, as a stream lacks those that came while the network was busy: each clip's own is drawn from 0 to it, and
    a network with `model.dt_input` is told of them. `cell_penalty` weighs the mean square of the cell state after the
    last frame (of each window), which would otherwise grow without bound in a long stream. `weights` multiply the
    heads' losses.

    Training stops early after `patience` epochs without a better `monitor` (0: never): "loss", which is the validation
    loss, or a score such as "digit.accuracy". `keep` says whose weights are kept: the best epoch's or the last one's.
    In `bf16` the convolutions compute in mixed precision, and the memory still in FP32; `auto` does so where the
    hardware has it.
    """

    stages: tuple[Stage, ...] = Field(default=(Stage(epochs=10),), min_length=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    schedule: Literal["constant", "one-cycle", "cosine"] = "constant"
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_clip: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    window: int = Field(default=0, ge=0)
    carry: float = Field(default=0.0, ge=0, le=1)
    missed: float = Field(default=0.0, ge=0, lt=1)
    cell_penalty: float = Field(default=0.0, ge=0)
    weights: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    monitor: str = "loss"
    patience: int = Field(default=0, ge=0)
    keep: Literal["best", "last"] = "best"
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    workers: int = Field(default=1, ge=0)
    deterministic: bool = True

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    def stage(self, epoch: int) -> Stage:
        """Return the stage that an epoch belongs to."""
        for stage in self.stages:
            if epoch < stage.epochs:
                return stage
            epoch -= stage.epochs
        return self.stages[-1]


class Span(Section):
    """A range to search: whole numbers when `low` and `high` are, on a logarithmic scale when `log`."""

    low: int | FiniteFloat
    high: int | FiniteFloat
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Span:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError("a logarithmic range begins above 0")
        return self


class Choices(Section):
    """Values to choose from."""

    choices: tuple[bool | int | FiniteFloat | str, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _different(self) -> Choices:
        if len(set(self.choices)) != len(self.choices):
            raise ValueError(f"the choices {', '.join(map(str, self.choices))} are not all different")
        return self


def _searched(given: Any) -> str:
    return "Choices" if isinstance(given, Choices) or (isinstance(given, Mapping) and "choices" in given) else "Span"


Searched = Annotated[Annotated[Span, Tag("Span")] | Annotated[Choices, Tag("Choices")], Discriminator(_searched)]


class TuneConfig(Section):
    """What to search, and for what: `space` maps dotted keys of this recipe to a range or to choices.

    An entry of a list is named by its number: `fit.stages.0.batch`. `metric` is "loss" or a validation score such as
    "digit.accuracy"; losses and errors are minimized, the rest maximized. Workers that name the same `storage` (any
    database URL that Optuna takes, or the path of a journal file on a shared disk) and the same `study` in it work
    together, until it has `trials` finished trials. `pruner` says how hopeless trials are stopped early.
    """

    trials: int = Field(default=20, gt=0)
    metric: str = "loss"
    storage: str | None = None
    study: str | None = None
    pruner: Literal["median", "hyperband", "none"] = "median"
    space: dict[str, Searched] = Field(default_factory=dict)


class Recipe(Section):
    """Everything that makes a training; equal recipes and equal data give equal weights on one machine."""

    seed: int = Field(default=0, ge=0, lt=2**32)
    model: NetworkConfig
    data: DataConfig
    fit: FitConfig = FitConfig()
    tune: TuneConfig = TuneConfig()


def load_recipe(source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe from a TOML file, or one that ships with this package by its name, and apply overrides.

    An override is `a.b=value`, with the value in TOML; what is not valid TOML is taken as text. Raises ConfigError
    naming the key, what it holds and what belongs there; for an unknown key, the nearest known one.
    """
    path = Path(source)
    shipped = SHIPPED / f"{source}.toml"
    if path.is_file():
        data = path.read_bytes()
    elif shipped.is_file():
        data = shipped.read_bytes()
    else:
        known = shipped_recipes()
        raise ConfigError(
            f"no recipe {str(source)!r}",
            expected=f"a TOML file, or one of {', '.join(known)}",
            fix=nearest(str(source), known),
        )
    try:
        document = tomli.loads(data.decode())
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: {error}", expected="valid TOML", fix="correct that line") from error
    return recipe_from(document, overrides)


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that ship with this package."""
    return sorted(entry.name.removesuffix(".toml") for entry in SHIPPED.iterdir() if entry.name.endswith(".toml"))


def recipe_from(document: Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Return the recipe that a parsed TOML document describes, after overrides `a.b=value`."""
    changed = _copied(document)
    for override in overrides:
        _refuse_idle_preset(document, override)
        _override(changed, override)
    try:
        return Recipe.model_validate(changed)
    except ValidationError as error:
        raise _config_error(error) from error


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as TOML, complete: `load_recipe` reads the same recipe from it."""
    return tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True))


def _refuse_idle_preset(document: Mapping[str, Any], override: str) -> None:
    """A recipe that spells its network out would keep it, whatever preset it is then said to come from."""
    spelt_out = {"backbone", "layers", "hidden"} <= set(document.get("model", {}))
    if override.partition("=")[0].strip() == "model.preset" and spelt_out:
        raise ConfigError(
            f"override {override!r} of a recipe that spells out its network",
            expected="keys of that network, such as model.layers or model.backbone",
            fix="begin from a recipe that names a preset only, or remove the other keys of [model]",
        )


def place(document: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c`, where a number names an entry of a list. A table that is not there is made.

    Raises ConfigError when the way leads through a value that is no table, or to an entry that does not exist.
    """
    *way, last = key.split(".")
    table: Any = document
    for part in way:
        table = table[_entry(table, part, key)] if isinstance(table, list) else table.setdefault(part, {})
        if not isinstance(table, dict | list):
            raise ConfigError(
                f"{part!r} in {key!r} is a value", expected="a key of the recipe", fix=f"end it at {part!r}"
            )
    table[_entry(table, last, key) if isinstance(table, list) else last] = value


def _entry(entries: list[Any], part: str, key: str) -> int:
    if part.isdecimal() and int(part) < len(entries):
        return int(part)
    raise ConfigError(
        f"{part!r} in {key!r} is no entry of the list",
        expected=f"a number from 0 to {len(entries) - 1}",
        fix="entries are counted from 0",
    )


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _override(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {override!r}", expected="a.b=value", fix="--set fit.learning_rate=0.001")
    try:
        value = tomli.loads(f"value = {text}")["value"]
    except tomli.TOMLDecodeError:
        value = text.strip()
    place(document, ".".join(parts), value)


def _config_error(error: ValidationError) -> ConfigError:
    first = error.errors()[0]
    loc = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        path, known = _keys_beside(loc)
        return ConfigError(
            f"unknown key {'.'.join([*path, loc[-1]])!r}",
            expected=f"one of {', '.join(known)}",
            fix=nearest(loc[-1], known),
        )
    where = ".".join(loc) or "the document"
    found = "" if first["type"] == "missing" else f" (found {first['input']!r})"
    return ConfigError(
        f"{where}: {first['msg']}{found}", expected="a value that this key can hold", fix="correct it, or leave it out"
    )


def _keys_beside(loc: list[str]) -> tuple[list[str], list[str]]:
    """Return the dotted place of an unknown key, without pydantic's tags of chosen kinds, and the keys known there."""
    section: Any = Recipe
    path: list[str] = []
    for part in loc[:-1]:
        members = [kind for kind in _members(section) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        tagged = [kind for kind in members if _tag(kind) == part or kind.__name__ == part]
        if tagged:
            section = tagged[0]
            continue
        path.append(part)
        fields = [kind.model_fields[part].annotation for kind in members if part in kind.model_fields]
        section = fields[0] if fields else section
    members = [kind for kind in _members(section) if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return path, sorted({name for kind in members for name in kind.model_fields})


def _tag(kind: type[BaseModel]) -> str | None:
    tag = kind.model_fields.get("kind")
    return tag.default if tag is not None else None


def _members(annotation: Any) -> list[Any]:
    """Return every type that an annotation names, through unions, tuples, dicts and Annotated."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _members(typing.get_args(annotation)[0])
    if origin in {typing.Union, types.UnionType, tuple, dict}:
        return [member for part in typing.get_args(annotation) for member in _members(part)]
    return [annotation]
