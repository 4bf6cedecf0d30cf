"""Fail the first call, the second, and so on, each in a process that has just begun, until none is left to fail."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

from edge_cnnlstm.errors import BackendError, EdgeError
from edge_cnnlstm.gpu.cuda import Session
from tests.gpu.doubles.driver import FREEING
from tests.gpu.doubles.handle import Double, fresh

MOST_CALLS = 1000


def nothing(double: Double) -> None:
    """Prepare nothing."""


def sweep(attempt: Callable[[Double, Any], None], prepare: Callable[[Double], Any] = nothing) -> list[str]:
    """Return the names of the calls that were failed, one in each attempt.

    `attempt` gets what `prepare` made while nothing failed yet. It may raise an EdgeError, and must not leave anything
    behind; after a failure of work as it ran, the context is dead and takes everything with it.
    """
    failed: list[str] = []
    while len(failed) < MOST_CALLS:
        with fresh() as double:
            prepared = prepare(double)
            double.fail(nth=len(failed) + 1)
            with contextlib.suppress(EdgeError):
                attempt(double, prepared)
            if (name := double.failed()) is None:
                return failed
            failed.append(name)
            del prepared
            assert double.pushed() == double.current() == 0, name
            if name != "execute":
                left = settled(double, name in FREEING)
                assert sum(left.values()) <= (name in FREEING), (name, left)
            complaints = [line for line in double.complaints() if not line.startswith("clean-up")]
            assert complaints == [], (name, complaints)
        assert double.retained() <= (name == "cuDevicePrimaryCtxRelease"), name
    raise AssertionError(f"more than {MOST_CALLS} calls: does this end?")


def settled(double: Double, stuck: int = 0) -> dict[str, int]:
    """Return what is alive once the arrays that nobody holds are gone: the next session frees their memory."""
    with contextlib.suppress(BackendError):  # from a GPU that did not come back, which took everything with it
        Session().close()
        if sum(double.alive().values()) > stuck:
            gc.collect()  # slow, and seldom needed
            Session().close()
    return double.alive()
