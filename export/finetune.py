"""Quantization-aware fine-tuning: the network learns, with the very cell that it runs with, to live with its rounding.

The gradient passes through each rounding as if it were not there (straight-through: Bengio et al. 2013, arXiv
1308.3432), and stops where a value is clipped. Ranges stay as calibrated.
"""

from __future__ import annotations

import torch

from edge_cnnlstm.training.data.clip import Corpus
from edge_cnnlstm.training.fit import Fitted, fit
from edge_cnnlstm.training.model import CnnLstm
from edge_cnnlstm.training.recipe import Recipe, Stage

RATE = 0.05
"""Of the learning rate that the network was trained with: weights move by about one quantization step."""


def finetune(
    observed: CnnLstm, recipe: Recipe, corpus: Corpus, epochs: int, *, progress: bool = True
) -> tuple[CnnLstm, Fitted]:
    """Train a calibrated network (`quantize.observe`) on with its quantizers on; return it, and the course.

    The recipe's own data, losses, optimizer and last stage, at a twentieth of its rate, decaying. The network with the
    best validation loss is kept. It is trained in place. Errors as `fit` raises them.
    """
    last = recipe.fit.stages[-1]
    changed = recipe.fit.model_copy(
        update={
            "stages": (Stage(epochs=epochs, batch=last.batch, frames=last.frames),),
            "learning_rate": recipe.fit.learning_rate * RATE,
            "schedule": "cosine",
            "precision": "fp32",
            "keep": "best",
            "patience": 0,
        }
    )
    observed.requires_grad_(requires_grad=True)
    observed.train()
    with torch.enable_grad():
        fitted = fit(recipe.model_copy(update={"fit": changed}), corpus=corpus, model=observed, progress=progress)
    return observed, fitted
