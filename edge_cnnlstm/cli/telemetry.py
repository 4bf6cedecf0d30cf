"""The one place where `run` and telemetry meet."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

MODULE = "edge_cnnlstm.runtime.telemetry"


class Recorder(Protocol):
    """What records a machine's power, clocks, heat and throttling beside a stream."""

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON data; `verdict` is {valid, reasons}."""


@contextmanager
def recording() -> Iterator[Recorder | None]:
    """Record while open; None where this installation has no recorder."""
    # By name: the module may not be there. Once it always is, this file becomes a plain import.
    if importlib.util.find_spec(MODULE) is None:
        yield None
        return
    with importlib.import_module(MODULE).Telemetry() as recorder:
        yield recorder
