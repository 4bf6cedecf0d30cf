from __future__ import annotations

import pytest

from edge_cnnlstm.runtime.backends.scripted import Script
from edge_cnnlstm.runtime.stream import Stream
from edge_cnnlstm.spec import ModelSpec
from tests.runtime.doubles import Clock, CountingBackend


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The runtime's time, which passes only when somebody sleeps or works."""
    clock = Clock()
    clock.govern(monkeypatch)
    return clock


@pytest.fixture
def scripted(tiny_spec: ModelSpec, tiny_script: Script) -> Stream:
    return Stream(CountingBackend(tiny_spec, tiny_script))


@pytest.fixture
def twin(tiny_spec: ModelSpec, tiny_script: Script) -> Stream:
    """What `scripted` is compared with."""
    return Stream(CountingBackend(tiny_spec, tiny_script))
