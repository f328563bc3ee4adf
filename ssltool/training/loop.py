"""The loop of the stages that train a network in one process: saved after every epoch, and when a signal asks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from ssltool.checkpoints.saved_run import SavedRun
from ssltool.data.loader import Batch
from ssltool.errors import Interrupted
from ssltool.training.progress import Progress
from ssltool.training.signals import StopRequest
from ssltool.training.state import FLUSH_EVERY, TrainState


class Fit:
    """A network's training from wherever ``state`` stands to the end of the last of ``epochs`` epochs of ``steps``.

    A subclass says what is seen (``batches``), what a step does (``step``) and what an epoch's record holds beside the
    means of ``state.sums`` (``finish``). ``path`` is the checkpoint, ``saved`` the run in it, ``label`` what
    tells its records from others in the run folder.
    """

    def __init__(
        self, state: TrainState, saved: SavedRun, path: Path, *, epochs: int, steps: int, label: dict[str, Any]
    ) -> None:
        self.state, self.saved, self.path = state, saved, path
        self.epochs, self.steps, self.label = epochs, steps, label

    def batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """The batches of an epoch from a step on."""
        raise NotImplementedError

    def step(self, batch: Batch) -> tuple[Tensor, ...]:
        """Learns from a batch; returns the values of what ``state.sums`` names, the loss first."""
        raise NotImplementedError

    def finish(self, means: dict[str, float]) -> dict[str, Any]:
        """What the record of the epoch that has just ended holds beside its ``means``.

        Raises:
            SSLToolError: if there is no use in going on.
        """
        return {}

    def run(self, stop: StopRequest, log: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
        """Trains to the end, handing each epoch's record to ``log``; returns all records, of earlier epochs too.

        Raises:
            SSLToolError: for a loss that is not finite, or what the subclass raises.
            Interrupted: after a signal, with the state saved.
        """
        state = self.state
        while state.epoch < self.epochs:
            self._train_epoch(stop)
            means = state.finish_epoch()
            record = self.label | {"epoch": state.epoch - 1, "step": state.step, **means, **self.finish(means)}
            state.history.append(record)
            self.save()
            log(record)
            if stop.number and state.epoch < self.epochs:
                raise Interrupted(stop.number, str(self.path))
        return state.history

    def _train_epoch(self, stop: StopRequest) -> None:
        state = self.state
        state.model.train()
        name = " ".join(str(value) for value in self.label.values())
        title = f"{name} epoch {state.epoch + 1}/{self.epochs}"
        with contextlib.closing(Progress(title, self.steps, done=state.epoch_step, every=50)) as progress:
            for batch in self.batches(state.epoch, state.epoch_step):
                state.note(*self.step(batch.channels_last()))
                if state.epoch_step % FLUSH_EVERY == 0:
                    state.flush()
                progress.update(len(batch.labels), f"loss {state.latest:.4f}" if state.latest is not None else "")
                if stop.number and state.epoch_step < self.steps:  # the end of the epoch saves anyway
                    self.save()
                    raise Interrupted(stop.number, str(self.path))

    def save(self) -> None:
        """Writes the checkpoint."""
        self.state.flush()
        self.state.checkpoint(self.saved).save(self.path)
