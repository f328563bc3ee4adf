"""The state of training: everything that a run needs to resume bit for bit from a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer

from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.checkpoints.saved_run import SavedRun
from ssltool.data.loader import Batch
from ssltool.errors import Diverged
from ssltool.files.schema import ANYTHING, conform, mapping, real
from ssltool.methods.base import Method, Output
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.data_parallel import gradient_exchange
from ssltool.training.restore import OTHER, load_optimizer, load_weights

SUMS = ("loss", "feature_std")
"""The values that are averaged over the steps of an epoch, before those of regularisers; the loss is first."""

FLUSH_EVERY = 10
"""Steps between checks of the losses, each of which synchronises with a GPU."""

DIVERGED = "the last checkpoint, if any, is unaffected; try a lower --lr, --warmup-epochs, or --precision fp32"


@dataclass(kw_only=True)
class LoopState:
    """The progress of training: the number of completed epochs, the number of completed steps of the current epoch,
    and the records of the completed epochs."""

    epoch: int = 0
    epoch_step: int = 0
    history: list[Record] = field(default_factory=list)

    def record_step(self, *values: Tensor) -> None:
        """Counts a step and records its values."""
        self.epoch_step += 1

    def flush(self) -> None:
        """Processes the recorded values; this synchronises with a GPU.

        Raises:
            Diverged: if a loss is not finite; the message gives its step.
        """

    def finish_epoch(self) -> dict[str, float]:
        """Ends the epoch and returns the means of the recorded values over its steps."""
        self.epoch += 1
        self.epoch_step = 0
        return {}

    def status(self) -> str:
        """Text for the progress display."""
        return ""


@dataclass
class TrainState(LoopState):
    """The state of training a ``Method``.

    Attributes:
        model: the method as the loop calls it: compiled, or wrapped for several ranks.
        step: the number of completed steps of all epochs.
        sums: the sums of the recorded values over the steps of the current epoch.
        pending: the values of the steps since the last ``flush``.
        latest: the loss of the last flushed step.
        cuda_graphs: whether the model is compiled into CUDA graphs, whose tensors the next step overwrites.
    """

    method: Method
    model: nn.Module
    optimizer: Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    sums: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    pending: list[Tensor] = field(default_factory=list)
    latest: float | None = None
    cuda_graphs: bool = False

    @property
    def epoch_number(self) -> int:
        """The epoch of the last step, counted from 1 as in messages."""
        return self.epoch + (self.epoch_step > 0)

    def checkpoint(self, run: SavedRun) -> Checkpoint:
        """The checkpoint of ``run`` in this state. Its tensors are the live ones, so save it before the next step.

        Raises:
            Diverged: if the weights are not finite.
        """
        weights = self.method.state_dict()
        if not bool(torch.stack([torch.isfinite(tensor).all() for tensor in weights.values()]).all()):
            raise Diverged(f"the weights are not finite after step {self.step} (epoch {self.epoch_number}); {DIVERGED}")
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

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Restores the state from ``checkpoint``, which was read from ``path``.

        Raises:
            SSLToolError: if it is not the state of such a training.
        """
        schema = mapping({"sums": mapping(dict.fromkeys(self.sums, real(finite=False)))}, other=ANYTHING)
        conform({"metrics": checkpoint.metrics}, mapping({"metrics": schema}), path, remedy=OTHER)
        load_weights(self.method, checkpoint.state_dict, path)
        load_optimizer(self.optimizer, checkpoint.optimizer, path)
        if checkpoint.scaler is not None:
            self.scaler.load_state_dict(checkpoint.scaler)
        self.epoch, self.step = checkpoint.epoch, checkpoint.step
        self.epoch_step = checkpoint.metrics["epoch_step"]
        self.sums = dict(checkpoint.metrics["sums"])
        self.history = list(checkpoint.metrics["epochs"])

    def restart_at(self, epoch: int, steps: int) -> None:
        """Continues at the start of ``epoch``, of ``steps`` steps each, instead of the checkpoint's epoch."""
        self.epoch, self.step, self.epoch_step = epoch, epoch * steps, 0
        self.sums = dict.fromkeys(self.sums, 0.0)
        self.history = [record for record in self.history if record["epoch"] < epoch]

    def update(self, loss: Tensor) -> None:
        """One optimizer step on ``loss``, with the method's hooks before and after it."""
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self._apply_gradients()

    def train_on(self, parts: Sequence[Batch], autocast: Callable[[], AbstractContextManager[object]]) -> Output:
        """One optimizer step on a batch that is given in ``parts`` of equal size, with all hooks of the method.

        ``autocast()`` is the context of the forward passes. Returns the output for the whole batch, detached: the mean
        loss, and the other tensors concatenated.
        """
        outputs = []
        self.optimizer.zero_grad(set_to_none=True)
        if self.cuda_graphs:
            torch.compiler.cudagraph_mark_step_begin()
        for number, part in enumerate(parts, start=1):
            with gradient_exchange(self.model, number == len(parts)):
                with autocast():
                    output = Output(*self.model(part))
                self.scaler.scale(output.objective / len(parts)).backward()
            outputs.append(output._replace(loss=output.loss.detach(), terms=tuple(t.detach() for t in output.terms)))
        losses, projections, for_buffers, terms = zip(*outputs, strict=True)
        kept = tuple(torch.cat(tensors) for tensors in zip(*for_buffers, strict=True))
        means = tuple(torch.stack(values).mean() for values in zip(*terms, strict=True))
        output = Output(torch.stack(losses).mean(), torch.cat(projections), kept, means)
        self.method.update_buffers(output)
        self._apply_gradients()
        return output

    def _apply_gradients(self) -> None:
        self.scaler.unscale_(self.optimizer)
        self.method.before_update()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.method.after_step()

    def record_step(self, *values: Tensor) -> None:
        """Counts a step and records its values, one for each name in ``sums``. They stay on the device until
        ``flush``."""
        super().record_step()
        self.step += 1
        self.pending.append(torch.stack([value.detach().float() for value in values]))

    def flush(self) -> None:
        """Adds the recorded values, averaged over the ranks, to the sums, which are then equal on all ranks.

        Raises:
            Diverged: if a loss is not finite; the message gives its step.
        """
        if not self.pending:
            return
        rows = distributed.all_reduce_mean(torch.stack(self.pending)).tolist()
        self.pending.clear()
        first = self.step - len(rows)
        for number, row in enumerate(rows, start=first + 1):
            for name, value in zip(self.sums, row, strict=True):
                if name != "feature_std" and not math.isfinite(value):
                    raise Diverged(f"the {name} is {value} at step {number} (epoch {self.epoch_number}); {DIVERGED}")
        self.latest = rows[-1][0]
        for row in rows:
            for name, value in zip(self.sums, row, strict=True):
                self.sums[name] += value

    def finish_epoch(self) -> dict[str, float]:
        """Ends the epoch and returns the mean of each value over its steps and the ranks."""
        self.flush()
        means = {name: total / self.epoch_step for name, total in self.sums.items()}
        super().finish_epoch()
        self.sums = dict.fromkeys(self.sums, 0.0)
        return means

    def status(self) -> str:
        """The loss of the last flushed step."""
        return "" if self.latest is None else f"loss {self.latest:.4f}"
