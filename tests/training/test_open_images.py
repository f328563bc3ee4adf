"""Rank 0 lists the images of all ranks."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from fork_server import run_ranks
from PIL import Image

from ssltool.config import DataSettings
from ssltool.training.open_images import open_images

PROGRAM = '''
"""Opens images in several ways on this rank, and notes what it opened itself."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from ssltool.config import DataSettings
from ssltool.errors import SSLToolError
from ssltool.training import distributed, open_images

folder, kind = Path(sys.argv[1]), sys.argv[2]
opened = []
open_dataset = open_images.open_dataset


def counting(settings, split):
    opened.append(settings.download)
    return open_dataset(settings, split)


def opening(name, **settings):
    """What this rank opened itself, and the images or the error that it got."""
    opened.clear()
    found = {}
    try:
        images = open_images.open_images(DataSettings(data=str(folder / name), **settings), "train", from_rank_zero)
        found = {"files": images.files, "labels": images.labels.tolist(), "fingerprint": images.fingerprint}
    except SSLToolError as error:
        found["error"] = str(error)
    return found | {"opened": list(opened)}


group = distributed.process_group(torch.device("cpu"), "gloo") if kind == "group" else distributed.separate_ranks()
open_images.open_dataset = counting
open_images.NAMES_AT_ONCE = 3
with group as ranks:
    here = distributed.shard_from_env()
    from_rank_zero = distributed.from_rank_zero if kind == "group" else ranks.from_rank_zero
    found = {name: opening(name) for name in ("small", "large", "images.npy")}
    open_images.open_dataset = lambda settings, split: opened.append(settings.download) or open_dataset(DataSettings(
        data=settings.data), split)
    found["downloaded"] = opening("images.npy", download=True)
    open_images.open_dataset = counting
    if kind == "group":
        found["missing"] = opening("missing")
        try:
            with distributed.raise_on_all_ranks():
                if here.rank == 1:
                    raise SSLToolError("only here")
                with distributed.raise_on_all_ranks():
                    open_images.open_images(DataSettings(data=str(folder / "large")), "train")
        except SSLToolError as error:
            found["before"] = str(error)
        found["at last"] = opening("large")
    else:
        found["much"] = ranks.from_rank_zero(lambda: "x" * 20_000_000) == "x" * 20_000_000
Path(folder, f"{kind}{here.rank}.json").write_text(json.dumps(found))
'''


STAGES = '''
"""Runs the stages that read images on this rank, and notes which listed them."""

import json
import sys
from pathlib import Path

import torch

from ssltool import config
from ssltool.data import image_files, images
from ssltool.stages import finetune, lincls, scan
from ssltool.training import distributed

folder, checkpoint, listed, read = Path(sys.argv[1]), sys.argv[2], [], images._read
common = {"device": "cpu", "workers": 0, "data": str(folder / "small")}
network = common | {"pretrained": checkpoint}


def reading(*args):
    listed.append(stage)
    return read(*args)


images._read = reading
image_files.fits_into_memory = lambda size, count: False  # images in memory are opened by each rank
with distributed.process_group(torch.device("cpu"), "gloo") as shard:
    stage = "lincls"
    lincls.run(config.LinclsConfig(**network, epochs=1, batch_size=24, out=str(folder / "lincls")))
    stage = "finetune"
    finetune.run(config.FinetuneConfig(**network, epochs=1, batch_size=24, out=str(folder / "finetune")))
    stage = "scan"
    scan.run(config.ScanConfig(**network, step="mine", neighbours=3, out=str(folder / "scan")))
