"""Stopping a run by a signal: the state is saved, the exit code is 128 plus the signal, and the run can be resumed."""

from __future__ import annotations

import os
import signal
import time

import pytest
from fork_server import running

from helpers import TINY, records, slow_but
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.training.signals import SIGNALS, StopRequest


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_is_recorded(number):
    with StopRequest() as stop:
        assert stop.number == 0
        os.kill(os.getpid(), number)
        assert stop.number == number


@pytest.mark.parametrize("number", SIGNALS)
def test_previous_handler_is_restored(number):
    before = signal.getsignal(number)
    with StopRequest():
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before


def test_handlers_are_restored_after_an_error():
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError, match="broken"), StopRequest():
        raise ValueError("broken")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_second_sigint_raises_keyboard_interrupt():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", slow_but([signal.SIGTERM], SIGNALS))
def test_stopped_process_saves_exits_with_128_plus_the_signal_and_resumes(
    ssltool, server, tmp_path, write_images, number
):
    """The signal goes to the whole process group, as Ctrl-C and batch systems send it, workers included."""
    write_images(tmp_path / "images" / "a", 16, size=(24, 16))
    write_images(tmp_path / "images" / "b", 16, size=(18, 30))
    run = tmp_path / "run"
    schedule = ["--epochs", 3, "--steps-per-epoch", 20, "-b", 8, "--device", "cpu", "-p", 1, "-j", 1, "-o", run]
    line = list(map(str, ["pretrain", tmp_path / "images", *TINY, *schedule, "--resume", "auto"]))
    with running(server, "ssltool", *line) as (command, stdout, stderr):
        assert any(text.startswith("epoch 2/3 step 1/") for text in stderr)
        os.killpg(command.pid, number)
        start = time.monotonic()
        rest, out = stderr.read(), stdout.read()
        assert (command.wait(), out) == (128 + number, ""), rest
        assert time.monotonic() - start < 10
    assert rest.splitlines()[-1] == f"stopped by signal {int(number)}; saved {run / 'checkpoint.pt'}"
    assert 20 <= Checkpoint.load(run / "checkpoint.pt").step < 60
    assert ssltool(*line).code == 0
    assert Checkpoint.load(run / "checkpoint.pt").step == 60
    assert [record["epoch"] for record in records(run)] == [0, 1, 2]
