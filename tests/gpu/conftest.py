from __future__ import annotations

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
