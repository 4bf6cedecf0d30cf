"""MLPerf's package, imported where it is used: one needs it for this suite alone."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from edge_cnnlstm.errors import DependencyError


def load_loadgen() -> Any:
    """Return MLPerf's LoadGen; raises DependencyError when it is not installed."""
    try:
        return import_module("mlperf_loadgen")
    except ImportError as error:
        raise DependencyError(
            f"cannot import mlperf_loadgen: {error}",
            expected="MLPerf's load generator",
            fix="pip install mlcommons-loadgen, or pip install 'edge-cnnlstm[loadgen]' for all that this suite needs",
        ) from error
