"""From a data section to the corpus that it describes."""

from __future__ import annotations

from edge_cnnlstm.training.config import NetworkConfig
from edge_cnnlstm.training.data import digit_stills, gestures, occluded_digits, recall
from edge_cnnlstm.training.data.clip import Corpus
from edge_cnnlstm.training.data.files import open_files
from edge_cnnlstm.training.data.settings import (
    DataConfig,
    DigitImagesConfig,
    GesturesConfig,
    OccludedDigitsConfig,
    RecallConfig,
)


def open_corpus(config: DataConfig, network: NetworkConfig, seed: int) -> Corpus:
    """Return the corpus, with clips at the network's frame size; raises DataError when the files cannot be used."""
    if isinstance(config, OccludedDigitsConfig):
        return occluded_digits.corpus(config, network, seed)
    if isinstance(config, GesturesConfig):
        return gestures.corpus(config, network, seed)
    if isinstance(config, RecallConfig):
        return recall.corpus(config, network, seed)
    if isinstance(config, DigitImagesConfig):
        return digit_stills.corpus(config, network, seed)
    return open_files(config, network, seed)
