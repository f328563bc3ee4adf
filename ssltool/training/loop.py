"""The training loop of all stages: epochs of steps, saved after every epoch and on a signal.

A step is a function of the seed, the epoch, the step and the saved state, so a run that is stopped after any step
resumes to the same weights bit for bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from ssltool.errors import Interrupted
from ssltool.settings import Record
from ssltool.training import distributed
from ssltool.training.allocator import reuse_freed_memory
from ssltool.training.background import Background
from ssltool.training.progress import Progress
from ssltool.training.signals import StopRequest
from ssltool.training.state import FLUSH_EVERY, LoopState

S = TypeVar("S", bound=LoopState)
B = TypeVar("B")


FAILED = 1000
"""What a rank whose save has failed gives the others in place of the number of a signal."""


class TrainingLoop(Generic[S, B]):
    """Trains from ``state`` to the end of ``epochs`` epochs of ``steps`` steps each.

    A subclass defines the batches of an epoch (``batches``), a step (``step``), the record of an epoch
    (``finish_epoch``) and how the state is saved (``save``).

    Args:
        path: the file that a stopped run resumes from.
        name: the beginning of the progress display.
        steps_per_line: steps between lines of progress if the output is not a terminal.
    """

    def __init__(
        self, state: S, path: Path, *, epochs: int, steps: int, name: str = "", steps_per_line: int = 50
    ) -> None:
        self.state, self.path = state, path
        self.epochs, self.steps = epochs, steps
        self.name, self.steps_per_line = name, steps_per_line
        self.background = Background()

    def batches(self, epoch: int, first_step: int) -> Iterator[B]:
        """The batches of an epoch, starting at ``first_step``."""
        raise NotImplementedError

    def step(self, batch: B) -> Sequence[Tensor]:
        """Trains on a batch and returns the values that ``state`` records for the step."""
        raise NotImplementedError

    def finish_epoch(self) -> Record:
        """Ends the epoch in ``state`` and returns the epoch's record.

        Raises:
            SSLToolError: if training must stop.
        """
        raise NotImplementedError

    def save(self) -> None:
        """Writes ``path``, or has ``background`` write it; ``state.epoch_step`` is 0 at the end of an epoch."""
        raise NotImplementedError

    def images_in(self, batch: B) -> int:
        """The images in a batch, over all ranks."""
        raise NotImplementedError

    def start_epoch(self) -> None:
        """Called before the batches of an epoch, also of an epoch that is resumed."""

    def seed_step(self) -> None:
        """Called before each step: seeds the random numbers of the network, such as those of dropout."""

    def note_progress(self, progress: Progress) -> None:
        """Called after each step, with the progress of the epoch."""

    def must_save(self) -> bool:
        """Whether to save after a step within an epoch, without a signal."""
        return False

    def is_done(self) -> bool:
        """Whether training is complete."""
        return self.state.epoch >= self.epochs

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """The progress display of the epoch."""
        state, number = self.state, f"epoch {self.state.epoch + 1}/{self.epochs}"
        display = Progress(
            f"{self.name} {number}".strip(),
            self.steps,
            done=state.epoch_step,
            later=(self.epochs - state.epoch - 1) * self.steps,
            every=self.steps_per_line,
            visible=distributed.is_main(),
        )
        with contextlib.closing(display):
            yield display

    def run(self, stop: StopRequest, log: Callable[[Record], None]) -> list[Record]:
        """Trains to the end, and calls ``log`` with the record of each epoch.

        Returns:
            The records of all epochs, including those before a resumption.

        Raises:
            SSLToolError: if a loss is not finite, or if a method of the subclass raises it.
            Interrupted: after a signal on any rank; the state is saved.
        """
        reuse_freed_memory()
        with self.background:
            while not self.is_done():
                self._train_epoch(stop)
                record = self.finish_epoch()
                self.state.history.append(record)
                self.save()
                log(record)
                signal = self._signal(stop)
                if signal and self.state.epoch < self.epochs:
                    self._finish_saves()
                    raise Interrupted(signal, str(self.path))
            self._finish_saves()
        return self.state.history

    def _train_epoch(self, stop: StopRequest) -> None:
        state = self.state
        with self.progress() as progress:
            self.start_epoch()
            for batch in self.batches(state.epoch, state.epoch_step):
                self.seed_step()
                state.record_step(*self.step(batch))
                if state.epoch_step % FLUSH_EVERY == 0:
                    state.flush()
                progress.update(self.images_in(batch), state.status())
                self.note_progress(progress)
                self._save_within_epoch(self._signal(stop))

    def _signal(self, stop: StopRequest) -> int:
        """The number of a signal that a rank has received, or 0. Raises ``SSLToolError`` if a save has failed."""
        number = distributed.all_reduce_max(FAILED if self.background.has_failed() else stop.number)
        if number == FAILED:
            self._finish_saves()
        return number

    def _finish_saves(self) -> None:
        with distributed.raise_on_all_ranks():
            self.background.wait()

    def _save_within_epoch(self, signal: int) -> None:
        if self.state.epoch_step == self.steps:
            return  # run() saves at the end of the epoch
        if signal or self.must_save():
            self.save()
        if signal:
            self._finish_saves()
            raise Interrupted(signal, str(self.path))
