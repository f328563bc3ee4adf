"""``progress.json``: written while a run trains, with its place in the epoch, and gone afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers import same_run
from ssltool.errors import Interrupted, SSLToolError
from ssltool.runs import progress_file
from ssltool.runs.progress_file import ProgressFile
from ssltool.stages.pretrain import run as pretrain
from ssltool.training.progress import Progress
from tiny_methods import tiny_config


@pytest.fixture
def seen(monkeypatch):
    """What the file says after each step."""
    found: list[dict] = []
    write = ProgressFile.write

    def writing(file, *values):
        write(file, *values)
        if file.path.exists():
            found.append(json.loads(file.path.read_text()))

    monkeypatch.setattr(ProgressFile, "write", writing)
    return found


def test_each_step_is_told_and_the_run_is_the_same_and_leaves_no_file(tmp_path, trained, seen, monkeypatch):
    quiet = pretrain(tiny_config("simsiam", tmp_path / "quiet", trained, epochs=2, steps_per_epoch=2))
    assert seen == []  # it took less than EVERY seconds
    monkeypatch.setattr(progress_file, "EVERY", 0.0)
    told = pretrain(tiny_config("simsiam", tmp_path / "told", trained, epochs=2, steps_per_epoch=2))
    assert [(one["epoch"], one["epoch_step"], one["steps"]) for one in seen] == [
        (0, 1, 2),
        (0, 2, 2),
        (1, 1, 2),
        (1, 2, 2),
    ]
    assert all(one["images_per_second"] > 0 for one in seen)
    assert seen[0]["seconds_left"] > seen[-1]["seconds_left"] == 0
    assert same_run(quiet, told)
    assert not (Path(told) / "progress.json").exists()


def test_an_interrupted_run_leaves_no_file_and_that_of_a_killed_one_is_removed(
    tmp_path, trained, interrupt_at, monkeypatch
):
    monkeypatch.setattr(progress_file, "EVERY", 0.0)
    config = tiny_config("simsiam", tmp_path / "run", trained, epochs=1, steps_per_epoch=2, resume="auto")
    interrupt_at(0)
    with pytest.raises(Interrupted):
        pretrain(config)
    left = tmp_path / "run" / "progress.json"
    assert not left.exists()
    left.write_text("of a process that was killed")
    pretrain(config)
    assert not left.exists()


def test_a_folder_that_is_no_longer_the_runs_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_file, "EVERY", 0.0)

    def lost() -> None:
        raise SSLToolError("the lock is lost")

    file = ProgressFile(tmp_path, lost)
    file.write(Progress("", 1, visible=False), 0, None)
    assert not file.path.exists()
    file.path.write_text("of another run")
    file.remove()
    assert file.path.exists()
