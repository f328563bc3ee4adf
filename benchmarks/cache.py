"""Views of photographs on one core: decoding the JPEG files in every epoch, compared with a cache of decoded images.

    python benchmarks/cache.py [--images 128] [--rounds 5] [--sizes 224 96] [--cache-size 256]

The files are those of ``file_views.py``: JPEG of 500 x 375 pixels and quality 90. Both ways make two views of each
image with SimSiam's recipe, standardised, by the loader of ``ssltool pretrain`` without workers; then its validation
transform. The file of the cache fits into memory.

The rounds alternate. Times are processor times, medians over the rounds, because the machine may be shared; the ratios
are of medians.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from file_views import BATCH, SIZE, by_loader, image_set, medians, milliseconds, write_photographs

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET
from ssltool.training.progress import quiet


def of_cache(settings: DataSettings) -> ImageSet:
    """The images of a cache, which is written if there is none. Not in memory, where images of one size would be: as of
    a folder with images of several sizes."""
    found = open_dataset(settings, "train")
    return ImageSet("images", "train", found.labels, np.arange(len(found)), rules=found.rules, cached=found.cached)


def evaluate(images: ImageSet, size: int, epoch: int) -> None:
    for _ in Loader(images, IMAGENET.at(size), torch.device("cpu")).evaluate(BATCH):
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 96], help="sides of the views in pixels")
    parser.add_argument("--cache-size", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, quiet():
        source, cache = Path(name, "files"), Path(name, "cache")
        source.mkdir()
        paths = write_photographs(source, args.images)
        files = image_set(paths)
        settings = DataSettings(data=str(source), cache=str(cache), cache_size=args.cache_size, workers=1)
        writing = milliseconds(lambda: open_dataset(settings, "train"), len(paths))
        cached = of_cache(settings)
        held = sum(file.stat().st_size for file in cache.iterdir())
        print(f"{len(paths)} JPEG files of {SIZE[0]} x {SIZE[1]}, {sum(map(os.path.getsize, paths)) / 1e6:.0f} MB")
        print(f"cache of {args.cache_size}: {held / 1e6:.0f} MB, written in {writing:.2f} ms an image\n")
        print("| views | decode, ms an image | images/s | cache, ms an image | images/s | ratio |")
        print("|---|---|---|---|---|---|")
        for work, title in ((by_loader, "two views of {} px"), (evaluate, "the validation transform, {} px")):
            for size in args.sizes:
                programs = {
                    way: lambda epoch, i=images, w=work, s=size: w(i, s, epoch)
                    for way, images in (("decode", files), ("cache", cached))
                }
                decode, read = medians(programs, args.rounds, len(paths)).values()
                cells = f"{decode:.2f} | {1000 / decode:,.0f} | {read:.2f} | {1000 / read:,.0f} | {decode / read:.2f}"
                print(f"| {title.format(size)} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
