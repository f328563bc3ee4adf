"""Saving beside the training: the same bytes, in order, and no error is lost."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
import torch

from ssltool.errors import SSLToolError
from ssltool.runs.folder import RunFolder
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.pretrain.pretrain import Pretraining
from ssltool.training.background import Background, copied


def written(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def test_a_copy_is_written_as_the_same_bytes_and_does_not_change_with_the_state():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(3, 4, 3))
    network.to(memory_format=torch.channels_last)
    network[2].weight = network[0].weight
    rows = torch.randn(6, 4)
    state = {"weights": network.state_dict(), "parts": [rows[:2], rows.T], "epoch": 1, "history": [{"loss": 0.5}]}
    before, copy = written(state), copied(state)
    assert written(copy) == before
    rows.zero_()
    state["history"].append({"loss": 0.25})
    with torch.no_grad():
        network[0].weight.add_(1)
    assert written(copy) == before != written(state)


def test_tasks_run_in_order_and_none_after_one_that_fails():
    done = []

    def fail() -> None:
        raise SSLToolError("the disk is full")

    background = Background()
    for task in (lambda: done.append(1), lambda: done.append(2), fail, lambda: done.append(3)):
        background.submit(task)
    with pytest.raises(SSLToolError, match="full"):
        background.__exit__(None, None, None)
    assert done == [1, 2] and background.has_failed()


def test_the_error_of_the_training_is_raised_and_that_of_the_save_is_printed(capsys):
    def fail() -> None:
        raise SSLToolError("the disk is full")

    background = Background()
    background.submit(fail)
    background.__exit__(KeyError, KeyError(), None)
    assert "the disk is full" in capsys.readouterr().err


def test_files_saved_in_the_background_are_those_saved_at_once(tiny, monkeypatch):
    run = pretrain(tiny(save_steps=1, save_every=1))
    files = {path.name: path.read_bytes() for path in run.glob("*.pt")}
    monkeypatch.setattr(Background, "submit", lambda self, task: task())
    pretrain(tiny(save_steps=1, save_every=1, overwrite=True))
    assert {path.name: path.read_bytes() for path in run.glob("*.pt")} == files


def test_training_goes_on_while_a_checkpoint_is_written(tiny, monkeypatch):
    """The first save ends only after the next step has begun."""
    began, save, step = threading.Event(), RunFolder.save, Pretraining.step

    def waiting(folder: RunFolder, *args: Any, **more: Any) -> Any:
        assert began.wait(60)
        return save(folder, *args, **more)

    def stepping(run: Pretraining, batch: Any) -> Any:
        if run.state.step == 1:
            began.set()
        return step(run, batch)

    monkeypatch.setattr(RunFolder, "save", waiting)
    monkeypatch.setattr(Pretraining, "step", stepping)
    assert (pretrain(tiny(epochs=1, save_steps=1, monitor_every=0)) / "checkpoint.pt").exists()


def test_a_save_that_fails_stops_the_run_within_a_step_and_keeps_the_last_checkpoint(tiny, monkeypatch, tmp_path):
    failed, save, step, steps = threading.Event(), RunFolder.save, Pretraining.step, []

    def failing(folder: RunFolder, checkpoint: Any, **more: Any) -> Any:
        if checkpoint.step == 2:
            failed.set()
            raise SSLToolError("cannot write: no space")
        return save(folder, checkpoint, **more)

    def stepping(run: Pretraining, batch: Any) -> Any:
        steps.append(run.state.step)
        assert run.state.step != 2 or failed.wait(60)
        return step(run, batch)

    monkeypatch.setattr(RunFolder, "save", failing)
    monkeypatch.setattr(Pretraining, "step", stepping)
    with pytest.raises(SSLToolError, match="no space"):
        pretrain(tiny(epochs=1, steps_per_epoch=9, save_steps=2, monitor_every=0))
    assert steps == [0, 1, 2]
    monkeypatch.undo()
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
