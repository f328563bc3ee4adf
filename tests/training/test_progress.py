"""Progress: a bar if stderr is a terminal, plain lines otherwise."""

from __future__ import annotations

import os
import re
import sys

from ssltool.training.progress import Progress, stdout_to_stderr


def steps(progress: Progress, count: int, text: str = "") -> None:
    for _ in range(count):
        progress.update(32, text)
    progress.close()


def test_plain_lines_are_printed_every_n_steps_and_at_the_end(capsys):
    steps(Progress("epoch 1/2", 7, every=3), 7)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.findall(r"step (\d)/7", captured.err) == ["3", "6", "7"]


def test_line_holds_title_text_rate_and_time_left(capsys):
    steps(Progress("epoch 1/2", 1), 1, "loss -0.5")
    assert re.fullmatch(r"epoch 1/2 step 1/1 loss -0.5 [\d,]+ images/s, 0 s left\n", capsys.readouterr().err)


def test_resumed_epoch_continues_its_step_count(capsys):
    steps(Progress("epoch", 6, done=4, every=1), 2)
    assert re.findall(r"step (\d)/6", capsys.readouterr().err) == ["5", "6"]


def test_rate_counts_the_steps_of_this_process_only(capsys, monkeypatch):
    clock = iter([0.0, 2.0])
    monkeypatch.setattr("ssltool.training.progress.time.perf_counter", lambda: next(clock))
    progress = Progress("epoch", 10, done=8, every=1)
    progress.update(64)
    assert "32 images/s, 2 s left" in capsys.readouterr().err


def test_time_left_is_that_of_the_run(capsys, monkeypatch):
    clock = iter([0.0, 60.0])
    monkeypatch.setattr("ssltool.training.progress.time.perf_counter", lambda: next(clock))
    progress = Progress("epoch 1/5", 10, done=8, later=40, every=1)
    progress.update(64)
    assert ", 41 min left" in capsys.readouterr().err  # 1 step of this epoch and 40 of the others, of a minute each


def test_invisible_progress_prints_nothing(capsys):
    steps(Progress("epoch", 2, every=1, visible=False), 2)
    assert capsys.readouterr() == ("", "")


def test_terminal_gets_a_bar_and_no_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    progress = Progress("epoch 1/2", 2, every=1)
    steps(progress, 2, "loss -0.5")
    captured = capsys.readouterr()
    assert captured.out == "" and "epoch 1/2" in captured.err and "\r" in captured.err
    assert "step 2/2" not in captured.err
    assert re.search(r"2/2, loss -0.5 [\d,]+ images/s, 0 s left", str(progress._bar))


def test_what_a_library_prints_to_stdout_is_on_stderr_within_the_block_only(capfd):
    os.write(1, b"before,")
    with stdout_to_stderr():
        os.write(1, b"within")
    os.write(1, b"after")
    assert capfd.readouterr() == ("before,after", "within")
