"""A network that was really trained and a bundle that was really exported, made once for the whole run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edge_cnnlstm.training.model import CnnLstm

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def trained() -> CnnLstm:
    """A nano network trained for a few seconds: enough for its activations to have a shape worth calibrating."""
    from edge_cnnlstm.training.config import preset_config
    from edge_cnnlstm.training.data.occluded_digits import HEADS
    from edge_cnnlstm.training.fit import FitConfig, fit, shortened

    return fit(preset_config("nano", HEADS), shortened(FitConfig(), 24), progress=False)


@pytest.fixture(scope="session")
def lowered(trained: CnnLstm) -> dict[str, CnnLstm]:
    """The trained network as each target computes it."""
    from export.pipeline import lower_all

    return lower_all(trained)


@pytest.fixture(scope="session")
def exported(trained: CnnLstm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle that `python -m export` makes of the trained network."""
    from edge_cnnlstm.training.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("exported")
    save_checkpoint(trained, folder / "checkpoint")
    bundle = folder / "digits.edge"
    command = [sys.executable, "-m", "export", folder / "checkpoint", "-o", bundle, "--clips", "4"]
    made = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    return bundle
