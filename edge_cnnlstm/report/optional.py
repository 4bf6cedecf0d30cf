"""Packages that draw a report, and that not every installation has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edge_cnnlstm.errors import DependencyError


@contextmanager
def drawing_libraries() -> Iterator[None]:
    """Turn a failed import of what draws into a DependencyError that says what to install."""
    try:
        yield
    except ImportError as error:
        raise DependencyError(
            f"cannot import what draws the report: {error}",
            expected="matplotlib and jinja2 to be installed",
            fix="pip install 'edge-cnnlstm[report]'",
        ) from error
