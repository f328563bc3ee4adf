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
from ssltool.checkpoints.probe import Probe
from ssltool.errors import SSLToolError
from ssltool.reprs.partial_file import PartialFile
from ssltool.reprs.representations import Representations
from ssltool.runs.history import read_runs, restore_setup
from ssltool.stages.pretrain import plan
from ssltool.stages.pretrain import run as pretrain
from tiny_methods import tiny_config


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


@pytest.mark.parametrize("command", ["save-reprs", "lincls"])
def test_a_stage_on_the_images_of_a_run_names_what_changed_after_training(tiny, folder, ssltool, tmp_path, command):
    run = pretrain(tiny(**on(folder)))
    flags = {"save-reprs": ["-o", tmp_path / "r.pt"], "lincls": ["--epochs", 1, "-b", 4, "-o", tmp_path / "probe"]}
    more = ["--overwrite"] if command == "lincls" else []
    network = [*flags[command], "--pretrained", run / "checkpoint.pt", "--device", "cpu", "-j", 0]
    assert "changed" not in (before := ssltool(command, *network, *more)).err
    assert before.code == 0, before.err
    shutil.copy(folder / "train" / "cat" / "000.png", folder / "train" / "cat" / "100.png")
    assert "cat/100.png is new" in ssltool(command, *network, *more).err
    given = ssltool(command, folder, *network, *more)
    assert given.code == 0 and "is new" not in given.err


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


OF_STAGE = {"lincls": ["--epochs", 1], "finetune": ["--epochs", 1], "scan": ["--neighbours", 2, "--epochs", 1]}

SAVED = ("probe.pt", "finetuned_pretrained_seed10.pt", "clusters.pt", "selflabelled.pt")


@pytest.fixture
def later(ssltool, trained, folder, tmp_path):
    """Runs a later stage on the folder, in ``tmp_path/out``: ``later("lincls", "--resume", "auto")``."""
    fixed = ["--pretrained", trained / "checkpoint.pt", "-j", 0, "--device", "cpu", "-o", tmp_path / "out"]
    more = OF_STAGE | {"scan": [*OF_STAGE["scan"], "--selflabel-epochs", 1, "--threshold", 0]}
    return lambda stage, *flags: ssltool(stage, folder, *fixed, *more[stage], *flags)


@pytest.mark.parametrize("change", ["replaced", "renamed"])
@pytest.mark.parametrize("stage", OF_STAGE)
def test_later_stages_do_not_continue_on_another_val_image(later, folder, replace, stage, change):
    assert later(stage).code == 0
    (folder / "val" / "notes.txt").write_text("not an image")
    assert later(stage, "--resume", "auto").code == 0
    path = folder / "val" / "dog" / "002.png"
    if change == "replaced":
        replace(path)
    else:
        path.rename(path.with_name("2.png"))
    ran = later(stage, "--resume", "auto")
    named = "dog/002.png was " + ("replaced" if change == "replaced" else "renamed to dog/2.png")
    assert ran.code == 1 and named in ran.err.splitlines()[-1] and "val" in ran.err.splitlines()[-1]


@pytest.mark.parametrize("stage", ["lincls", "finetune"])
def test_a_run_without_the_fingerprint_of_its_val_images_is_resumed_with_a_note(
    later, folder, replace, tmp_path, stage
):
    assert later(stage).code == 0
    (path,) = (tmp_path / "out").glob("[pf]*.pt")
    saved = (Probe if stage == "lincls" else Checkpoint).load(path)
    saved.config.pop("val_fingerprint")
    saved.save(path)
    (tmp_path / "out" / "val_images.jsonl").unlink()
    replace(folder / "val" / "dog" / "002.png")
    ran = later(stage, "--resume", "auto")
    assert ran.code == 0 and "earlier version" in ran.err and "val images" in ran.err
    assert (tmp_path / "out" / "val_images.jsonl").is_file()


@pytest.mark.parametrize("stage", OF_STAGE)
def test_later_stages_do_not_continue_with_other_labels(later, write_images, folder, tmp_path, stage):
    write_images(folder / "val" / "bird", 2)  # a class that only val has
    assert later(stage).code == 0
    ran = later(stage, "--resume", "auto", "--unlabelled", "bird")
    assert ran.code == 1 and "--unlabelled" in ran.err.splitlines()[-1] and "bird" in ran.err.splitlines()[-1]
    for path in filter(Path.is_file, (tmp_path / "out" / name for name in SAVED)):
        saved = (Probe if path.name == "probe.pt" else Checkpoint).load(path)
        saved.config.pop("unlabelled")  # which runs of earlier versions lack
        saved.save(path)
    assert later(stage, "--resume", "auto").code == 0


