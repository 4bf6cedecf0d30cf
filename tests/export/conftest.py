"""The session's trained network, traced, calibrated and lowered to every precision: each made once."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edge_cnnlstm.training.data.clip import Clip, Corpus
from edge_cnnlstm.training.fold import fold
from edge_cnnlstm.training.model import CnnLstm
from export.graphs import export_step
from export.pipeline import first_clips
from export.points import quantizable, quantized_layers
from export.precisions import Precision, candidates
from export.quantize import Calibration, calibrate, rollouts_of
from export.rollout import frames_of


@pytest.fixture(scope="session")
def folded(trained: CnnLstm) -> CnnLstm:
    return fold(trained)


@pytest.fixture(scope="session")
def split(folded: CnnLstm) -> CnnLstm:
    return quantizable(folded)


@pytest.fixture(scope="session")
def rollouts(corpus: Corpus) -> list[NDArray[np.uint8]]:
    return rollouts_of([clip.frames for clip in first_clips(corpus, "train", 24)])


@pytest.fixture(scope="session")
def calibration(split: CnnLstm, rollouts: list[NDArray[np.uint8]]) -> Calibration:
    return calibrate(split, rollouts)


@pytest.fixture(scope="session")
def precisions(split: CnnLstm) -> dict[str, Precision]:
    return candidates(quantized_layers(split))


@pytest.fixture(scope="session")
def networks(
    folded: CnnLstm, split: CnnLstm, calibration: Calibration, precisions: dict[str, Precision]
) -> dict[str, CnnLstm]:
    lowered = {name: precision.network(split, calibration) for name, precision in precisions.items()}
    return lowered | {"fp32": folded}


@pytest.fixture(scope="session")
def graphs(networks: dict[str, CnnLstm]) -> dict[str, onnx.ModelProto]:
    return {name: export_step(network) for name, network in networks.items()}


@pytest.fixture(scope="session")
def clips(corpus: Corpus) -> list[Clip]:
    return first_clips(corpus, "validation", 16)


@pytest.fixture(scope="session")
def frames(clips: list[Clip]) -> NDArray[np.uint8]:
    return frames_of(clips, 192)
