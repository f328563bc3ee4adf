"""Pictures of every kind through the stages: right accuracies, and pixels that later stages read as the run did."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import TINY, error_message
from ssltool.checkpoints.checkpoint import Checkpoint
from ssltool.reprs.representations import Representations

FEW = [*TINY, "--epochs", 1, "-b", 8, "-j", 0, "--monitor-every", 0]


def write_classes(root, low: int, high: int, *, count: int = 10) -> None:
    """Two classes of 16-bit grey images for each split: dark ones, and light ones up to ``high``."""
    rng = np.random.default_rng(0)
    middle = (low + high) // 2
    for split in ("train", "val"):
        for name, (first, last) in {"dark": (low, middle), "light": (middle, high)}.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(first, last, (16, 16), dtype=np.uint16)).save(folder / f"{i}.png")


def save_and_classify(ssltool, tmp_path, *flags: object) -> float:
    for split in ("train", "val"):
        ran = ssltool("save-reprs", *flags, "--split", split, "-j", 0, "-o", tmp_path / f"{split}.pt")
        assert ran.code == 0, ran.err
    return ssltool("knn", tmp_path / "train.pt", tmp_path / "val.pt", "-k", 1, "--json").json["accuracy"]


def test_knn_separates_40_images_of_16_bits(ssltool, tmp_path):
    write_classes(tmp_path / "data", 0, 65536)
    network = ["--pretrained", "random", *TINY[:6]]
    assert save_and_classify(ssltool, tmp_path, tmp_path / "data", *network) == 1.0


def test_later_stages_use_the_numbers_of_the_run(ssltool, tmp_path):
    write_classes(tmp_path / "data", 100, 4096)
    assert "--value-range" in error_message(ssltool("pretrain", tmp_path / "data", *FEW, "-o", tmp_path / "run"))
    ran = ssltool("pretrain", tmp_path / "data", *FEW, "--value-range", "auto", "-o", tmp_path / "run")
    assert ran.code == 0, ran.err
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "--value-range auto is " in ran.err
    low, high = map(float, saved["value_range"])
    assert 100 <= low < 200 and 4000 < high < 4096
    assert save_and_classify(ssltool, tmp_path, "--pretrained", tmp_path / "run" / "checkpoint.pt") == 1.0
    pixels = Representations.load(tmp_path / "val.pt").meta["pixels"]
    assert list(pixels["value_range"]) == saved["value_range"]
    assert (pixels["background"], pixels["raw_pixels"]) == ("#ffffff", False)
    flags = ["--pretrained", tmp_path / "run" / "checkpoint.pt", "-j", 0, "--epochs", 1]
    for command in ("lincls", "finetune"):
        ran = ssltool(command, *flags, "-o", tmp_path / command)
        assert ran.code == 0, ran.err
        assert json.loads((tmp_path / command / "config.json").read_text())["value_range"] == saved["value_range"]
    assert ssltool("plot", "views", tmp_path / "run", "-o", tmp_path / "views.png").code == 0


@pytest.mark.parametrize("flags", [["--value-range", "0", "4095"], ["--value-range=0", "4095"]])
def test_value_range_takes_two_numbers(ssltool, tmp_path, flags):
    write_classes(tmp_path / "data", 0, 4096, count=4)
    ran = ssltool("pretrain", tmp_path / "data", *FEW, *flags, "-o", tmp_path / "run")
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["value_range"] == ["0", "4095"]


def test_rules_of_pixels_are_fixed_on_resume(ssltool, tmp_path):
    write_classes(tmp_path / "data", 0, 65536, count=4)
    flags = ["pretrain", tmp_path / "data", *FEW, "-o", tmp_path / "run"]
    assert ssltool(*flags, "--background", "red").code == 0
    ran = ssltool(*flags, "--resume", "auto", "--background", "blue")
    assert "--background was #ff0000, is now #0000ff" in error_message(ran)


@pytest.fixture
def earlier(ssltool, tmp_path):
    """A run on images with hidden colours, whose checkpoint is as an earlier version wrote it."""
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(16):
        pixels = rng.integers(0, 256, (16, 16, 4), np.uint8)
        pixels[..., 3] = 0
        Image.fromarray(pixels).save(tmp_path / "data" / f"{i}.png")
    flags = ["pretrain", tmp_path / "data", *FEW, "-o", tmp_path / "run"]
    assert ssltool(*flags, "--raw-pixels").code == 0
    path = tmp_path / "run" / "checkpoint.pt"
    checkpoint = Checkpoint.load(path)
    for name in ("raw_pixels", "background", "value_range", "max_pixels"):
        del checkpoint.config[name]
    checkpoint.save(path)
    return path


def test_checkpoint_of_an_earlier_version_reads_raw_pixels(ssltool, tmp_path, earlier):
    ran = ssltool("save-reprs", "--pretrained", earlier, "-j", 0, "-o", tmp_path / "raw.pt")
    assert ran.code == 0 and "16 of 16 images have an alpha channel" in ran.err and "--no-raw-pixels" in ran.err
    raw = Representations.load(tmp_path / "raw.pt")
    assert raw.meta["pixels"]["raw_pixels"] is True
    assert len(raw.representations.unique(dim=0)) == 16
    assert (
        ssltool("save-reprs", "--pretrained", earlier, "--no-raw-pixels", "-j", 0, "-o", tmp_path / "new.pt").code == 0
    )
    white = Representations.load(tmp_path / "new.pt").representations
    assert torch.allclose(white, white[:1].expand_as(white), atol=1e-5)


def test_run_of_an_earlier_version_resumes_with_raw_pixels(ssltool, tmp_path, earlier):
    flags = ["pretrain", tmp_path / "data", *FEW, "-o", tmp_path / "run", "--resume", "auto"]
    assert "--raw-pixels was True, is now False" in ssltool(*flags, "--no-raw-pixels").err
    ran = ssltool(*flags)
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["raw_pixels"] is True


def test_images_that_are_all_the_same_are_named_as_the_cause(ssltool, tmp_path, write_images):
    first = write_images(tmp_path / "data", 1, size=(16, 16))[0]
    assert "1 image" in error_message(ssltool("pretrain", tmp_path / "data", *FEW, "-o", tmp_path / "run"))
    for i in range(31):
        (tmp_path / "data" / f"copy{i}.png").write_bytes(first.read_bytes())
    flags = [*TINY, "--epochs", 1, "-b", 16, "-j", 0]
    ran = ssltool("pretrain", tmp_path / "data", *flags, "-o", tmp_path / "run")
    assert ran.code == 0
    warned = [line for line in ran.err.splitlines() if "all 32 images are the same" in line]
    assert len(warned) == 2 and "Probable cause: all 32" in warned[1]


def test_more_images_in_a_batch_than_there_are_names_both_numbers(ssltool, tmp_path, write_images):
    write_images(tmp_path / "data", 5)
    message = error_message(ssltool("pretrain", tmp_path / "data", *TINY, "-j", 0, "-o", tmp_path / "run"))
    assert "--batch-size 512" in message and "(5)" in message


def test_collapse_says_that_the_images_are_the_same(ssltool, tmp_path):
    path, numbers = tmp_path / "same.pt", torch.arange(20)
    Representations(torch.ones(20, 4), torch.full((20,), -1), numbers, digests=torch.full((20,), 7)).save(path)
    ran = ssltool("collapse", path, "--json")
    assert any("all 20 images are the same" in note for note in ran.json["files"][0]["notes"])


def test_killed_worker_leaves_the_checkpoint_and_one_line(ssltool, tmp_path, write_images):
    write_images(tmp_path / "data" / "a", 12)
    write_images(tmp_path / "data" / "b", 12, size=(12, 18))
    flags = [*TINY, "--epochs", 2000, "-b", 8, "-j", 1, "--monitor-every", 0, "-o", tmp_path / "run"]
    checkpoint = tmp_path / "run" / "checkpoint.pt"

    def kill() -> None:
        while not checkpoint.exists():
            time.sleep(0.01)
        for child in multiprocessing.active_children():
            child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    ran = ssltool("pretrain", tmp_path / "data", *flags)
    killer.join()
    last = ran.err.splitlines()[-1]
    assert ran.code == 1 and last.startswith("error: ") and "Traceback" not in ran.err
    assert "-j" in last and str(checkpoint) in last
    assert Checkpoint.load(checkpoint).epoch >= 1
