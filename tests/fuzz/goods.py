"""The good files: what tiny runs of all commands leave, and small datasets of every layout."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from unittest import mock

import numpy as np
import torch
from PIL import Image

from helpers import TINY
from ssltool import cli
from ssltool.models.backbones import build_backbone
from ssltool.reprs.partial_file import PartialFile
from ssltool.training.loop import TrainingLoop

CPU = "-j 0 --device cpu"
PRETRAIN = f"pretrain photos {shlex.join(TINY)} --epochs 2 --steps-per-epoch 2 -b 8 --monitor-size 18 {CPU}"
MADE = (
    f"{PRETRAIN} -o run",
    f"{PRETRAIN} -o other --seed 3 --strategy current",
    f"{PRETRAIN} -o third --seed 4 --save-every 1",
    f"save-reprs photos --pretrained run/checkpoint.pt --split train -b 8 {CPU} -o train.pt",
    f"save-reprs photos --pretrained run/checkpoint.pt --split val -b 8 {CPU} -o val.pt",
    f"save-reprs photos --pretrained run/checkpoint.pt --split val --views 2 -b 8 {CPU} -o views.pt",
    f"save-reprs photos --pretrained run/checkpoint.pt --split train --format npy -b 8 {CPU} -o rows.npy",
    "collapse train.pt --device cpu",
    "knn train.pt val.pt -k 3 --device cpu --neighbours neighbours.pt",
    "rank run other third --by auc --accuracy accuracies.csv --fit forecast.json --features auc",
    f"lincls photos --pretrained run/checkpoint.pt --epochs 1 -b 8 --image-size 16 {CPU} -o probe",
    f"finetune photos --pretrained run/checkpoint.pt --epochs 1 -b 8 {CPU} -o tuned",
    f"scan photos --pretrained run/checkpoint.pt --neighbours 2 --epochs 1 --selflabel-epochs 1 -b 8 "
    f"--selflabel-batch-size 8 --threshold 0.1 {CPU} -o clustered",
)
"""The command lines that make the files of ssltool."""

INTERRUPTED = (
    f"{PRETRAIN} --seed 5 -o paused",
    f"lincls photos --pretrained run/checkpoint.pt --epochs 1 -b 8 --image-size 16 {CPU} -o linear",
    f"finetune photos --pretrained run/checkpoint.pt --epochs 1 -b 8 {CPU} -o tuning",
    f"scan photos --pretrained run/checkpoint.pt --neighbours 2 --epochs 1 --selflabel-epochs 1 -b 8 "
    f"--selflabel-batch-size 8 --threshold 0.1 {CPU} -o clustering",
    f"scan photos --step selflabel --selflabel-epochs 1 --selflabel-batch-size 8 --threshold 0.1 {CPU} -o labelling",
)
"""The command lines of runs that are stopped after the first step; the last one begins in a copy of ``clustered``."""

LARGE = "large.pth"
"""The weights of a network that other libraries have, 22 MB."""

UNFINISHED = f"save-reprs photos --pretrained run/checkpoint.pt --split val --idx-path first.npy -b 4 {CPU} -o new.pt"
"""The command line that leaves an unfinished output."""

PARQUET = f"save-reprs photos --pretrained run/checkpoint.pt --split train --format parquet -b 8 {CPU} -o rows.parquet"


WARM = (
    f"export {LARGE} -o warm.pth --to timm",
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
    _other_photos(folder)
    _raw(folder)
    _arrays(folder)
    _foreign(folder)
    rng = np.random.default_rng(0)
    np.save(folder / "order.npy", rng.permutation(18))
    np.save(folder / "numbers.npy", np.arange(0, 18, 2))
    np.save(folder / "first.npy", np.arange(8))
    (folder / "accuracies.csv").write_text("run,accuracy\nrun,0.5\nother,0.25\nthird,0.75\n")
    with working_in(folder):
        for line in MADE:
            made(line)
        beside = {name: np.load(f"rows_{name}.npy") for name in ("targets", "index", "paths", "digests")}
        np.savez("rows.npz", representations=np.load("rows.npy"), **beside)
        with contextlib.suppress(ImportError):
            import pyarrow  # noqa: F401

            made(PARQUET)
        for line in WARM:
            made(line)
        made("export foreign.pth -o warm.pt --to torchvision", 1)  # no library has this network: it asks them all
        for path in folder.glob("warm.*"):
            path.unlink()
        _interrupt_rows()
        _interrupt_run(Path("third"))
        _interrupt_steps()


def made(line: str, expected: int = 0) -> None:
    """Runs a command line that must end with the ``expected`` exit code."""
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        code = main(shlex.split(line))
    if code != expected:
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


def _other_photos(folder: Path) -> None:
    """The same images with one more, and images of 16 bits and with alpha."""
    shutil.copytree(folder / "photos", folder / "other_photos")
    shutil.copy(folder / "photos" / "val" / "ant" / "0.jpg", folder / "other_photos" / "train" / "ant" / "7.jpg")
    shutil.copy(folder / "photos" / "val" / "ant" / "0.jpg", folder / "other_photos" / "val" / "ant" / "7.jpg")
    rng = np.random.default_rng(2)
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            (folder / "deep" / split / name).mkdir(parents=True)
            for i in range(4):
                wide = Image.fromarray(rng.integers(0, 65536, (16, 18), np.uint16))
                image = Image.fromarray(rng.integers(0, 256, (16, 18, 4), np.uint8)) if i % 2 else wide
                image.save(folder / "deep" / split / name / f"{i}.png")


def _arrays(folder: Path) -> None:
    """Images as arrays: .npy files of 8 bits, and a .npz file of 16 bits with labels that are names."""
    rng, split_counts = np.random.default_rng(3), {"train": 12, "val": 6}
    (folder / "arrays").mkdir()
    archive = {}
    for split, count in split_counts.items():
        labels = np.arange(count) % 3
        np.save(folder / "arrays" / f"{split}.npy", rng.integers(0, 256, (count, 16, 16, 3), np.uint8))
        np.save(folder / "arrays" / f"{split}_labels.npy", labels)
        archive[f"{split}_images"] = rng.integers(0, 65536, (count, 16, 16), np.uint16)
        archive[f"{split}_labels"] = np.array(["ant", "bee", "cat"])[labels]
    np.savez(folder / "arrays.npz", **archive)


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
    large = build_backbone("resnet18", stem="imagenet")[0].half().state_dict()
    torch.save({"arch": "resnet18", "state_dict": large}, folder / LARGE)


def _interrupt_run(run: Path) -> None:
    """Takes a run back to its first epoch, from which it can be resumed."""
    (run / "checkpoint_0000.pt").rename(run / "checkpoint.pt")
    (run / "checkpoint_0001.pt").unlink()
    first = (run / "metrics.jsonl").read_text().splitlines(keepends=True)[0]
    (run / "metrics.jsonl").write_text(first)


def _interrupt_rows() -> None:
    """Leaves what a ``save-reprs -o new.pt`` that was killed leaves. Its folder had one more image, so that the list of
    images is read."""
    extra = Path("photos/val/cat/9.png")
    shutil.copy("photos/val/cat/1.png", extra)
    with mock.patch.object(PartialFile, "remove", PartialFile.close):
        made(UNFINISHED)
    for path in (extra, Path("new.pt")):
        path.unlink()
    with open(".new.pt.unfinished", "r+b") as stream:
        stream.truncate(Path(".new.pt.unfinished").stat().st_size - 200)


def _interrupt_steps() -> None:
    """Leaves runs that a signal stopped after their first step."""
    shutil.copytree("clustered", "labelling")
    for name in ("selflabelled.pt", "assignments_selflabel.pt"):
        Path("labelling", name).unlink()
    stop = TrainingLoop._save_within_epoch
    with mock.patch.object(TrainingLoop, "_save_within_epoch", lambda loop, signal: stop(loop, SIGTERM)):
        for line in INTERRUPTED:
            made(line, 128 + SIGTERM)
