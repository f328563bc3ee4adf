"""Every stage that writes a run folder: one process at a time, nothing left of a failure, and never a second folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from helpers import TINY, error_message, records
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.reprs.representations import Representations
from ssltool.runs.folder import RunFolder
from ssltool.runs.lock import NAME
from ssltool.training.loop import TrainingLoop
from ssltool.training.optimizers import LARGEST

STAGES = ["pretrain", "lincls", "finetune", "scan"]
TOO_HIGH = 1e4 * LARGEST
"""A learning rate with which every training diverges at once."""


@pytest.fixture
def rows(tmp_path) -> list[Path]:
    """Two files of separable representations."""
    paths = [tmp_path / "train.pt", tmp_path / "val.pt"]
    for split, path in zip(("train", "val"), paths, strict=True):
        labels = torch.arange(24) % 3
        made = torch.randn(24, 4) + 4 * torch.nn.functional.one_hot(labels, 4)
        Representations(made, labels, torch.arange(24), {"dataset": "a", "split": split}).save(path)
    return paths


@pytest.fixture
def command(tmp_path, trained, shades, rows) -> Callable[..., list[object]]:
    """The command line of a short run of each stage in ``tmp_path/run``: ``command("scan", "--resume", "auto")``."""
    network = [shades, "--pretrained", trained / "checkpoint.pt", "-j", 0, "--device", "cpu"]
    lines = {
        "pretrain": [*TINY, "--epochs", 2, "--steps-per-epoch", 2, "-b", 16, "--device", "cpu", "--monitor-every", 0],
        "lincls": ["--reprs", *rows, "--epochs", 2, "-b", 8],
        "finetune": [*network, "--epochs", 2, "-b", 24],
        "scan": [*network, "--neighbours", 5, "--epochs", 2, "-b", 24, "--selflabel-epochs", 2, "--threshold", 0.1],
    }

    def make(stage: str, *more: object) -> list[object]:
        return [stage, *lines[stage], "-o", tmp_path / "run", *more]

    return make


def contents(folder: Path) -> dict[str, str]:
    return {path.name: file_hash(path) for path in folder.iterdir() if path.name != NAME}


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_in_use_is_neither_started_nor_resumed_nor_replaced(ssltool, command, tmp_path, stage):
    assert ssltool(*command(stage)).code == 0
    before = contents(tmp_path / "run")
    with RunFolder(tmp_path / "run", stage).locked():
        for more in ([], ["--resume", "auto"], ["--overwrite"]):
            ran = ssltool(*command(stage, *more))
            assert ran.code == 1 and ran.out == ""
            assert f"process {os.getpid()} on " in ran.err.splitlines()[-1]
            assert ran.err.splitlines()[-1].startswith(f"error: {tmp_path / 'run'} is in use ")
    assert contents(tmp_path / "run") == before
    assert ssltool(*command(stage, "--resume", "auto")).code == 0
    assert not (tmp_path / "run" / NAME).exists()


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_left_of_a_run_that_fails_before_its_first_result(ssltool, command, tmp_path, stage, monkeypatch):
    monkeypatch.setattr("ssltool.stages.scan.scan.mine", _fail)  # the first result of scan is not trained
    more = [] if stage == "scan" else ["--lr", TOO_HIGH]
    ran = ssltool(*command(stage, *more, "-o", tmp_path / "new" / "run"))
    assert ran.code == 1 and ran.out == "" and ran.err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "new").exists()


def _fail(*args: object) -> None:
    raise SSLToolError("it failed")


@pytest.mark.parametrize("stage", ["pretrain", "lincls", "finetune"])
def test_a_run_is_restored_if_the_one_that_replaces_it_has_no_result(ssltool, command, tmp_path, stage):
    assert ssltool(*command(stage)).code == 0
    before = contents(tmp_path / "run")
    assert ssltool(*command(stage, "--overwrite", "--lr", TOO_HIGH)).code == 1
    assert contents(tmp_path / "run") == before
    assert ssltool(*command(stage, "--overwrite", "--seed", 5)).code == 0
    assert contents(tmp_path / "run").keys() >= {"config.json"} and not (tmp_path / "run" / ".replaced").exists()
    assert contents(tmp_path / "run") != before


def test_a_probe_of_rows_that_overflow_leaves_nothing(ssltool, tmp_path, rows):
    for path in rows:
        made = Representations.load(path)
        made.representations = made.representations.sign() * 1e38
        made.save(path)
    ran = ssltool("lincls", "--reprs", *rows, "-o", tmp_path / "run")
    assert ran.code == 1 and ran.out == "" and ran.err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def at_step(monkeypatch):
    """Calls a function before a step of any training: ``at_step(3, function)`` before the third."""
    train_epoch, count = TrainingLoop._train_epoch, [0]

    def arm(number: int, act: Callable[[], object]) -> None:
        def training(loop, stop):
            step = loop.step

            def stepping(batch):
                count[0] += 1
                if count[0] == number:
                    loop.background.wait()  # a save that began before
                    act()
                return step(batch)

            loop.step = stepping
            try:
                train_epoch(loop, stop)
            finally:
                del loop.step

        monkeypatch.setattr(TrainingLoop, "_train_epoch", training)

    return arm


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("then", ["nothing", "another folder", "a file"])
def test_a_folder_that_is_moved_while_it_trains_stops_the_run(ssltool, command, tmp_path, at_step, stage, then):
    run, away = tmp_path / "run", tmp_path / "away"

    def move() -> None:
        run.rename(away)
        if then == "another folder":
            run.mkdir()
        elif then == "a file":
            run.write_text("mine")

    at_step(1, move)
    ran = ssltool(*command(stage))
    assert ran.code == 1 and ran.out == ""
    assert str(run) in ran.err.splitlines()[-1] and "moved" in ran.err.splitlines()[-1]
    assert not list(away.glob(".*"))
    if then == "nothing":
        assert not run.exists()
    elif then == "another folder":
        run.rmdir()  # which fails if it is not empty
    else:
        assert run.read_text() == "mine"
        run.unlink()
    away.rename(run)
    assert ssltool(*command(stage, "--resume", "auto")).code == 0


@pytest.mark.parametrize("stage", STAGES)
def test_a_process_that_lost_its_lock_writes_nothing_more(ssltool, command, tmp_path, at_step, stage):
    run, before = tmp_path / "run", {}

    def lose() -> None:
        (run / NAME).unlink()
        before.update(contents(run))

    at_step(3, lose)
    ran = ssltool(*command(stage))
    assert ran.code == 1 and ran.out == ""
    assert str(run) in ran.err.splitlines()[-1] and "lock" in ran.err.splitlines()[-1]
    assert contents(run) == before


def test_a_full_disk_in_the_middle_keeps_the_checkpoint_and_the_run_resumes(ssltool, command, tmp_path, at_step):
    run, fsync = tmp_path / "run", os.fsync

    def refuse(number: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        at_step(3, lambda: patch.setattr(os, "fsync", refuse))
        ran = ssltool(*command("pretrain"))
    assert ran.code == 1 and "No space left" in ran.err.splitlines()[-1]
    assert os.fsync is fsync and Checkpoint.load(run / "checkpoint.pt").epoch == 1
    assert ssltool(*command("pretrain", "--resume", "auto")).code == 0
    assert [record["epoch"] for record in records(run)] == [0, 1]


def test_a_refused_run_creates_no_folder(ssltool, command, tmp_path):
    error_message(ssltool(*command("pretrain", "-b", 10**6)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_the_run_folder_may_be_a_link_to_a_folder_that_does_not_exist_yet(ssltool, command, tmp_path, stage):
    (tmp_path / "run").symlink_to("disk/run")
    assert ssltool(*command(stage)).code == 0
    assert (tmp_path / "run").is_symlink() and (tmp_path / "disk" / "run" / "config.json").is_file()
