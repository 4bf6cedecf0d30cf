from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.gpu.doubles.handle import Double, fresh


@pytest.fixture
def double() -> Iterator[Double]:
    """A GPU that records. When the test is over, everything was given back, and nobody complained."""
    with fresh() as double:
        yield double
        assert double.pushed() == double.current() == 0
    assert double.complaints() == []
    assert double.alive() == {}
    assert double.retained() == 0


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """Let Ctrl-C be heard: a shell that runs tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
