"""What many images cost before the first is read: shards that are indexed or streamed, and orders of images.

    python benchmarks/shards.py [--images 200000]

Writes shards of 10,000 tiny files, opens them as ``pretrain`` does with and without ``--stream``, each in a process of
its own, and computes a million places of an order of 10**9 images. Times are processor times of one thread, memory is
what the process adds to its resident set.
"""

from __future__ import annotations

import io
import multiprocessing
import tarfile
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

PER_SHARD = 10_000


def write(folder: Path, images: int) -> str:
    """The pattern of shards of ``images`` one-pixel images."""
    stream = io.BytesIO()
    Image.new("RGB", (1, 1)).save(stream, "PNG")
    content = stream.getvalue()
    count = -(-images // PER_SHARD)
    for number in range(count):
        with tarfile.open(folder / f"{number:04d}.tar", "w") as archive:
            for row in range(PER_SHARD):
                info = tarfile.TarInfo(f"{number:04d}{row:06d}.png")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return str(folder / f"{{0000..{count - 1:04d}}}.tar")


def resident() -> float:
    """The resident set of this process in bytes."""
    return 4096.0 * int(Path("/proc/self/statm").read_text().split()[1])


def index(pattern: str, images: int) -> tuple[float, float]:
    """Seconds and bytes of listing the images of all shards."""
    from ssltool.config import DataSettings
    from ssltool.data.layouts.webdataset import read

    before, start = resident(), time.process_time()
    images_found = read(Path(pattern), "train", DataSettings(data=pattern))
    seconds = time.process_time() - start
    return seconds / len(images_found), (resident() - before) / len(images_found)


def stream(pattern: str, images: int) -> tuple[float, float]:
    """Seconds and bytes of finding the place of each image of a stream, in order."""
    from ssltool.config import DataSettings
    from ssltool.data.shard_stream import open_stream

    before, start = resident(), time.process_time()
    source = open_stream(DataSettings(data=pattern), images).paths
    for row in range(images):
        source.name(row)
    seconds = time.process_time() - start
    return seconds / images, (resident() - before) / images


def in_a_process(measure, *args: object) -> tuple[float, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, args)


@click.command()
@click.option("--images", default=200_000, show_default=True)
def main(images: int) -> None:
    from ssltool.data.computed_orders import KeyedPermutation

    with tempfile.TemporaryDirectory() as folder:
        pattern = write(Path(folder), images)
        print("| an image of | microseconds | bytes |\n|---|---|---|")
        for name, measure in (("indexed shards", index), ("a stream of shards", stream)):
            seconds, used = in_a_process(measure, pattern, images)
            print(f"| {name} | {1e6 * seconds:.1f} | {used:.0f} |")
    start = time.process_time()
    KeyedPermutation(10**9, 1)[: 10**6]
    print(f"| a keyed order of 10**9 | {time.process_time() - start:.2f} | 0 |")
    start = time.process_time()
    np.random.RandomState(1).permutation(10**7)
    print(f"| an order in memory | {(time.process_time() - start) / 10:.2f} | 8 |")


if __name__ == "__main__":
    main()
