"""The user's own code, which a recipe names as `package.module:name`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from edge_cnnlstm.errors import ConfigError


def imported(name: str, expected: str) -> Any:
    """Return what the user's module holds under that name; `expected` words the ConfigError if it cannot be had."""
    place, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(place), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{name!r}: {error}", expected=expected, fix="install it, or put its folder on PYTHONPATH"
        ) from error


def called(name: str, make: Callable[..., Any], options: Mapping[str, object], expected: str) -> Any:
    """Return what the user's code makes of the options; its refusal of them is a ConfigError."""
    try:
        return make(**options)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name!r} with options {dict(options)}: {error}", expected=expected, fix="give the options that it takes"
        ) from error
