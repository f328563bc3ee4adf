"""Crops of photographs on one core, read by ``ssltool`` and by FFCV: decoded images in one file, and JPEG.

    python benchmarks/ffcv_reading.py [--images 256] [--rounds 5] [--sizes 224 96]

The images are those of ``file_views.py``, JPEG of 500 x 375 pixels and quality 90. ``raw`` is the cache of ``ssltool``
with a shorter side of 256 pixels, and FFCV's raw mode with the same pixels; ``jpg`` is the files, and FFCV's jpg mode.
Each makes two views of each image: random crop, flip, standardised floats. FFCV has no hue, greyscale or blur, so the
rest of the recipe is left out in both. Needs ffcv, which needs the headers of OpenCV and libturbojpeg to be built.

The rounds alternate. Times are processor times of the process, medians over the rounds; the ratios are of medians.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from cache import of_cache
from ffcv.fields import RGBImageField
from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader as FFCVLoader
from ffcv.loader import OrderOption
from ffcv.pipeline.pipeline_spec import PipelineSpec
from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv.writer import DatasetWriter
from file_views import BATCH, by_loader, image_set, medians, open_pil, write_photographs

from ssltool.config import DataSettings
from ssltool.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ssltool.data.views import PLAIN
from ssltool.training.progress import quiet


class Pixels:
    """Images as FFCV's writer takes them: a tuple for each."""

    def __init__(self, images: Sequence[np.ndarray]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        return (self.images[index],)


def write_ffcv(path: Path, images: Sequence[np.ndarray], mode: str) -> None:
    field = RGBImageField(write_mode=mode, jpeg_quality=90)
    DatasetWriter(str(path), {"image": field}, num_workers=1).from_indexed_dataset(Pixels(images))


def by_ffcv(path: Path, size: int) -> Callable[[int], None]:
    """A function that reads an epoch with FFCV. Its loader is made once, because it compiles its pipeline."""
    mean, std = (255 * np.array(values) for values in (IMAGENET_MEAN, IMAGENET_STD))

    def view() -> PipelineSpec:
        decoder = RandomResizedCropRGBImageDecoder((size, size), scale=(0.2, 1.0))
        transforms = [RandomHorizontalFlip(), NormalizeImage(mean, std, np.float32), ToTensor(), ToTorchImage()]
        return PipelineSpec("image", decoder=decoder, transforms=transforms)

    views = {"view1": view(), "view2": view(), "image": None}
    loader = FFCVLoader(str(path), BATCH, num_workers=1, order=OrderOption.RANDOM, pipelines=views, seed=0)

    def epoch(_: int) -> None:
        for _ in loader:
            pass

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 96], help="sides of the views in pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, quiet():
        source = Path(name, "files")
        source.mkdir()
        paths = write_photographs(source, args.images)
        settings = DataSettings(data=str(source), cache=str(Path(name, "cache")), cache_size=256, workers=1)
        files, cached = image_set(paths), of_cache(settings)
        raw, jpg = Path(name, "raw.beton"), Path(name, "jpg.beton")
        write_ffcv(raw, [cached.cached.pixels(row) for row in range(len(paths))], "raw")
        write_ffcv(jpg, [np.asarray(open_pil(path)) for path in paths], "jpg")
        print("| images | views | ssltool, ms an image | images/s | FFCV, ms an image | images/s | ratio |")
        print("|---|---|---|---|---|---|---|")
        for mode, images, path in (("raw", cached, raw), ("jpg", files, jpg)):
            for size in args.sizes:
                ours = functools.partial(by_loader, images, size, recipe=PLAIN)
                programs = {"ssltool": ours, "FFCV": by_ffcv(path, size)}
                own, theirs = medians(programs, args.rounds, len(paths)).values()
                cells = f"{own:.2f} | {1000 / own:,.0f} | {theirs:.2f} | {1000 / theirs:,.0f} | {theirs / own:.2f}"
                print(f"| {mode} | two of {size} px | {cells} |", flush=True)


if __name__ == "__main__":
    main()
