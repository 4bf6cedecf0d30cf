"""Training: Lightning runs the loop; clips carry state into each other as frames of a stream do."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, replace

import lightning
import torch
from lightning.pytorch.callbacks import Callback, RichProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from edge_cnnlstm.errors import ConfigError, DataError
from edge_cnnlstm.training import tasks
from edge_cnnlstm.training.config import ModelConfig
from edge_cnnlstm.training.data.clips import ClipBatches, Stage
from edge_cnnlstm.training.model import CnnLstm, State

CURRICULUM = (Stage(frames=3, clips=64, batches=250), Stage(frames=16, clips=24, batches=360))
"""First short clips, in which the digit is in plain sight: the convolutions learn what a digit is in a fraction
of the time. Then whole clips, in which the memory learns to keep it."""


MINIMUM_BATCHES = 8
"""Fewer do not make a learning-rate cycle."""


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How to train.

    `learning_rate` is the peak of a one-cycle schedule and `weight_decay` AdamW's. `carry` is the share of clips
    that begin with what another clip left in the memory, as a stream does at a scene cut.
    """

    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    gradient_clip: float = 1.0
    carry: float = 0.75
    seed: int = 0
    curriculum: tuple[Stage, ...] = CURRICULUM


class Training(lightning.LightningModule):  # type: ignore[misc]  # skipped: its types break strict mode
    """One network and how it learns."""

    def __init__(self, model: CnnLstm, config: FitConfig, steps: int) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.steps = steps
        self.last_state: State | None = None

    def training_step(self, batch: tuple[Tensor, tasks.Truth], index: int) -> Tensor:
        frames, truth = batch
        outputs, state = self.model.sequence(frames, self._carried_state(len(frames)))
        self.last_state = State(state.h.detach(), state.c.detach())
        loss = tasks.loss(self.model.config.heads, outputs, truth)
        if not torch.isfinite(loss):
            raise DataError(
                f"the loss is {loss.item()} at batch {index}",
                expected="a finite loss",
                fix="lower the learning rate",
            )
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> lightning.pytorch.utilities.types.OptimizerLRSchedulerConfig:
        optimizer = torch.optim.AdamW(
            self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.config.learning_rate, total_steps=self.steps, pct_start=0.2
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _carried_state(self, clips: int) -> State:
        """Start a share of the clips from what another clip left behind.

        A network that only ever starts from zeros never learns to let go of what it remembers.
        """
        empty = self.model.initial_state(clips)
        if self.last_state is None or self.last_state.h.shape != empty.h.shape:
            return empty
        keep = (torch.rand(1, clips, 1) < self.config.carry).float()
        return State(self.last_state.h.roll(1, dims=1) * keep, self.last_state.c.roll(1, dims=1) * keep)


def shortened(config: FitConfig, batches: int) -> FitConfig:
    """Return the same training cut down to about this many batches, every stage in proportion."""
    whole = sum(stage.batches for stage in config.curriculum)
    stages = tuple(replace(stage, batches=max(1, stage.batches * batches // whole)) for stage in config.curriculum)
    return replace(config, curriculum=stages)


def fit(model_config: ModelConfig, config: FitConfig = FitConfig(), *, progress: bool = True) -> CnnLstm:
    """Train a network on occluded moving digits and return it in evaluation mode.

    Deterministic from the seed on one machine. Raises ConfigError for fewer than 8 batches, and DataError when
    the loss stops being finite.
    """
    batches = ClipBatches("train", config.seed, model_config.height, config.curriculum)
    if len(batches) < MINIMUM_BATCHES:
        raise ConfigError(
            f"{len(batches)} training batches", expected=f"at least {MINIMUM_BATCHES}", fix="train for longer"
        )
    lightning.seed_everything(config.seed, verbose=False)
    training = Training(CnnLstm(model_config), config, len(batches))
    callbacks: list[Callback] = [RichProgressBar(leave=True)] if progress else []
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # One worker renders while two cores learn; Lightning would have us use as many workers as cores.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Lightning 2.6 uses a pytree function that torch 2.13 deprecates; nothing a user could change.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        trainer = lightning.Trainer(
            max_steps=len(batches),
            max_epochs=1,
            accelerator="cpu",
            callbacks=callbacks,
            enable_progress_bar=progress,
            enable_checkpointing=False,
            enable_model_summary=False,
            logger=False,
            gradient_clip_val=config.gradient_clip,
        )
        trainer.fit(training, DataLoader(batches, batch_size=None, num_workers=1))
    return training.model.eval()