Path(folder, f"stages{shard.rank}.json").write_text(json.dumps(listed))
'''


def test_rank_0_lists_the_images_of_each_stage(tmp_path, server, shades, trained):
    shutil.copytree(shades, tmp_path / "small")
    (tmp_path / "program.py").write_text(STAGES)
    ran = run_ranks(server, tmp_path / "program.py", tmp_path, trained / "checkpoint.pt")
    assert ran.returncode == 0, ran.stderr
    first, second = (json.loads((tmp_path / f"stages{rank}.json").read_text()) for rank in range(2))
    assert {*first} == {"lincls", "finetune", "scan"} and second == []


COMMANDS = [["collapse", "--layers"], ["diagnose"], ["save-reprs", "-o", "reprs", "--pretrained"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_rank_0_lists_the_images_that_checkpoints_see(tmp_path, server, shades, trained, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    script = """
import sys
from ssltool.cli import main
from ssltool.data import image_files, images
from ssltool.training import distributed

read = images._read
def reading(*args):
    print("listed by", distributed.shard_from_env().rank, file=sys.stderr)
    return read(*args)

images._read = reading
image_files.fits_into_memory = lambda size, count: False
sys.argv = ["ssltool", *sys.argv[1:]]
main()
"""
    (tmp_path / "program.py").write_text(script)
    flags = ["--data", shades, "--device", "cpu", "-j", 0]
    ran = run_ranks(server, tmp_path / "program.py", *command, trained / "checkpoint.pt", *flags)
    assert ran.returncode == 0, ran.stderr
    assert "listed by 0" in ran.stderr and "listed by 1" not in ran.stderr


@pytest.fixture(scope="module", params=["group", "separate"])
def ranks(request, tmp_path_factory, server, shades):
    """What each of three ranks opened, in a process group or connected by their store alone, and the folder."""
    folder = tmp_path_factory.mktemp("images")
    shutil.copytree(shades, folder / "small")
    for split in ("train", "val"):  # of two sizes, so that they are not in memory
        for number, side in enumerate(range(120, 127)):
            (folder / "large" / split / "all").mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side), (number, 0, 0)).save(folder / "large" / split / "all" / f"{number}.png")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8))
    (folder / "program.py").write_text(PROGRAM)
    ran = run_ranks(server, folder / "program.py", folder, request.param, ranks=3)
    assert ran.returncode == 0, ran.stderr
    return folder, [json.loads((folder / f"{request.param}{rank}.json").read_text()) for rank in range(3)]


def test_rank_0_alone_lists_image_files(ranks):
    folder, found = ranks
    alone = open_images(DataSettings(data=str(folder / "large")), "train")
    assert alone.images is None and len(alone) == 7
    for rank, one in enumerate(found):
        assert one["large"]["opened"] == [False] * (rank == 0)
        assert one["large"]["files"] == [*(alone.files or ())]
        assert one["large"]["labels"] == alone.labels.tolist()
        assert one["large"]["fingerprint"] == alone.fingerprint


def test_each_rank_opens_images_in_memory(ranks):
    for name in ("small", "images.npy"):
        assert [one[name]["opened"] for one in ranks[1]] == [[False]] * 3
        assert len({one[name]["fingerprint"] for one in ranks[1]}) == 1


def test_rank_0_alone_downloads(ranks):
    assert [one["downloaded"]["opened"] for one in ranks[1]] == [[True], [False], [False]]


@pytest.mark.parametrize("ranks", ["separate"], indirect=True)
def test_separate_ranks_get_more_than_their_store_takes_at_once(ranks):
    assert [one["much"] for one in ranks[1]] == [True] * 3


@pytest.mark.parametrize("ranks", ["group"], indirect=True)
def test_error_before_or_while_rank_0_lists_is_raised_on_all_ranks(ranks):
    first, *others = (one["missing"]["error"] for one in ranks[1])
    assert "missing" in first and all("another rank" in error for error in others)
    assert ["only here" in one["before"] for one in ranks[1]] == [False, True, False]
    assert all("another rank" in ranks[1][rank]["before"] for rank in (0, 2))
    assert len({str(one["at last"]["files"]) for one in ranks[1]}) == 1  # they are still in step