@pytest.mark.parametrize("method", ["supervised", "paws", "simsiam"])
def test_only_a_method_that_learns_from_labels_refuses_other_labels_of_the_same_images(tmp_path, method):
    images = np.random.default_rng(0).integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(24) % 3)
    data = on(tmp_path / "images.npz", batch_size=12, idx_path=None, epochs=1)
    config = tiny_config(method, tmp_path / "run", tmp_path, **data)
    pretrain(config)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(24) % 3 // 2)
    longer = dataclasses.replace(config, resume="auto")
    if method == "simsiam":
        pretrain(longer)
        return
    with pytest.raises(SSLToolError, match="labels"):
        pretrain(longer)


def test_an_image_that_is_new_is_named_before_the_length_of_the_order(tiny, folder, write_images, tmp_path):
    np.save(tmp_path / "order.npy", np.arange(20)[::-1])
    config = tiny(**on(folder), strategy="current", incremental_idx_path=str(tmp_path / "order.npy"))
    pretrain(config)
    write_images(folder / "train" / "dog", 11, seed=10)
    for resume in (pretrain, plan):
        with pytest.raises(SSLToolError, match=r"dog/010\.png is new"):
            resume(dataclasses.replace(config, resume="auto"))


def test_too_few_images_for_a_batch_are_named_before_their_number(tiny, folder):
    config = tiny(**on(folder, batch_size=20))
    pretrain(config)
    (folder / "train" / "dog" / "009.png").unlink()
    with pytest.raises(SSLToolError, match=r"dog/009\.png is no longer"):
        pretrain(dataclasses.replace(config, resume="auto"))


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("changed", ["train", "val"])
def test_a_probe_does_not_continue_on_other_rows_of_one_network(ssltool, tmp_path, changed, digests):
    def write(name: str, seed: int) -> Path:
        torch.manual_seed(seed)
        contents = torch.randint(2**40, (12,)) if digests else None
        made = Representations(torch.randn(12, 4), torch.arange(12) % 2, torch.arange(12), digests=contents)
        made.meta = {"checkpoint_hash": "a", "layer": "backbone", "dataset": "d", "split": name}
        made.save(tmp_path / f"{name}.pt")
        return tmp_path / f"{name}.pt"

    files = [write("train", 1), write("val", 2)]
    command = ["lincls", "--reprs", *files, "--epochs", 2, "-o", tmp_path / "probe", "--device", "cpu"]
    assert ssltool(*command).code == 0
    assert ssltool(*command, "--resume", "auto").code == 0
    write(changed, 3)
    ran = ssltool(*command, "--resume", "auto")
    of = {"train": "to train on", "val": "to evaluate on"}[changed]
    assert ran.code == 1 and of in ran.err.splitlines()[-1]
    probe = Probe.load(tmp_path / "probe" / "probe.pt")
    for key in ("train_contents", "val_contents"):  # which probes of earlier versions lack
        probe.config.pop(key)
    probe.save(tmp_path / "probe" / "probe.pt")
    assert ssltool(*command, "--resume", "auto").code == 0


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


@pytest.mark.parametrize("left_out", ["a fraction", "a corrupt file"])
def test_a_changed_list_is_named_whatever_was_left_out_of_the_images_in_it(ssltool, part, folder, tmp_path, left_out):
    tuned, quick = tmp_path / "tuned", ["-j", 0, "--device", "cpu", "--epochs", 1, "-b", 4, "-o", tmp_path / "tuned"]
    if left_out == "a fraction":
        ran = ssltool("finetune", "--pretrained", part, "--labels-fraction", 0.5, *quick)
        network = tuned / "finetuned_pretrained_seed10.pt"
    else:
        (folder / "train" / "cat" / "003.png").write_bytes(b"")
        chosen = ["--idx-path", tmp_path / "some.npy", "--skip-corrupt"]
        ran = ssltool("pretrain", folder, *TINY, *chosen, "--monitor-every", 0, *quick)
        network = tuned / "checkpoint.pt"
    assert ran.code == 0, ran.err
    saved = Checkpoint.load(network).config
    assert saved["n_images"] < 8 and saved["index_hash"] != saved["idx_path_hash"]
    fixed = ["save-reprs", "--pretrained", network, "--device", "cpu", "-j", 0, "--skip-corrupt"]
    if left_out == "a fraction":
        fixed.remove("--skip-corrupt")
    ran = ssltool(*fixed, "-o", tmp_path / "a.pt")
    assert ran.code == 0 and "8 train images" in ran.err, ran.err
    np.save(tmp_path / "some.npy", [12, 3, 0, 19, 5, 6, 7, 9])
    assert "some.npy" in error_message(ssltool(*fixed, "-o", tmp_path / "b.pt"))


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
