"""The good files: what tiny runs of all commands leave, and small datasets of every layout."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from helpers import TINY
from ssltool import cli
from ssltool.models.backbones import build_backbone
from ssltool.reprs.partial_file import PartialFile

CPU = "-j 0 --device cpu"
PRETRAIN = f"pretrain photos {shlex.join(TINY)} --epochs 2 --steps-per-epoch 2 -b 8 --monitor-size 18 {CPU}"
MADE = (
    f"{PRETRAIN} -o run",
    f"{PRETRAIN} -o other --seed 3 --strategy current",
    f"{PRETRAIN} -o third --seed 4 --save-every 1",
    f"save-reprs photos --pretrained run/checkpoint.pt --split train -b 8 {CPU} -o train.pt",
    f"save-reprs photos --pretrained run/checkpoint.pt --split val -b 8 {CPU} -o val.pt",
    f"save-reprs photos --pretrained run/checkpoint.pt --split val --views 2 -b 8 {CPU} -o views.pt",
    f"save-reprs photos --pretrained run/checkpoint.pt --split val --format npy -b 8 {CPU} -o rows.npy",
    "collapse train.pt --device cpu",
    "knn train.pt val.pt -k 3 --device cpu --neighbours neighbours.pt",
    "rank run other third --by auc --accuracy accuracies.csv --fit forecast.json --features auc",
    f"lincls photos --pretrained run/checkpoint.pt --epochs 1 -b 8 --image-size 16 {CPU} -o probe",
    f"finetune photos --pretrained run/checkpoint.pt --epochs 1 -b 8 {CPU} -o tuned",
    f"scan photos --pretrained run/checkpoint.pt --neighbours 2 --epochs 1 --selflabel-epochs 1 -b 8 "
    f"--selflabel-batch-size 8 --threshold 0.1 {CPU} -o clustered",
)
"""The command lines that make the files of ssltool."""

PARQUET = f"save-reprs photos --pretrained run/checkpoint.pt --split val --format parquet -b 8 {CPU} -o rows.parquet"


WARM = (
    f"report run -o warm.html --size 16 {CPU}",
    "plot spectrum train_svd.pt -o warm.svg",
    "plot curves run -o warm.png",
    "rank train.pt val.pt --by rankme -o warm.csv",
)
"""Command lines that are run once in this process, so that its children need not import modules and read fonts."""


def make_good_files(folder: Path) -> None:
    """Makes one good file of every kind in ``folder``, which must not exist."""
    folder.mkdir(parents=True)
    _photos(folder / "photos")
    _raw(folder)
    _foreign(folder)
    rng = np.random.default_rng(0)
    np.save(folder / "order.npy", rng.permutation(18))
    np.save(folder / "numbers.npy", np.arange(0, 18, 2))
    (folder / "accuracies.csv").write_text("run,accuracy\nrun,0.5\nother,0.25\nthird,0.75\n")
    with working_in(folder):
        for line in MADE:
            made(line)
        with contextlib.suppress(ImportError):
            import pyarrow  # noqa: F401

            made(PARQUET)
        for line in WARM:
            made(line)
        for path in folder.glob("warm.*"):
            path.unlink()
        _interrupt_rows()
        _interrupt_run(Path("third"))


def made(line: str) -> None:
    """Runs a command line that must succeed."""
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = main(shlex.split(line))
    if code:
        raise RuntimeError(f"{line}: exit code {code}: {err.getvalue()}")


def main(args: list[str]) -> int:
    """The exit code of ``ssltool ARGS`` in this process."""
    before, sys.argv = sys.argv, ["ssltool", *args]
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = before
    return 0


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Makes ``folder`` the working directory in a ``with`` block."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _photos(root: Path) -> None:
    """An ImageNet layout of three classes: 18 train and 9 val images, PNG and JPEG."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 3)):
        for number, name in enumerate(("ant", "bee", "cat")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(80 * number, 80 * number + 80, (16, 18, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.{'png' if i % 2 else 'jpg'}")


def _raw(folder: Path) -> None:
    """Small versions of the datasets in one file: IDX, pickles of CIFAR, binary files of STL-10."""
    rng = np.random.default_rng(1)
    idx, cifar, stl = (folder / name for name in ("idx", "cifar", "stl"))
    for one in (idx, cifar, stl):
        one.mkdir()
    for split, count in (("train", 24), ("t10k", 12)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 3
        for name, array in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (idx / name).write_bytes(header + array.tobytes())
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        images = rng.integers(0, 256, (6, 3072), np.uint8)
        contents = {b"batch_label": name.encode(), b"labels": [0, 1, 2, 0, 1, 2], b"data": images}
        (cifar / name).write_bytes(pickle.dumps(contents, 2))
    for name in ("train", "test"):
        rng.integers(0, 256, (6, 3, 96, 96), np.uint8).tofile(stl / f"{name}_X.bin")
        (1 + np.arange(6, dtype=np.uint8) % 3).tofile(stl / f"{name}_y.bin")


def _foreign(folder: Path) -> None:
    """A checkpoint as SimSiam's code writes it, and bare weights as .safetensors."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = build_backbone("resnet18_w8", stem="imagenet")[0].state_dict()
    state = {f"module.encoder.{name}": tensor for name, tensor in weights.items()}
    state |= {f"module.encoder.fc.{i}.weight": torch.ones(2, 2) for i in (0, 3, 6)}
    state |= {f"module.predictor.{i}.weight": torch.ones(2, 2) for i in (0, 3)}
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 9, "arch": "resnet18", "state_dict": state, "optimizer": optimizer}, folder / "foreign.pth")
    save_file(dict(weights), folder / "foreign.safetensors", metadata={"format": "pt"})


def _interrupt_run(run: Path) -> None:
    """Takes a run back to its first epoch, from which it can be resumed."""
    (run / "checkpoint_0000.pt").rename(run / "checkpoint.pt")
    (run / "checkpoint_0001.pt").unlink()
    first = (run / "metrics.jsonl").read_text().splitlines(keepends=True)[0]
    (run / "metrics.jsonl").write_text(first)


def _interrupt_rows() -> None:
    """Leaves what a ``save-reprs -o new.pt`` that was killed leaves."""
    with mock.patch.object(PartialFile, "remove", PartialFile.close):
        made(f"save-reprs photos --pretrained run/checkpoint.pt --split val -b 4 {CPU} -o new.pt")
    Path("new.pt").unlink()
    with open(".new.pt.unfinished", "r+b") as stream:
        stream.truncate(Path(".new.pt.unfinished").stat().st_size - 200)
