"""Whether two runs are the same work: what of a recipe decides its results, and where two recipes part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edge_cnnlstm.training.recipe import Recipe

ELSEWHERE = ("fit.workers", "fit.accelerator", "data.root", "data.cache_mib")
"""Keys that may differ from machine to machine: they say where and how fast, not what."""

Identity = Mapping[str, Any]
"""What decides the results: by dotted key of the recipe, and "data digest"."""


def identity(recipe: Recipe, data_digest: str, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what decides a recipe's results; `without` names keys, or whole tables, that do not here."""
    document = recipe.model_dump(mode="json", exclude_none=True)
    ignored = (*ELSEWHERE, *without)
    kept = {
        key: value
        for key, value in _flat(document, "")
        if not any(key == name or key.startswith(f"{name}.") for name in ignored)
    }
    return {**kept, "data digest": data_digest}


def difference(before: Identity, now: Identity) -> str | None:
    """Return the first difference in words, `key was this and is that`; None where there is none."""
    for key in (*now, *before):
        old, new = before.get(key, "not set"), now.get(key, "not set")
        if old != new:
            return f"{key} was {old} and is {new}"
    return None


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list) and value:
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in entries:
            yield from _flat(item, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
