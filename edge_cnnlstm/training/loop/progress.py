"""Where a training stands: its course so far, the weights worth keeping, and all that resuming it needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from edge_cnnlstm.errors import CheckpointError
from edge_cnnlstm.training.checkpoint import RESUME, load_about, load_tensors, save_tensors
from edge_cnnlstm.training.identity import Identity, difference
from edge_cnnlstm.training.model import CnnLstm, State

MEMORY = "resume.memory-{rank}.safetensors"
"""The memory that another process than the first carries from batch to batch."""


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
    `waited` and `computed` are how long the training loop waited for its data, and how long it did not, in seconds.
    """

    keep: Literal["best", "last"]
    position: Position = field(default_factory=Position)
    loss_sum: float = 0.0
    waited: float = 0.0
    computed: float = 0.0
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
        return self.stale

    @property
    def stale(self) -> int:
        """How many epochs ago the best one was."""
        return len(self.history) - 1 - self.best_epoch

    @property
    def compute_share(self) -> float:
        """The share of the training loop that did not wait for data."""
        return self.computed / max(self.computed + self.waited, 1e-9)

    @property
    def scores(self) -> dict[str, float]:
        """Validation loss and scores of the kept weights; empty before the first epoch is over."""
        record = dict(self.history[self.kept_epoch]) if self.history else {}
        return {name: value for name, value in record.items() if name not in {"epoch", "train_loss"}}


def save_progress(
    progress: Progress,
    model: CnnLstm,
    optimizer: torch.optim.Optimizer,
    memory: State | None,
    identity: Identity,
    folder: Path,
) -> None:
    """Write all that resuming needs, in one file: a training that is killed leaves the last save, or this one.

    `identity` is what the training is, so that no other is resumed from here.
    """
    moments = optimizer.state_dict()
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"kept.{name}": tensor for name, tensor in progress.kept.items()}
    tensors |= {} if memory is None else {f"memory.{name}": tensor for name, tensor in memory._asdict().items()}
    for index, values in moments["state"].items():
        tensors |= {
            f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items() if value is not None
        }
    course = {name: value for name, value in asdict(progress).items() if name != "kept"}
    document = {"progress": course, "optimizer": moments["param_groups"], "identity": identity}
    save_tensors(tensors, folder / RESUME, about={"course": json.dumps(document)})


def save_memory(memory: State | None, step: int, rank: int, folder: Path) -> None:
    """Write the memory that another process than the first carries from batch to batch."""
    if memory is not None:
        path = folder / MEMORY.format(rank=rank)
        save_tensors({f"memory.{name}": tensor for name, tensor in memory._asdict().items()}, path, {"step": str(step)})


@dataclass(frozen=True, slots=True)
class Resume:
    """What an interrupted training left in its folder."""

    folder: Path
    progress: Progress
    tensors: dict[str, Tensor]
    groups: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path, identity: Identity) -> Resume:
        """Read what the training of this identity left.

        Raises CheckpointError when there is nothing, when it is damaged, or when it is another training's.
        """
        path = folder / RESUME
        tensors, about = load_tensors(path), load_about(path)
        try:
            document = json.loads(about["course"])
            course = dict(document["progress"])
            course["position"] = Position(**course["position"])
            progress = Progress(**course, kept=_under("kept", tensors))
            groups = [{name: _tupled(value) for name, value in group.items()} for group in document["optimizer"]]
            changed = difference(document["identity"], identity)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path}: {error}",
                expected="what an interrupted training leaves",
                fix="train again in another folder",
            ) from error
        if changed is not None:
            raise CheckpointError(
                f"{folder} holds another training: {changed}",
                expected="the recipe and the data that it began with",
                fix="restore them, or train again in another folder",
            )
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
        memory = _under("memory", self.tensors if rank == 0 else self._memory_of(rank))
        device = next(model.parameters()).device
        return State(memory["h"].to(device), memory["c"].to(device)) if memory else None

    def _memory_of(self, rank: int) -> dict[str, Tensor]:
        """Return another process's memory; nothing when it was killed between its save and the first one's."""
        path = self.folder / MEMORY.format(rank=rank)
        step = str(self.progress.position.step)
        return load_tensors(path) if path.is_file() and load_about(path).get("step") == step else {}


def forget_progress(folder: Path) -> None:
    """Remove what resuming needed, once a training is complete."""
    for path in [folder / RESUME, *folder.glob(MEMORY.format(rank="*"))]:
        path.unlink(missing_ok=True)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def _tupled(value: Any) -> Any:
    """JSON has no tuples; Adam's betas are one."""
    return tuple(value) if isinstance(value, list) and value and isinstance(value[0], float) else value
