"""How a network learns from a batch of clips, and what is measured after each epoch."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from edge_cnnlstm.errors import ConfigError, DataError, InterruptedTraining
from edge_cnnlstm.training import tasks
from edge_cnnlstm.training.checkpoint import save_checkpoint
from edge_cnnlstm.training.config import ModelConfig, nearest
from edge_cnnlstm.training.data.batches import Batch, ClipBatches, continued
from edge_cnnlstm.training.data.clip import ClipSet, Split
from edge_cnnlstm.training.identity import Identity
from edge_cnnlstm.training.loop.interruption import Interruption
from edge_cnnlstm.training.loop.progress import Progress, Resume, save_memory, save_progress
from edge_cnnlstm.training.loop.soundness import first_unsound_layer
from edge_cnnlstm.training.metrics import Meters, higher_is_better
from edge_cnnlstm.training.model import CnnLstm, State
from edge_cnnlstm.training.recipe import FitConfig

MINIMUM_CYCLE = 8
"""Fewer batches do not make a one-cycle schedule."""

logger = logging.getLogger("edge_cnnlstm.training")

OnEpoch = Callable[[int, dict[str, float]], None]


class Learner(lightning.LightningModule):  # type: ignore[misc]  # skipped: its types break strict mode
    """One network, its optimizer, and the clips that it learns from and is measured on.

    Chance in a batch (memory that is carried over, dropout) is drawn from the seed and the batch's number, so that a
    resumed training draws what it would have drawn.
    """

    automatic_optimization = False

    def __init__(
        self,
        model: CnnLstm,
        config: FitConfig,
        clips: Mapping[Split, ClipSet],
        seed: int,
        *,
        folder: Path | None,
        resume: Resume | None,
        identity: Identity,
        on_epoch: OnEpoch | None,
        interruption: Interruption,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.clips = clips
        self.seed = seed
        self.folder = folder
        self.resume = resume
        self.identity = identity
        self.progress = Progress(config.keep) if resume is None else resume.progress
        self.on_epoch = on_epoch
        self.interruption = interruption
        self.heads = model.config.heads
        self.meters = Meters(self.heads, model.config.height, model.config.width)
        self.validation_loss = MeanMetric()
        self.carried: State | None = None
        self._asked_at: float | None = None
        self._began_at = 0.0
        _check_settings(config, model.config)

    def train_dataloader(self) -> DataLoader[Batch]:
        self._asked_at = time.perf_counter()
        position = self.progress.position
        stage = self.config.stage(position.epoch)
        batches = ClipBatches(
            self.clips["train"],
            stage.batch,
            epoch=position.epoch,
            frames=stage.frames,
            missing=self.config.missed,
            seed=self.seed,
            rank=self.global_rank,
            world=self.trainer.world_size,
        )
        return self._loader(batches, position.batch)

    def val_dataloader(self) -> DataLoader[Batch]:
        batch = max(self.config.stages[-1].batch, self.trainer.world_size)
        shared = {"rank": self.global_rank, "world": self.trainer.world_size}
        return self._loader(ClipBatches(self.clips["validation"], batch, **shared), 0)

    def configure_optimizers(self) -> Any:
        rate, decay = self.config.learning_rate, self.config.weight_decay
        optimizer: torch.optim.Optimizer
        if self.config.optimizer == "sgd":
            optimizer = torch.optim.SGD(self.model.parameters(), rate, momentum=0.9, weight_decay=decay)
        else:
            kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.config.optimizer]
            optimizer = kind(self.model.parameters(), rate, weight_decay=decay)
        return [optimizer], [_schedule(self.config, optimizer, total_batches(self.config, self.clips["train"]))]

    def on_train_start(self) -> None:
        if self.resume is not None:
            optimizer, schedule = self.optimizers().optimizer, self.lr_schedulers()
            self.carried = self.resume.restore(self.model, optimizer, schedule, self.global_rank)

    def training_step(self, batch: Batch) -> None:
        torch.manual_seed(_draw(self.seed, self.progress.position.step, self.global_rank))
        frames, truth, periods = continued(batch, self._longest(batch.frames.shape[1]))
        dt = periods / self.model.config.frame_rate if self.model.config.dt_input else None
        whole = tasks.due(self.heads, truth)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        state, total = self._first_state(len(frames)), 0.0
        window = self.config.window or frames.shape[1]
        for begin in range(0, frames.shape[1], window):
            part = slice(begin, begin + window)
            truth = {name: values[:, part] for name, values in whole.items()}
            since = None if dt is None else dt[:, part]
            loss, after = self._loss(frames[:, part], state, since, truth, whole)
            if not torch.isfinite(loss):
                layer = first_unsound_layer(self.model, frames[:, part], state, since)
                raise self._diverged(f"the loss is {loss.item()}", layer)
            self.manual_backward(loss)
            state, total = State(after.h.detach(), after.c.detach()), total + loss.item()
        self._advance_weights(optimizer)
        self.carried = state
        total = float(self.trainer.strategy.reduce(torch.tensor(total, device=self.device), reduce_op="mean"))
        self.log("loss", total, prog_bar=True, rank_zero_only=True)
        self.progress.batch_done(total)

    def on_validation_epoch_start(self) -> None:
        if self.trainer.world_size > 1:
            # Batch norm's statistics are each process's own; those of the first are what is kept.
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: Batch) -> None:
        frames, truth = batch.frames, tasks.due(self.heads, batch.truth)
        features = self.model.features(frames)
        with torch.autocast(self.device.type, enabled=False):
            outputs, _ = self.model.roll(features.float(), self.model.initial_state(len(frames)))
        loss = self._weighted(outputs, truth, truth)
        if not torch.isfinite(loss):
            layer = first_unsound_layer(self.model, frames, self.model.initial_state(len(frames)))
            raise self._diverged(f"the validation loss is {loss.item()}", layer)
        self.meters.update(outputs, batch.truth)
        self.validation_loss.update(loss, weight=len(frames))

    def on_validation_epoch_end(self) -> None:
        scores = {"loss": float(self.validation_loss.compute()), **self.meters.compute()}
        self.validation_loss.reset()
        self.meters.reset()
        monitor = self.config.monitor
        if monitor not in scores:
            raise ConfigError(
                f"fit.monitor {monitor!r} is no score of this data",
                expected=f"one of {', '.join(scores)}",
                fix=nearest(monitor, scores),
            )
        self.log_dict({f"validation.{name}": value for name, value in scores.items()}, rank_zero_only=True)
        epoch = self.progress.position.epoch
        stale = self.progress.epoch_done(scores, self.model, monitor, higher_is_better=higher_is_better(monitor))
        if self.config.patience and stale >= self.config.patience:
            self.trainer.should_stop = True
        self._save()
        if self.on_epoch is not None:
            self.on_epoch(epoch, scores)

    def on_train_batch_start(self, *_: Any) -> None:
        self._began_at = time.perf_counter()
        self.progress.waited += 0.0 if self._asked_at is None else self._began_at - self._asked_at

    def on_train_batch_end(self, _outputs: Any, _batch: Batch, index: int) -> None:
        self._asked_at = time.perf_counter()
        self.progress.computed += self._asked_at - self._began_at
        # After an epoch's last batch comes its validation: the interruption waits for it.
        if index + 1 < self.trainer.num_training_batches and self._interrupted():
            self._save()
            self._stop()

    def on_train_epoch_end(self) -> None:
        self._asked_at = None
        if self.progress.position.epoch < self.config.epochs and not self.trainer.should_stop and self._interrupted():
            self._stop()

    def _interrupted(self) -> bool:
        """Whether any process was asked to stop: they stop together, or the others would wait for ever."""
        return bool(self.trainer.strategy.reduce_boolean_decision(self.interruption.asked, all=False))

    def _save(self) -> None:
        if self.folder is None:
            return
        if not self.trainer.is_global_zero:
            save_memory(self.carried, self.progress.position.step, self.global_rank, self.folder)
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            optimizer = self.optimizers().optimizer
            save_progress(self.progress, self.model, optimizer, self.carried, self.identity, self.folder)
            if self.progress.kept:
                kept = copy.deepcopy(self.model)
                kept.load_state_dict(self.progress.kept)
                save_checkpoint(kept, self.folder)

    def _stop(self) -> NoReturn:
        # The first process is still writing when the others come here: none leaves, and has it killed, before.
        self.trainer.strategy.barrier()
        position = self.progress.position
        raise InterruptedTraining(
            f"stopped before epoch {position.epoch}, batch {position.batch}",
            expected="to go on from there",
            fix=f"edge-cnnlstm train --resume {self.folder}",
        )

    def _loader(self, batches: ClipBatches, first: int) -> DataLoader[Batch]:
        return DataLoader(
            batches,
            batch_size=None,
            sampler=range(first, len(batches)),
            num_workers=self.config.workers,
        )

    def _longest(self, frames: int) -> int:
        """Return the longest clip's length in any process's share: one with fewer windows would let the others wait."""
        if not self.config.window:
            return frames
        return int(self.trainer.strategy.reduce(torch.tensor(frames, device=self.device), reduce_op="max"))

    def _first_state(self, clips: int) -> State:
        """Start a share of the clips from what another clip left behind.

        A network that only ever starts from zeros never learns to let go of what it remembers.
        """
        empty = self.model.initial_state(clips)
        if self.carried is None or self.carried.h.shape != empty.h.shape:
            return empty
        keep = (torch.rand(1, clips, 1) < self.config.carry).float().to(self.device)
        return State(self.carried.h.roll(1, dims=1) * keep, self.carried.c.roll(1, dims=1) * keep)

    def _loss(
        self, frames: Tensor, state: State, dt: Tensor | None, truth: tasks.Truth, whole: tasks.Truth
    ) -> tuple[Tensor, State]:
        features = self.model.features(frames)
        # The memory is trained in the precision that it is run in: c and what acts on it stay in FP32.
        with torch.autocast(self.device.type, enabled=False):
            outputs, after = self.model.roll(features.float(), state, dt)
            loss = self._weighted(outputs, truth, whole)
            if self.config.cell_penalty and self.model.config.layers:
                share = frames.shape[1] / next(iter(whole.values())).shape[1]
                loss = loss + self.config.cell_penalty * share * after.c.square().mean()
        return loss, after

    def _weighted(self, outputs: dict[str, Tensor], truth: tasks.Truth, whole: tasks.Truth) -> Tensor:
        found = tasks.losses(self.heads, outputs, truth, whole=whole, label_smoothing=self.config.label_smoothing)
        return torch.stack([self.config.weights.get(name, 1.0) * loss for name, loss in found.items()]).sum()

    def _advance_weights(self, optimizer: Any) -> None:
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip or torch.inf)
        if not torch.isfinite(norm):
            unsound = (
                name.rpartition(".")[0]
                for name, weights in self.model.named_parameters()
                if weights.grad is not None and not torch.isfinite(weights.grad).all()
            )
            raise self._diverged("a gradient is not finite", next(unsound, "the norm of all gradients"))
        optimizer.step()
        self.lr_schedulers().step()

    def _diverged(self, found: str, layer: str) -> DataError:
        position = self.progress.position
        kept = self.folder is not None and bool(self.progress.kept)
        return DataError(
            f"{found} at epoch {position.epoch}, batch {position.batch}, first in {layer!r}",
            expected="finite numbers",
            fix="lower fit.learning_rate or fit.gradient_clip"
            + (f"; {self.folder} holds the weights of the last good epoch" if kept else ""),
        )


def total_batches(config: FitConfig, clips: ClipSet) -> int:
    """Return the number of batches of a whole training."""
    return sum(stage.epochs * len(ClipBatches(clips, stage.batch, seed=0)) for stage in config.stages)


def _schedule(config: FitConfig, optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if config.schedule == "one-cycle":
        if steps < MINIMUM_CYCLE:
            raise ConfigError(
                f"{steps} training batches", expected=f"at least {MINIMUM_CYCLE} for one cycle", fix="train for longer"
            )
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=steps + 1, pct_start=0.2
        )
    if config.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def _check_settings(config: FitConfig, model: ModelConfig) -> None:
    """Refuse, before anything is learnt, what does not fit the network."""
    heads = [head.name for head in model.heads]
    monitored = [] if config.monitor == "loss" else [config.monitor.partition(".")[0]]
    for name in [*config.weights, *monitored]:
        if name not in heads:
            raise ConfigError(
                f"fit.monitor or fit.weights name {name!r}",
                expected=f"one of the heads {', '.join(heads)}",
                fix=nearest(name, heads),
            )
    higher_is_better(config.monitor)
    idle = [name for name in ("window", "carry", "missed", "cell_penalty") if getattr(config, name)]
    if model.scan == "rows" and idle:
        raise ConfigError(
            f"fit.{idle[0]} with a network that scans the rows of single images",
            expected="nothing that is carried from frame to frame",
            fix=f"leave fit.{idle[0]} out",
        )
    if model.dt_input and not config.missed:
        logger.warning("model.dt_input learns nothing: no frame is ever missed in training; see fit.missed")


def _draw(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])
