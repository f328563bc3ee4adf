"""The training loop of every stage: epochs of steps, saved after every epoch and when a signal asks.

A step is a function of the seed, the epoch, the step and the saved state, so a training that is stopped after any step
and resumed ends with the same bits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from ssltool.errors import Interrupted
from ssltool.files import Record
from ssltool.training import distributed
from ssltool.training.progress import Progress
from ssltool.training.signals import StopRequest
from ssltool.training.state import FLUSH_EVERY, LoopState

S = TypeVar("S", bound=LoopState)
B = TypeVar("B")


class TrainingLoop(Generic[S, B]):
    """Trains from wherever ``state`` stands to the end of the last of ``epochs`` epochs of ``steps`` steps each.

    A subclass defines what the steps of an epoch see (``batches``), what a step does (``step``), what the record of an
    epoch says (``finish_epoch``) and how the state is saved (``save``). ``path`` is the file that the training
    is resumed from, ``name`` precedes the epoch in the progress display.
    """

    def __init__(
        self, state: S, path: Path, *, epochs: int, steps: int, name: str = "", steps_per_line: int = 50
    ) -> None:
        self.state, self.path = state, path
        self.epochs, self.steps = epochs, steps
        self.name, self.steps_per_line = name, steps_per_line

    def batches(self, epoch: int, first_step: int) -> Iterator[B]:
        """The batches of an epoch, from a step on."""
        raise NotImplementedError

    def step(self, batch: B) -> Sequence[Tensor]:
        """Trains on a batch and returns the numbers that ``state`` records of the step."""
        raise NotImplementedError

    def finish_epoch(self) -> Record:
        """Ends the epoch in ``state`` and returns the epoch's record.

        Raises:
            SSLToolError: if training on would be useless.
        """
        raise NotImplementedError

    def save(self) -> None:
        """Writes ``path``, at the end of an epoch, where ``state.epoch_step`` is 0, or within one."""
        raise NotImplementedError

    def images_in(self, batch: B) -> int:
        """The images in a batch, over all ranks."""
        raise NotImplementedError

    def start_epoch(self) -> None:
        """Called before the batches of an epoch, or of the rest of one that was stopped."""

    def must_save(self) -> bool:
        """Whether to save after a step within an epoch although no signal came."""
        return False

    def is_done(self) -> bool:
        """Whether the last epoch is done, or no other is needed."""
        return self.state.epoch >= self.epochs

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """The display of the epoch's progress."""
        state, number = self.state, f"epoch {self.state.epoch + 1}/{self.epochs}"
        shown = Progress(
            f"{self.name} {number}".strip(),
            self.steps,
            done=state.epoch_step,
            every=self.steps_per_line,
            visible=distributed.is_main(),
        )
        with contextlib.closing(shown):
            yield shown

    def run(self, stop: StopRequest, log: Callable[[Record], None]) -> list[Record]:
        """Trains to the end, handing each epoch's record to ``log``; returns all records, of earlier epochs too.

        Raises:
            SSLToolError: for a loss that is not finite, or what the subclass raises.
            Interrupted: after a signal on any rank, with the state saved.
        """
        state = self.state
        while not self.is_done():
            self._train_epoch(stop)
            record = self.finish_epoch()
            state.history.append(record)
            self.save()
            log(record)
            signal = distributed.all_reduce_max(stop.number)
            if signal and state.epoch < self.epochs:
                raise Interrupted(signal, str(self.path))
        return state.history

    def _train_epoch(self, stop: StopRequest) -> None:
        state = self.state
        with self.progress() as progress:
            self.start_epoch()
            for batch in self.batches(state.epoch, state.epoch_step):
                state.record_step(*self.step(batch))
                if state.epoch_step % FLUSH_EVERY == 0:
                    state.flush()
                progress.update(self.images_in(batch), state.status())
                self._save_within_epoch(distributed.all_reduce_max(stop.number))

    def _save_within_epoch(self, signal: int) -> None:
        if self.state.epoch_step == self.steps:
            return  # the end of the epoch saves anyway
        if signal or self.must_save():
            self.save()
        if signal:
            raise Interrupted(signal, str(self.path))
