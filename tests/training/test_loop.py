"""The training loop: when it saves, when it stops, and that it goes on where it stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ssltool.errors import Interrupted
from ssltool.settings import Record
from ssltool.training.loop import TrainingLoop
from ssltool.training.signals import StopRequest
from ssltool.training.state import LoopState

EPOCHS, STEPS = 3, 4


class Counting(TrainingLoop[LoopState, int]):
    """A loop whose batches are numbers. It notes all that happens, and a signal comes in the step ``stop_in``."""

    def __init__(self, state: LoopState | None = None, stop_in: tuple[int, int] | None = None) -> None:
        super().__init__(state or LoopState(), Path("x.pt"), epochs=EPOCHS, steps=STEPS)
        self.stop, self.stop_in = StopRequest(), stop_in
        self.events: list[object] = []

    def start_epoch(self) -> None:
        self.events.append("start")

    def batches(self, epoch: int, first_step: int) -> Iterator[int]:
        return iter(range(first_step, STEPS))

    def step(self, batch: int) -> tuple[Tensor, ...]:
        if (self.state.epoch, batch) == self.stop_in:
            self.stop.number = signal.SIGUSR1
        self.events.append((self.state.epoch, batch))
        return (torch.tensor(float(batch)),)

    def images_in(self, batch: int) -> int:
        return 1

    def finish_epoch(self) -> Record:
        epoch = self.state.epoch
        self.state.finish_epoch()
        return {"epoch": epoch}

    def save(self) -> None:
        self.events.append("save")

    def train(self) -> list[Record]:
        return self.run(self.stop, lambda record: self.events.append(f"log {record['epoch']}"))


def epoch(number: int, first: int = 0) -> list[object]:
    """What happens in an epoch from a step on."""
    return ["start", *((number, step) for step in range(first, STEPS)), "save", f"log {number}"]


def test_every_epoch_is_started_trained_saved_and_then_logged():
    loop = Counting()
    assert loop.train() == [{"epoch": number} for number in range(EPOCHS)]
    assert loop.events == epoch(0) + epoch(1) + epoch(2)


@pytest.mark.parametrize("step", range(STEPS - 1))
def test_a_signal_within_an_epoch_saves_after_its_step_and_stops_the_loop(step):
    loop = Counting(stop_in=(1, step))
    with pytest.raises(Interrupted) as stopped:
        loop.train()
    assert stopped.value.number == signal.SIGUSR1
    assert loop.events == [*epoch(0), "start", *((1, number) for number in range(step + 1)), "save"]
    assert (loop.state.epoch, loop.state.epoch_step) == (1, step + 1)


def test_a_signal_in_the_last_step_of_an_epoch_saves_once_and_logs_the_epoch():
    loop = Counting(stop_in=(1, STEPS - 1))
    with pytest.raises(Interrupted):
        loop.train()
    assert loop.events == epoch(0) + epoch(1)


def test_a_signal_in_the_last_step_of_all_comes_too_late():
    assert len(Counting(stop_in=(EPOCHS - 1, STEPS - 1)).train()) == EPOCHS


@pytest.mark.parametrize("step", range(STEPS))
def test_a_stopped_loop_resumes_at_the_next_step_with_all_records(step):
    stopped = Counting(stop_in=(0, step))
    with pytest.raises(Interrupted):
        stopped.train()
    resumed = Counting(stopped.state)
    records = resumed.train()
    whole = Counting()
    assert records == whole.train()
    trained = [event for event in stopped.events + resumed.events if isinstance(event, tuple)]
    assert trained == [event for event in whole.events if isinstance(event, tuple)]


def test_a_stage_may_save_within_an_epoch_and_the_end_of_the_epoch_saves_once(monkeypatch):
    monkeypatch.setattr(Counting, "must_save", lambda loop: loop.state.epoch_step % 2 == 0)
    loop = Counting(LoopState(epoch=EPOCHS - 1))
    loop.train()
    last = EPOCHS - 1
    assert loop.events == ["start", (last, 0), (last, 1), "save", (last, 2), (last, 3), "save", f"log {last}"]


def test_a_stage_may_end_the_loop_early(monkeypatch):
    monkeypatch.setattr(Counting, "is_done", lambda loop: loop.state.epoch == 1)
    assert Counting().train() == [{"epoch": 0}]


def test_a_loop_that_is_done_does_nothing():
    loop = Counting(LoopState(epoch=EPOCHS))
    assert loop.train() == [] and loop.events == []
