"""How fast this machine is: a matrix product, views of JPEG files, and a short training, beside a reference machine."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssltool.data.images import ImageSet
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.settings import Record
from ssltool.training.device import DTYPES

SECONDS = 2.0
"""For how long a matrix product and the views are repeated."""

SIDE = 2048
"""Rows and columns of the matrices."""

PHOTOGRAPH = (375, 500)
"""Height and width of the JPEG files."""

TRAINING = ("-a", "resnet18_w16", "-b", "64", "--epochs", "2", "--steps-per-epoch", "12", "--monitor-every", "0")
"""The training; the rate of its second epoch counts."""

TOO_LONG = 300
"""Seconds after which the training is stopped."""

VIEWS = "JPEG to two views of 224 px, one process"
TRAINED = "training of resnet18_w16, 28 px, batches of 64"

REFERENCE_MACHINE = "2 cores of an AMD EPYC with Zen 3, in a virtual machine, torch 2.14, fp32"
REFERENCE = {"matrix product, fp32": 108.0, VIEWS: 162.0, TRAINED: 285.0}
"""The medians of three ``ssltool doctor`` on the reference machine, which multiplies no bf16."""

Figure = tuple[str, float, str]
"""Name, value and unit."""


def speed_test(device: str, precision: str) -> Record:
    """{"measured": [{"name", "value", "unit", "reference", "ratio"}], "reference_machine"}. A ratio above 1 is faster.

    Raises:
        SSLToolError: if the training fails.
    """
    figures = [_product(device, "fp32")]
    figures += [_product(device, precision)] if precision != "fp32" else []
    figures += [_views(), _training(device)]
    return {"measured": [_compared(*figure) for figure in figures], "reference_machine": REFERENCE_MACHINE}


def _compared(name: str, value: float, unit: str) -> Record:
    reference = REFERENCE.get(name)
    ratio = None if reference is None else round(value / reference, 2)
    return {"name": name, "value": float(f"{value:.3g}"), "unit": unit, "reference": reference, "ratio": ratio}


def _product(device: str, precision: str) -> Figure:
    dtype = DTYPES.get(precision, torch.float32)
    a = torch.randn(SIDE, SIDE, device=device).to(dtype)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        float((a @ a)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return f"matrix product, {precision}", 2 * SIDE**3 / best / 1e9, "GFLOP/s"


def _views() -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_photographs(Path(folder), 16)
        count = len(paths)
        images = ImageSet("files", "train", np.zeros(count, np.int64), np.arange(count), paths=tuple(paths))
        loader = Loader(images, IMAGENET.at(224), torch.device("cpu"))
        made, epoch, start = 0, 0, 0.0
        while epoch < 2 or time.perf_counter() - start < SECONDS:
            start = time.perf_counter() if epoch == 1 else start  # the first epoch imports and warms up
            made += count if epoch else 0
            for _ in loader.train(np.arange(count), [PAPER, PAPER], batch_size=count, seed=0, epoch=epoch):
                pass
            epoch += 1
        return VIEWS, made / (time.perf_counter() - start), "images/s"


def _write_photographs(folder: Path, count: int) -> list[str]:
    """JPEG files of coloured shapes with noise."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(PHOTOGRAPH[::-1], Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{number}.jpg"))
        Image.fromarray(noisy).save(paths[-1], quality=90)
    return paths


def _training(device: str) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        command = [sys.executable, "-m", "ssltool", "pretrain", *TRAINING, "--device", device, "-o", run]
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=TOO_LONG)
        except subprocess.TimeoutExpired as error:
            raise SSLToolError(f"a training of 24 steps did not end within {TOO_LONG} s") from error
        if ran.returncode:
            raise SSLToolError(f"a short training failed: {(ran.stderr.strip().splitlines() or ['no message'])[-1]}")
        last = (Path(run) / "metrics.jsonl").read_text().splitlines()[-1]
    return TRAINED, json.loads(last)["images_per_second"], "images/s"
