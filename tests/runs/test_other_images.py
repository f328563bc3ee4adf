"""Runs and unfinished files that would continue on other images, and runs on a part of them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import TINY, error_message
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.errors import SSLToolError
from ssltool.reprs.partial_file import PartialFile
from ssltool.reprs.representations import Representations
from ssltool.runs.history import read_runs, restore_setup
from ssltool.stages.pretrain import run as pretrain


@pytest.fixture
def folder(tmp_path, write_images):
    """An ImageNet-style folder of two classes."""
    for split, count in (("train", 10), ("val", 4)):
        for name in ("cat", "dog"):
            write_images(tmp_path / "images" / split / name, count, seed=count)
    return tmp_path / "images"


@pytest.fixture
def replace(write_images, tmp_path):
    """Replaces an image file by another image."""
    return lambda path: os.replace(write_images(tmp_path / "other", 1, seed=7)[0], path)


def on(folder: Path, **changes):
    return {"data": str(folder), "workers": 0, "batch_size": 8, "steps_per_epoch": 1, "monitor_size": 8} | changes


# Runs


def test_a_run_does_not_continue_on_a_replaced_image(tiny, folder, replace):
    config = tiny(**on(folder))
    pretrain(config)
    longer = dataclasses.replace(config, resume="auto")
    assert pretrain(longer) == Path(config.out)
    replace(folder / "train" / "dog" / "007.png")
    with pytest.raises(SSLToolError, match=r"cannot resume .*dog/007\.png was replaced"):
        pretrain(longer)


def test_a_run_does_not_continue_on_a_renamed_image(tiny, folder):
    config = tiny(**on(folder))
    pretrain(config)
    (folder / "train" / "cat" / "000.png").rename(folder / "train" / "cat" / "0.png")
    with pytest.raises(SSLToolError, match=r"cat/000\.png was renamed to cat/0\.png"):
        pretrain(dataclasses.replace(config, resume="auto"))


def test_a_change_of_images_that_the_run_does_not_use_is_allowed(tiny, folder, replace, tmp_path):
    np.save(tmp_path / "some.npy", np.arange(8))
    config = tiny(**on(folder, idx_path=str(tmp_path / "some.npy")))
    pretrain(config)
    replace(folder / "train" / "dog" / "009.png")
    pretrain(dataclasses.replace(config, resume="auto"))
    replace(folder / "train" / "cat" / "000.png")
    with pytest.raises(SSLToolError, match=r"cat/000\.png was replaced"):
        pretrain(dataclasses.replace(config, resume="auto"))


def test_a_checkpoint_without_a_fingerprint_is_resumed_with_a_note(tiny, folder, capsys):
    config = tiny(**on(folder))
    run = pretrain(config)
    saved = Checkpoint.load(run / "checkpoint.pt")
    for key in ("fingerprint", "found"):
        saved.config.pop(key)
    saved.save(run / "checkpoint.pt")
    (run / "images.jsonl").unlink()
    capsys.readouterr()
    pretrain(dataclasses.replace(config, resume="auto"))
    assert "earlier version" in capsys.readouterr().err
    assert (run / "images.jsonl").is_file()


def test_plots_of_a_run_refuse_replaced_images(tiny, folder, replace):
    run = pretrain(tiny(**on(folder)))
    assert len(restore_setup(read_runs([str(run)])[0]).images) == 20
    replace(folder / "train" / "dog" / "007.png")
    with pytest.raises(SSLToolError, match=r"other images: dog/007\.png was replaced"):
        restore_setup(read_runs([str(run)])[0])


@pytest.mark.parametrize("strategy", ["iid", "current"])
@pytest.mark.parametrize("number", ["009", "010"], ids=["removed", "new"])
def test_an_image_that_is_new_or_removed_is_the_only_reason_that_is_named(tiny, folder, write_images, strategy, number):
    """Not the hashes that change with it, nor the length of the saved order."""
    config = tiny(**on(folder), strategy=strategy)
    run = pretrain(config)
    write_images(folder / "train" / "dog", 11, seed=10)
    changed = folder / "train" / "dog" / f"{number}.png"
    for path in {folder / "train" / "dog" / "010.png", changed} if number == "009" else ():
        path.unlink()
    for resume in (
        lambda: pretrain(dataclasses.replace(config, resume="auto")),
        lambda: restore_setup(read_runs([str(run)])[0]),
    ):
        with pytest.raises(SSLToolError, match=rf"dog/{number}\.png") as error:
            resume()
        assert not re.search("hash|order|number of", str(error.value))


@pytest.mark.parametrize("command", ["lincls", "finetune", "scan"])
def test_later_stages_do_not_continue_on_a_replaced_image(ssltool, trained, folder, replace, tmp_path, command):
    more = {"lincls": ["--epochs", 1], "finetune": ["--epochs", 1], "scan": ["--step", "mine", "--neighbours", 2]}
    flags = ["--pretrained", trained / "checkpoint.pt", "-j", 0, "--device", "cpu", "-o", tmp_path / "out"]
    ran = ssltool(command, folder, *flags, *more[command], "--json")
    assert ran.code == 0, ran.err
    found = ran.json["found"]
    assert found[0]["images"] == 20 and found[0]["layout"] == "imagenet"
    if command == "scan":
        more["scan"] = ["--step", "cluster", "--neighbours", 2, "--epochs", 1]
        assert ssltool(command, folder, *flags, "--step", "cluster", "--epochs", 1).code == 0
        more["scan"] = ["--step", "cluster", "--epochs", 1]
    assert ssltool(command, folder, *flags, *more[command], "--resume", "auto").code == 0
    replace(folder / "train" / "dog" / "007.png")
    ran = ssltool(command, folder, *flags, *more[command], "--resume", "auto")
    assert ran.code == 1 and "dog/007.png was replaced" in ran.err.splitlines()[-1]


# Unfinished files


@pytest.fixture
def save(ssltool, trained, folder):
    """Runs save-reprs on the folder in batches of 4."""
    fixed = ["--pretrained", trained / "checkpoint.pt", "--device", "cpu", "-j", 0, "-b", 4]
    return lambda *flags: ssltool("save-reprs", folder, *fixed, *flags)


@pytest.fixture
def stopped(save, monkeypatch, tmp_path):
    """An unfinished file ``r.pt`` with two of five batches."""
    append, count = PartialFile.append, []

    def counting(self, rows):
        count.append(len(rows))
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "append", counting)
        assert save("-o", tmp_path / "r.pt").code == 143
    return tmp_path / "r.pt"


def test_rows_of_a_replaced_image_are_not_continued(save, stopped, folder, replace):
    replace(folder / "train" / "cat" / "001.png")
    ran = save("-o", stopped)
    assert ran.code == 1 and "cat/001.png was replaced" in ran.err.splitlines()[-1]
    assert not stopped.exists()
    (stopped.parent / ".r.pt.unfinished").unlink()
    assert save("-o", stopped).code == 0
    assert not list(stopped.parent.glob(".r.pt*"))


def test_rows_of_a_renamed_image_are_not_continued(save, stopped, folder):
    (folder / "train" / "cat" / "001.png").rename(folder / "train" / "cat" / "01.png")
    assert "cat/001.png was renamed to cat/01.png" in save("-o", stopped).err.splitlines()[-1]


def test_rows_continue_when_only_other_files_changed(save, stopped, folder):
    (folder / "train" / "notes.txt").write_text("new")
    ran = save("-o", stopped)
    assert ran.code == 0 and "continuing after 8 of 20 images" in ran.err


# What was found


def test_what_was_found_is_in_the_document_and_in_the_file(save, folder, tmp_path, write_images):
    write_images(folder / "train", 1)
    (folder / "train" / "cat" / ".hidden").write_text("")
    ran = save("-o", tmp_path / "r.pt", "--json", "--dataset-type", "imagenet", "--unlabelled", "dog")
    (file,) = ran.json["files"]
    assert file["found"] == Representations.load(tmp_path / "r.pt").meta["found"]
    counts = {key: file["found"][key] for key in ("layout", "split", "images", "classes", "unlabelled")}
    assert counts == {"layout": "imagenet", "split": "train", "images": 20, "classes": 1, "unlabelled": 10}
    assert file["found"]["skipped"] == {
        "hidden": {"count": 1, "first": ["cat/.hidden"]},
        "outside the class folders": {"count": 1, "first": ["000.png"]},
    }
    for name in ("cat/.hidden", "000.png"):
        assert name in ran.err


def test_pretrain_records_what_was_found(ssltool, folder, tmp_path):
    flags = [*TINY, "--epochs", 1, "-b", 8, "-j", 0, "--monitor-every", 0, "--device", "cpu"]
    ran = ssltool("pretrain", folder, *flags, "-o", tmp_path / "run", "--json")
    (found,) = ran.json["found"]
    assert (found["layout"], found["images"], found["classes"]) == ("imagenet", 20, 2)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["found"] == found
    ran = ssltool("pretrain", folder, "--config", tmp_path / "run", "-o", tmp_path / "again", "--device", "cpu")
    assert ran.code == 0, ran.err


# A part of the images


@pytest.fixture
def part(ssltool, folder, tmp_path):
    """The checkpoint of a run on some of the images."""
    np.save(tmp_path / "some.npy", [12, 3, 0, 19, 5, 6, 7, 8])
    flags = [*TINY, "--epochs", 1, "-b", 8, "-j", 0, "--monitor-every", 0, "--device", "cpu"]
    ran = ssltool("pretrain", folder, *flags, "--idx-path", tmp_path / "some.npy", "-o", tmp_path / "run")
    assert ran.code == 0, ran.err
    return tmp_path / "run" / "checkpoint.pt"


def index(path: Path) -> list[int]:
    return Representations.load(path).index.tolist()


def test_save_reprs_takes_the_images_of_the_run_unless_all_are_asked_for(ssltool, part, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "images")  # the file is found from anywhere
    fixed = ["save-reprs", "--pretrained", part, "--device", "cpu", "-j", 0]
    ran = ssltool(*fixed, "-o", tmp_path / "a.pt")
    assert index(tmp_path / "a.pt") == [12, 3, 0, 19, 5, 6, 7, 8]
    assert "some.npy" in ran.err and "--all" in ran.err
    assert ssltool(*fixed, "--all", "-o", tmp_path / "b.pt").code == 0
    assert index(tmp_path / "b.pt") == list(range(20))
    assert ssltool(*fixed, "--split", "val", "-o", tmp_path / "c.pt").code == 0
    assert index(tmp_path / "c.pt") == list(range(8))
    assert ssltool(*fixed, "--split", "both", "-o", tmp_path / "both").code == 0
    assert len(index(tmp_path / "both" / "train_reprs_e0.pt")) == 8
    assert len(index(tmp_path / "both" / "val_reprs_e0.pt")) == 8
    assert ssltool(*fixed, tmp_path / "images", "-o", tmp_path / "d.pt").code == 0
    assert index(tmp_path / "d.pt") == list(range(20))


def test_the_run_s_part_of_train_is_not_mentioned_where_val_is_read(ssltool, part, tmp_path):
    ran = ssltool("save-reprs", "--pretrained", part, "-j", 0, "--split", "val", "-o", tmp_path / "v.pt")
    assert ran.code == 0 and "some.npy" not in ran.err


@pytest.mark.parametrize("change", ["gone", "other"])
def test_a_list_of_images_that_is_gone_or_changed_is_named(ssltool, part, tmp_path, change):
    if change == "gone":
        (tmp_path / "some.npy").unlink()
    else:
        np.save(tmp_path / "some.npy", np.arange(8))
    ran = ssltool("save-reprs", "--pretrained", part, "--device", "cpu", "-o", tmp_path / "a.pt")
    message = error_message(ran)
    assert "some.npy" in message and "--all" in message and "--idx-path" in message


def test_all_without_a_part_is_an_error(ssltool, trained, tmp_path):
    ran = ssltool("save-reprs", "--pretrained", trained / "checkpoint.pt", "--all", "-o", tmp_path / "a.pt")
    assert "--all" in error_message(ran)
    ran = ssltool("save-reprs", tmp_path, "--pretrained", trained / "checkpoint.pt", "--all", "-o", tmp_path / "a.pt")
    assert ran.code == 2 and "--all" in ran.err


@pytest.mark.parametrize("command", ["lincls", "finetune", "scan"])
def test_later_stages_train_on_the_images_of_the_run(ssltool, part, tmp_path, command):
    more = {"lincls": ["--epochs", 1], "finetune": ["--epochs", 1], "scan": ["--step", "mine", "--neighbours", 2]}
    flags = ["--pretrained", part, "-j", 0, "--device", "cpu", "-o", tmp_path / "out", "--json"]
    ran = ssltool(command, *flags, *more[command])
    assert ran.code == 0, ran.err
    assert ran.json["found"][0]["images"] == 8 and "--all" in ran.err


def test_a_probe_on_a_subset_of_classes_names_the_others(ssltool, trained, shades, tmp_path):
    """The train images have the classes 0 and 2 only, the val images 0, 1 and 2."""
    np.save(tmp_path / "some.npy", [*range(16), *range(32, 48)])
    flags = ["--pretrained", trained / "checkpoint.pt", "-j", 0, "--device", "cpu", "--idx-path", tmp_path / "some.npy"]
    for command in ("lincls", "finetune"):
        ran = ssltool(command, shades, *flags, "--epochs", 1, "-o", tmp_path / command, "--json")
        assert ran.code == 0, ran.err
        document = ran.json
        assert document["classes"] == 2
        assert any("light" in note and "8 images" in note for note in document["found"][1]["notes"])
        acc1 = document["acc1"] if command == "lincls" else document["arms"]["pretrained"]["acc1"]["mean"]
        assert acc1 <= 2 / 3
    probe = torch.load(tmp_path / "lincls" / "probe.pt", weights_only=True)
    assert probe["labels"].tolist() == [0, 2]


def test_val_without_any_class_of_train_is_refused(ssltool, trained, shades, tmp_path):
    shutil.copytree(shades, tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "val" / "dark")
    shutil.rmtree(tmp_path / "two" / "val" / "light")
    np.save(tmp_path / "some.npy", np.arange(32))
    flags = ["--pretrained", trained / "checkpoint.pt", "-j", 0, "--device", "cpu", "--idx-path", tmp_path / "some.npy"]
    ran = ssltool("lincls", tmp_path / "two", *flags, "--epochs", 1, "-o", tmp_path / "probe")
    message = error_message(ran)
    assert "dark, light" in message and "middling" in message
