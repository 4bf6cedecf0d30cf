from __future__ import annotations

from pathlib import Path

import pytest

from edge_cnnlstm.training.config import preset_config
from edge_cnnlstm.training.data.occluded_digits import HEADS
from edge_cnnlstm.training.fit import FitConfig, fit, shortened
from edge_cnnlstm.training.model import CnnLstm


@pytest.fixture(scope="session")
def trained() -> CnnLstm:
    """A nano network trained for a few seconds: enough for its activations to have a shape worth calibrating."""
    return fit(preset_config("nano", HEADS), shortened(FitConfig(), 24), progress=False)


@pytest.fixture(scope="session")
def lowered(trained: CnnLstm) -> dict[str, CnnLstm]:
    from export.pipeline import lower_all

    return lower_all(trained)
