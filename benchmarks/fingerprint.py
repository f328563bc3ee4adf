"""The cost of knowing the images: the fingerprint of a large folder, and its share of save-reprs.

    python benchmarks/fingerprint.py [--files 100000] [--images 8000] [--arch resnet18_w16] [--repeats 3] [--threads 2]

``list`` finds the image files of a folder of small files in 100 class folders, ``fingerprint`` reads their first and
last 4 KB and hashes them. ``share`` is the time of the fingerprint and the manifest of in-memory images, divided by the
time of ``ssltool save-reprs`` on them. Seconds are the best of the runs; CPU is the processor time, which other
programs on the machine affect less.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from ssltool.config import DataSettings, PretrainConfig, SaveReprsConfig
from ssltool.data import fingerprint
from ssltool.data.images import open_dataset
from ssltool.data.listing import list_images
from ssltool.data.manifest import Manifest
from ssltool.stages.pretrain import run as pretrain
from ssltool.stages.save_reprs import run as save_reprs
from ssltool.training.progress import quiet

CLASSES = 100


def seconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The best wall time and the best processor time of ``work``."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        work()
        times.append((time.perf_counter() - start[0], time.process_time() - start[1]))
    wall, processor = zip(*times, strict=True)
    return min(wall), min(processor)


def write_files(folder: Path, count: int) -> None:
    """Files of 10 KB of random bytes, whose names end in .jpg."""
    content = np.random.default_rng(0).bytes(10_000)
    for number in range(count):
        path = folder / f"class{number % CLASSES:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(number.to_bytes(8, "little") + content)


def folder_row(count: int, repeats: int) -> str:
    """The times of a folder of ``count`` files."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, count)
        files = [str(folder / file) for file in list_images(folder).files]
        listing = seconds(lambda: list_images(folder), repeats)
        reading = seconds(lambda: fingerprint.fingerprint(files, fingerprint.of_files(files).digests), repeats)
    return f"| {count:,} | {listing[0]:.2f} | {listing[1]:.2f} | {reading[0]:.2f} | {reading[1]:.2f} |"


def share_row(arch: str, count: int, repeats: int) -> str:
    """The share of fingerprint and manifest in save-reprs on ``count`` bundled images."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        schedule = {"epochs": 1, "steps_per_epoch": 1, "batch_size": 8, "monitor_every": 0, "device": "cpu"}
        run = pretrain(PretrainConfig(arch=arch, dim=64, pred_dim=16, out=str(folder / "run"), **schedule))
        np.save(folder / "some.npy", np.arange(count))
        flags = {"pretrained": str(run / "checkpoint.pt"), "idx_path": str(folder / "some.npy"), "device": "cpu"}
        whole, _ = seconds(lambda: save_reprs(SaveReprsConfig(**flags, out=str(folder / "r.pt"))), repeats)
        images = open_dataset(DataSettings(), "train")
        pixels = np.asarray(images.images)

        def identify() -> None:
            fingerprint.fingerprint(None, fingerprint.of_arrays(pixels))
            Manifest.of(images).save(folder / "manifest")

        own, _ = seconds(identify, max(5, repeats))
    return f"| {arch} | {count:,} | {whole:.3f} | {own:.4f} | {own / whole:.2%} |"


@click.command(help=__doc__)
@click.option("--files", default=100_000)
@click.option("--images", default=8000)
@click.option("--arch", "archs", multiple=True, default=("resnet18_w16", "resnet18"))
@click.option("--repeats", default=3)
@click.option("--threads", default=2)
def main(files: int, images: int, archs: tuple[str, ...], repeats: int, threads: int) -> None:
    """Runs both measurements."""
    torch.set_num_threads(threads)
    print(f"{os.cpu_count()} CPUs\n\n| files | list, s | CPU, s | fingerprint, s | CPU, s |\n|---|---|---|---|---|")
    with quiet():
        print(folder_row(files, repeats), flush=True)
        print("\n| network | images | save-reprs, s | fingerprint and manifest, s | share |\n|---|---|---|---|---|")
        for arch in archs:
            print(share_row(arch, images, repeats), flush=True)


if __name__ == "__main__":
    main()
