"""The state of a training: everything that a checkpoint must restore to resume it bit for bit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.errors import SSLToolError
from ssltool.files import Record
from ssltool.methods.base import Method
from ssltool.training import distributed

SUMS = ("loss", "feature_std")
"""What is averaged over an epoch's steps, of which the loss comes first."""

FLUSH_EVERY = 10
"""Steps between looks at the losses, which on a GPU wait for it."""

DIVERGED = "the checkpoint, if there is one, is from before it. Try a lower --lr, --warmup-epochs, or --precision fp32"


@dataclass(kw_only=True)
class LoopState:
    """Where a training stands: ``epoch`` completed epochs, ``epoch_step`` completed steps of the unfinished one, and in
    ``history`` the records of the completed ones."""

    epoch: int = 0
    epoch_step: int = 0
    history: list[Record] = field(default_factory=list)

    def record_step(self, *values: Tensor) -> None:
        """Counts a step and records its values."""
        self.epoch_step += 1

    def flush(self) -> None:
        """Takes account of the recorded values, which on a GPU waits for it.

        Raises:
            SSLToolError: if a loss is not finite, naming its step.
        """

    def finish_epoch(self) -> dict[str, float]:
        """Ends the epoch and returns the means of the recorded values over its steps."""
        self.epoch += 1
        self.epoch_step = 0
        return {}

    def status(self) -> str:
        """What the progress shows beside the number of steps."""
        return ""


@dataclass
class TrainState(LoopState):
    """The state of the training of a ``Method``: ``step`` counts the completed steps of all epochs, ``sums`` holds the
    sums of the recorded values over the steps of the unfinished epoch."""

    method: Method
    model: nn.Module  # the method as the loop calls it: compiled, or wrapped for several ranks
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    pending: list[Tensor] = field(default_factory=list)
    latest: float | None = None  # the loss of the last flushed step

    @property
    def epoch_number(self) -> int:
        """The epoch of the last step, counted from 1, as messages give it."""
        return self.epoch + (self.epoch_step > 0)

    def checkpoint(self, run: SavedRun) -> Checkpoint:
        """A snapshot of ``run``, to be saved at once: its tensors are the live ones.

        Raises:
            SSLToolError: if the last step left weights that are not finite, from which no run could be resumed.
        """
        weights = self.method.state_dict()
        if not bool(torch.stack([torch.isfinite(tensor).all() for tensor in weights.values()]).all()):
            raise SSLToolError(
                f"the weights are not finite after step {self.step} (epoch {self.epoch_number}); {DIVERGED}"
            )
        scaler = self.scaler.state_dict()
        return Checkpoint(
            method=run.method_name,
            arch=run.backbone.arch,
            epoch=self.epoch,
            step=self.step,
            config=run.settings,
            state_dict=weights,
            optimizer=self.optimizer.state_dict(),
            scaler=scaler or None,
            metrics={"epochs": self.history, "epoch_step": self.epoch_step, "sums": dict(self.sums)},
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes over all that ``checkpoint`` holds."""
        self.method.load_state_dict(checkpoint.state_dict)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        if checkpoint.scaler is not None:
            self.scaler.load_state_dict(checkpoint.scaler)
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self.epoch_step = checkpoint.metrics["epoch_step"]
        self.sums = dict(checkpoint.metrics["sums"])
        self.history = list(checkpoint.metrics["epochs"])

    def update(self, loss: Tensor) -> None:
        """One optimiser step on ``loss``, with what the method does before and after it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        self.method.before_update()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.after_step()

    def record_step(self, *values: Tensor) -> None:
        """Counts a step and keeps its values, one for each name in ``sums``, on the device until ``flush``."""
        super().record_step()
        self.step += 1
        self.pending.append(torch.stack([value.detach().float() for value in values]))

    def flush(self) -> None:
        """Adds the means of the recorded values over the ranks to the sums, which are the same on all ranks.

        Raises:
            SSLToolError: if a loss is not finite, naming its step.
        """
        if not self.pending:
            return
        rows = distributed.all_reduce_mean(torch.stack(self.pending)).tolist()
        self.pending.clear()
        first = self.step - len(rows)
        for number, row in enumerate(rows, start=first + 1):
            if not math.isfinite(row[0]):
                raise SSLToolError(f"the loss is {row[0]} at step {number} (epoch {self.epoch_number}); {DIVERGED}")
        self.latest = rows[-1][0]
        for row in rows:
            for name, value in zip(self.sums, row, strict=True):
                self.sums[name] += value

    def finish_epoch(self) -> dict[str, float]:
        """Ends the epoch and returns the mean of each value in ``sums`` over its steps and the ranks."""
        self.flush()
        means = {name: total / self.epoch_step for name, total in self.sums.items()}
        super().finish_epoch()
        self.sums = dict.fromkeys(self.sums, 0.0)
        return means

    def status(self) -> str:
        """The loss of the last flushed step."""
        return "" if self.latest is None else f"loss {self.latest:.4f}"
