"""From a data section to the corpus that it describes."""

from __future__ import annotations

from functools import partial

from edge_cnnlstm.errors import ConfigError
from edge_cnnlstm.training.config import NetworkConfig
from edge_cnnlstm.training.data import digit_stills, gestures, occluded_digits, recall
from edge_cnnlstm.training.data.clip import Corpus
from edge_cnnlstm.training.data.files import open_files
from edge_cnnlstm.training.data.settings import (
    DataConfig,
    DigitImagesConfig,
    GesturesConfig,
    ModuleDataConfig,
    OccludedDigitsConfig,
    RecallConfig,
)
from edge_cnnlstm.training.imported import called, imported


def open_corpus(config: DataConfig, network: NetworkConfig, seed: int) -> Corpus:
    """Return the corpus, with clips at the network's frame size.

    Raises DataError when the files cannot be used, and ConfigError when a corpus of the user's own cannot be made.
    """
    if isinstance(config, OccludedDigitsConfig):
        return occluded_digits.corpus(config, network, seed)
    if isinstance(config, GesturesConfig):
        return gestures.corpus(config, network, seed)
    if isinstance(config, RecallConfig):
        return recall.corpus(config, network, seed)
    if isinstance(config, DigitImagesConfig):
        return digit_stills.corpus(config, network, seed)
    if isinstance(config, ModuleDataConfig):
        return _users(config, network, seed)
    return open_files(config, network, seed)


def _users(config: ModuleDataConfig, network: NetworkConfig, seed: int) -> Corpus:
    expected = "`package.module:Name`, which returns a Corpus when called with network, seed and these options"
    make = imported(config.module, expected)
    if not callable(make):
        raise ConfigError(f"{config.module!r} is {make!r}", expected=expected, fix="name a class or a function")
    found = called(config.module, partial(make, network=network, seed=seed), config.options, expected)
    if not isinstance(found, Corpus):
        lacks = [name for name in vars(Corpus) if not name.startswith("_") and not hasattr(found, name)]
        raise ConfigError(f"{config.module!r} has no {', '.join(lacks)}", expected=expected, fix="see data/clip.py")
    return found
