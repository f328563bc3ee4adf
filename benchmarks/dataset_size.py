"""Start-up time and memory against the number of images in a folder.

    python benchmarks/dataset_size.py [--counts 100 10000 100000] [--workers 2] [--cache] [--names-only 1000000]

Each folder has hard links to 100 JPEG files of different sizes in up to 100 class folders; the content of a file is
read, and hashed, for each link. Each count is measured in a process of its own: ``open`` is ``open_dataset`` (list the
folder, read the ends of each file, read a sample of headers) for the second time; ``first batch`` starts the workers
and reads a batch. Memory is the resident set: of the main process, without what it has before the data are opened;
and of a worker, without the pages that it shares (``Private_Dirty`` in ``/proc/PID/smaps_rollup``), after 20 batches.
With ``--cache`` the images are written to a cache of 32 pixels first. ``--names-only`` makes no files: an ``ImageSet``
with as many names, whose first images exist.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.data.views import PAPER
from ssltool.training.progress import quiet

FILES = 100
BATCH = 64
BATCHES = 20


def write_files(folder: Path) -> list[Path]:
    """``FILES`` JPEG files of different sizes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.jpg" for number in range(FILES)]
    for number, path in enumerate(paths):
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64 + number, 64)).save(path)
    return paths


def write_folder(folder: Path, files: list[Path], count: int) -> None:
    """``count`` hard links in up to 100 class folders. A file of Linux's ext4 has at most 65,000 links."""
    for number in range(count):
        path = folder / f"n{number % min(100, count // 10):08d}" / f"n{number:08d}_{number:08d}.JPEG"
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[number % FILES], path)


def resident(pid: int, key: str) -> float:
    """A line of ``smaps_rollup`` in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1000


def measure(open_images: Callable[[], ImageSet], workers: int) -> str:
    """The cells of one count."""
    with quiet():
        before = resident(os.getpid(), "Rss")
        start, processor = time.perf_counter(), time.process_time()
        images = open_images()
        opened, spent = time.perf_counter() - start, time.process_time() - processor
        gc.collect()
        main = resident(os.getpid(), "Rss") - before
        start = time.perf_counter()
        loader = Loader(images, IMAGENET.at(32), torch.device("cpu"), workers)
        order = np.resize(np.random.default_rng(0).permutation(min(len(images), 100_000)), BATCH * BATCHES)
        with contextlib.closing(loader):
            batches = loader.train(order, [PAPER, PAPER], batch_size=BATCH, seed=0, epoch=0)
            next(batches)
            first = time.perf_counter() - start
            for _ in itertools.islice(batches, BATCHES - 2):
                pass
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            worker = max(resident(int(pid), "Private_Dirty") for pid in children)
    return f"{opened:.2f} | {spent:.2f} | {first:.2f} | {main:,.0f} | {worker:,.0f}"


def names_only(folder: Path, count: int) -> ImageSet:
    """``count`` names, of which each hundred stands for the files."""
    paths = tuple(f"{folder}/{number % FILES}.jpg" for number in range(count))
    rows = np.arange(count)
    return ImageSet("images", "train", np.full(count, -1), rows, paths=paths, files=paths, digests=rows)


def settings_of(data: str, cache: str) -> DataSettings:
    return DataSettings(data=data, cache=cache or None, cache_size=32 if cache else None)


def child(data: str, cache: str, count: int, workers: int) -> None:
    def open_images() -> ImageSet:
        return names_only(Path(data), count) if count else open_dataset(settings_of(data, cache), "train")

    print(measure(open_images, workers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="*", default=[100, 10_000, 100_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache", action="store_true")
    parser.add_argument("--names-only", type=int, nargs="*", default=[])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], int(args.child[2]), args.workers)
        return
    print("| images | open, s | its CPU, s | first batch, s | main, MB | a worker, MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        files = write_files(Path(name, "files"))
        for count in args.counts:
            folder, cache = Path(name, str(count)), str(Path(name, f"cache{count}")) if args.cache else ""
            write_folder(folder, files, count)
            with quiet():
                open_dataset(
                    DataSettings(data=str(folder), cache=cache or None, cache_size=32 if cache else None), "train"
                )
            row(f"{count:,}", str(folder), cache, 0, args.workers)
        for count in args.names_only:
            row(f"{count:,}, names only", str(files[0].parent), "", count, args.workers)


def row(title: str, data: str, cache: str, count: int, workers: int) -> None:
    command = [sys.executable, __file__, "--workers", str(workers), "--child", data, cache, str(count)]
    cells = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    print(f"| {title} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
