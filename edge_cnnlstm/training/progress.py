"""Where a training stands: its course so far, the weights worth keeping, and all that resuming it needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from edge_cnnlstm.errors import CheckpointError
from edge_cnnlstm.training.checkpoint import (
    RESUME_STATE,
    RESUME_TENSORS,
    load_json,
    load_tensors,
    save_json,
    save_tensors,
)
from edge_cnnlstm.training.model import CnnLstm, State

MEMORY = "resume.memory-{rank}.safetensors"
"""The memory that a process carries from batch to batch; each process has its own."""


@dataclass
class Position:
    """The next batch to learn from: its epoch, its number there, and how many batches came before it in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


@dataclass
class Progress:
    """The course of a training and the weights of its best (or last) epoch.

    `history` holds one record per finished epoch: its number, the training loss, the validation loss and scores.
    """

    keep: Literal["best", "last"]
    position: Position = field(default_factory=Position)
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = -1
    kept_epoch: int = -1
    kept: dict[str, Tensor] = field(default_factory=dict)

    def batch_done(self, loss: float) -> None:
        """Count a batch that the weights have learnt from."""
        self.position.batch += 1
        self.position.step += 1
        self.loss_sum += loss

    def epoch_done(self, scores: dict[str, float], model: CnnLstm, monitor: str, *, higher_is_better: bool) -> int:
        """Record an epoch, and its weights if they are worth keeping; return how many epochs ago the best one was."""
        epoch = self.position.epoch
        record = {"epoch": epoch, "train_loss": self.loss_sum / max(1, self.position.batch), **scores}
        self.history.append(record)
        gain = scores[monitor] - self.history[self.best_epoch][monitor]
        if self.best_epoch < 0 or (gain > 0 if higher_is_better else gain < 0):
            self.best_epoch = epoch
        if self.keep == "last" or self.best_epoch == epoch:
            self.kept_epoch = epoch
            self.kept = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        self.position, self.loss_sum = Position(epoch + 1, 0, self.position.step), 0.0
        return epoch - self.best_epoch

    @property
    def scores(self) -> dict[str, float]:
        """Validation loss and scores of the kept weights; empty before the first epoch is over."""
        record = dict(self.history[self.kept_epoch]) if self.history else {}
        return {name: value for name, value in record.items() if name not in {"epoch", "train_loss"}}


def save_progress(progress: Progress, model: CnnLstm, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Write all that resuming needs but the carried memory, see `save_memory`."""
    moments = optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"kept.{name}": tensor for name, tensor in progress.kept.items()}
    for index, values in moments["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items() if value is not None
        }
    course = {name: value for name, value in asdict(progress).items() if name != "kept"}
    save_tensors(tensors, folder / RESUME_TENSORS)
    save_json({"progress": course, "optimizer": moments["param_groups"]}, folder / RESUME_STATE)


def save_memory(memory: State | None, rank: int, folder: Path) -> None:
    """Write the memory that this process carries from batch to batch."""
    if memory is not None:
        save_tensors({"h": memory.h, "c": memory.c}, folder / MEMORY.format(rank=rank))


@dataclass(frozen=True, slots=True)
class Resume:
    """What an interrupted training left in its folder."""

    folder: Path
    progress: Progress
    tensors: dict[str, Tensor]
    groups: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Resume:
        """Read it; raises CheckpointError when there is none, or when it is damaged."""
        document, tensors = load_json(folder / RESUME_STATE), load_tensors(folder / RESUME_TENSORS)
        try:
            course = dict(document["progress"])
            course["position"] = Position(**course["position"])
            progress = Progress(**course, kept=_under("kept", tensors))
            groups = [{name: _tupled(value) for name, value in group.items()} for group in document["optimizer"]]
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder / RESUME_STATE}: {error}",
                expected="what an interrupted training leaves",
                fix="train again in another folder",
            ) from error
        return cls(folder, progress, tensors, groups)

    def restore(self, model: CnnLstm, optimizer: torch.optim.Optimizer, schedule: Any, rank: int) -> State | None:
        """Put weights, moments and learning rate back; return the memory that this process carried."""
        model.load_state_dict(_under("model", self.tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer", self.tensors).items():
            index, _, moment = name.partition(".")
            state.setdefault(int(index), {})[moment] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": self.groups})
        # Every schedule here is a function of how many steps were taken and of what stands in the groups.
        schedule.last_epoch = self.progress.position.step
        path = self.folder / MEMORY.format(rank=rank)
        if not path.is_file():
            return None
        memory, device = load_tensors(path), next(model.parameters()).device
        return State(memory["h"].to(device), memory["c"].to(device))


def forget_progress(folder: Path) -> None:
    """Remove what resuming needed, once a training is complete."""
    for path in [folder / RESUME_STATE, folder / RESUME_TENSORS, *folder.glob(MEMORY.format(rank="*"))]:
        path.unlink(missing_ok=True)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _tupled(value: Any) -> Any:
    """JSON has no tuples; Adam's betas are one."""
    return tuple(value) if isinstance(value, list) and value and isinstance(value[0], float) else value
