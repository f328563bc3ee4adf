"""Run folders: their names, whom they belong to, and what is in them at every moment."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import TINY
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.config import PretrainConfig
from ssltool.errors import SSLToolError
from ssltool.files.reading import file_hash
from ssltool.runs.folder import RunFolder
from ssltool.runs.lock import NAME
from ssltool.runs.run_paths import run_path

SHORT = [*TINY, "--epochs", "1", "--steps-per-epoch", "1", "-b", "16", "--device", "cpu"]


EMPTY = {"epochs": [], "epoch_step": 0, "sums": {}}


def checkpoint(epoch: int) -> Checkpoint:
    return Checkpoint("simsiam", "resnet18", epoch, 3 * epoch, {}, {"w": torch.ones(2)}, {}, None, EMPTY)


@pytest.fixture
def folder(tmp_path):
    """A claimed run folder."""
    made = RunFolder(tmp_path / "run")
    made.claim({"seed": 1})
    return made


def test_folder_is_named_by_experiment_and_four_digits():
    assert run_path(PretrainConfig(exp_name="rn18", exp_id=7), "made") == Path("logs/rn18_0007")
    assert run_path(PretrainConfig(), "simsiam-resnet18-iid") == Path("logs/simsiam-resnet18-iid_0000")


def test_out_names_the_folder_itself():
    assert run_path(PretrainConfig(out="here"), "made") == Path("here")


def test_run_without_a_name_lands_in_logs(ssltool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ran = ssltool("pretrain", *SHORT, "--exp_id", 3)
    assert ran.out.startswith("logs/simsiam-resnet18_w8-iid-") and ran.out.endswith("_0003\n")
    assert (tmp_path / ran.out.strip() / "checkpoint_0000.pt").exists()


def test_folder_with_a_run_is_refused_and_not_changed(ssltool, tmp_path, trained):
    before = {path.name: file_hash(path) for path in trained.iterdir()}
    ran = ssltool("pretrain", *SHORT, "-o", trained)
    assert ran.code == 1 and ran.err.startswith(f"error: {trained} ") and ran.err.count("\n") == 1
    assert "--resume auto" in ran.err and "--overwrite" in ran.err
    assert {path.name: file_hash(path) for path in trained.iterdir()} == before


def test_resuming_from_another_folder_does_not_allow_a_folder_with_a_run(folder, tmp_path):
    with pytest.raises(SSLToolError, match="--overwrite"):
        folder.refuse_if_taken(overwrite=False, resumed_from=tmp_path / "other" / "checkpoint.pt")
    folder.refuse_if_taken(overwrite=False, resumed_from=folder.path / "checkpoint_0001.pt")


def test_folder_with_foreign_files_is_free(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    RunFolder(tmp_path).refuse_if_taken(overwrite=False)


def test_file_instead_of_a_folder_is_refused(ssltool, tmp_path):
    (tmp_path / "run").write_text("mine")
    ran = ssltool("pretrain", *SHORT, "-o", tmp_path / "run", "--overwrite")
    assert ran.code == 1 and str(tmp_path / "run") in ran.err and "--out" in ran.err
    assert (tmp_path / "run").read_text() == "mine"


def test_overwrite_replaces_the_run_and_removes_its_checkpoints_but_no_foreign_file(ssltool, tmp_path):
    run = tmp_path / "run"
    assert ssltool("pretrain", *SHORT, "--epochs", 3, "--save-every", 1, "--strategy", "last", "-o", run).code == 0
    (run / "notes.txt").write_text("mine")
    assert ssltool("pretrain", *SHORT, "--overwrite", "--seed", 4, "-o", run).code == 0
    names = ["checkpoint.pt", "checkpoint_0000.pt", "config.json", "images.jsonl", "metrics.jsonl", "notes.txt"]
    assert sorted(path.name for path in run.iterdir()) == names
    assert json.loads((run / "config.json").read_text())["seed"] == 4
    assert Checkpoint.load(run / "checkpoint.pt").config["seed"] == 4
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 1


def test_overwrite_that_is_refused_for_another_reason_removes_nothing(ssltool, trained):
    before = sorted(path.name for path in trained.iterdir())
    assert ssltool("pretrain", *SHORT, "--overwrite", "-b", 9000, "-o", trained).code == 1
    assert sorted(path.name for path in trained.iterdir()) == before


def test_newest_is_the_last_saved_checkpoint(folder):
    folder.save(checkpoint(1), keep_epoch=0)
    folder.save(checkpoint(2))
    assert Checkpoint.load(folder.newest).epoch == 2
    assert Checkpoint.load(folder.path / "checkpoint_0000.pt").epoch == 1
    folder.save(checkpoint(3), keep_epoch=2)
    assert Checkpoint.load(folder.newest).epoch == Checkpoint.load(folder.path / "checkpoint_0002.pt").epoch == 3


def test_file_system_without_hard_links_gets_a_copy(folder, monkeypatch):
    def refuse(*args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    folder.save(checkpoint(1), keep_epoch=0)
    assert file_hash(folder.newest) == file_hash(folder.path / "checkpoint_0000.pt")
    assert not list(folder.path.glob(".*"))


def test_newest_checkpoint_may_be_a_link(folder, tmp_path):
    folder.newest.symlink_to("../elsewhere.pt")
    folder.save(checkpoint(1), keep_epoch=0)
    folder.save(checkpoint(2), keep_epoch=1)
    assert folder.newest.is_symlink()
    assert Checkpoint.load(tmp_path / "elsewhere.pt").epoch == 2


def test_failed_save_keeps_the_newest_checkpoint(folder, monkeypatch):
    folder.save(checkpoint(1))

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(SSLToolError, match="No space left on device"):
        folder.save(checkpoint(2), keep_epoch=1)
    assert Checkpoint.load(folder.newest).epoch == 1
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.pt", "config.json", "metrics.jsonl"]


def test_claim_writes_the_history_of_the_checkpoint(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.claim({}, [{"epoch": 0, "loss": -0.5}, {"epoch": 1, "loss": -0.6}])
    folder.log({"epoch": 2, "loss": -0.7})
    assert [record["epoch"] for record in folder.read_metrics()] == [0, 1, 2]


def test_claim_on_resume_keeps_the_timings_and_drops_later_epochs(folder):
    for epoch in range(3):
        folder.log({"epoch": epoch, "loss": -0.5, "seconds": 1.5})
    folder.claim({}, [{"epoch": 0, "loss": -0.5}, {"epoch": 1, "loss": -0.5}], resumed_from=folder.newest)
    assert folder.read_metrics() == [{"epoch": epoch, "loss": -0.5, "seconds": 1.5} for epoch in (0, 1)]


@pytest.mark.parametrize("linked", [False, True])
def test_a_resumed_run_that_fails_before_its_next_result_leaves_its_description_as_it_was(folder, tmp_path, linked):
    folder.write(checkpoint(1), folder.newest)
    folder.log({"epoch": 0, "loss": -0.5})
    if linked:
        folder.config.rename(tmp_path / "config.json")
        folder.config.symlink_to(tmp_path / "config.json")
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}

    def resume(*, result: bool) -> None:
        again = RunFolder(folder.path)
        with again.locked():
            again.claim({"seed": 2}, [], resumed_from=folder.newest)
            again.save_order(np.arange(3))
            if result:
                again.log({"epoch": 1, "loss": -0.6})
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        resume(result=False)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    assert folder.config.is_symlink() == linked
    with pytest.raises(ValueError, match=r"^$"):
        resume(result=True)
    assert json.loads(folder.config.read_text()) == {"seed": 2}
    assert {path.name for path in folder.path.iterdir()} == {*before, "order.npy"}


def test_overwriting_writes_through_the_links_of_the_earlier_run(folder, tmp_path):
    folder.newest.symlink_to("../elsewhere.pt")
    folder.write(checkpoint(1), folder.newest)
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}

    def replace(*, result: bool) -> None:
        with folder.locked():
            folder.claim({"seed": 2})
            assert not folder.newest.exists()
            if result:
                folder.write(checkpoint(2), folder.newest)
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        replace(result=False)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    assert folder.newest.is_symlink()
    with pytest.raises(ValueError, match=r"^$"):
        replace(result=True)
    assert folder.newest.is_symlink() and Checkpoint.load(tmp_path / "elsewhere.pt").epoch == 2


@pytest.mark.parametrize("again", [{"overwrite": True}, {"overwrite": False, "resume": "auto"}])
def test_a_killed_run_that_replaced_another_does_not_lose_it_when_it_is_started_again(folder, tmp_path, again):
    folder.write(checkpoint(1), folder.newest)
    folder.log({"epoch": 0, "loss": -0.5})
    before = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    left = RunFolder(tmp_path / "left")

    def replace(run: RunFolder, *, result: bool) -> None:
        with run.locked():
            run.refuse_if_taken(**({"overwrite": True} if run is not left else again))
            run.claim({"seed": 3})
            if result:
                run.write(checkpoint(4), run.newest)
            if run is not left:
                ignore = shutil.ignore_patterns(NAME)
                shutil.copytree(folder.path, left.path, ignore=ignore)  # what a killed process leaves
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        replace(RunFolder(folder.path), result=False)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == before
    with pytest.raises(ValueError, match=r"^$"):
        replace(left, result=False)
    assert {path.name: path.read_bytes() for path in left.path.iterdir()} == before
    again = {"overwrite": True}
    with pytest.raises(ValueError, match=r"^$"):
        replace(left, result=True)
    assert {path.name for path in left.path.iterdir()} == before.keys()
    assert Checkpoint.load(left.newest).epoch == 4


def test_order_is_saved_unchanged(folder):
    folder.save_order(np.array([2, 0, 1]))
    assert np.load(folder.path / "order.npy").tolist() == [2, 0, 1]


def test_metrics_that_cannot_be_written_are_an_error_for_the_user(folder):
    folder.metrics.unlink()
    folder.metrics.mkdir()
    with pytest.raises(SSLToolError, match=r"metrics\.jsonl"):
        folder.log({"epoch": 0})


def test_results_of_another_stage_are_never_replaced(ssltool, trained):
    before = {path.name: file_hash(path) for path in trained.iterdir()}
    ran = ssltool("lincls", "--pretrained", trained / "checkpoint.pt", "-o", trained, "--overwrite")
    assert ran.code == 1 and f"{trained} " in ran.err and "pretrain" in ran.err and "--out" in ran.err
    assert {path.name: file_hash(path) for path in trained.iterdir()} == before


def test_temporary_files_of_a_killed_save_are_removed_on_resume(folder):
    left = folder.path / ".checkpoint.pt.123.tmp"
    left.write_bytes(b"half")
    folder.claim({}, resumed_from=folder.newest)
    assert not left.exists()
