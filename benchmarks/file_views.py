"""Augmented views of JPEG files on one core, compared with torchvision's transforms: decoded once, two views of each.

    python benchmarks/file_views.py [--images 64] [--rounds 5] [--sizes 224 96]

The files are crops of 500 x 375 pixels, mirrored and of varied brightness, of the two photographs that scikit-learn has
(``load_sample_images``), saved as JPEG of quality 90. The recipe is SimSiam's: crop, flip, colour jitter, greyscale,
Gaussian blur, normalisation. Peers are torchvision's transforms v1 and v2 on PIL images, and v2 on 8-bit tensors that
``torchvision.io`` decodes. Ours is the loader of ``ssltool pretrain`` without workers.

The rounds of all pipelines alternate. Times are processor times, medians over the rounds, because the machine may be
shared; the ratios are of medians.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from sklearn.datasets import load_sample_images
from torchvision import io, transforms
from torchvision.transforms import v2

from ssltool.data.images import ImageSet
from ssltool.data.loader import Loader
from ssltool.data.preprocessing import IMAGENET, IMAGENET_MEAN, IMAGENET_STD
from ssltool.data.views import PAPER, Recipe

SIZE = (500, 375)
QUALITY = 90
BATCH = 32


def write_photographs(folder: Path, count: int) -> list[str]:
    """``count`` JPEG files, varied crops of the photographs of scikit-learn."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    paths = []
    for number in range(count):
        image = photographs[number % 2]
        left, top = (int(rng.integers(0, room + 1)) for room in (image.width - SIZE[0], image.height - SIZE[1]))
        image = image.crop((left, top, left + SIZE[0], top + SIZE[1]))
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 4 > 1 else image
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.3))
        paths.append(str(folder / f"{number:04d}.jpg"))
        image.save(paths[-1], quality=QUALITY)
    return paths


class PilBlur:
    """Gaussian blur of a PIL image with a random sigma, as MoCo v2 does it."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def steps(of: object, size: int, blur: Callable, end: list) -> Callable:
    """The recipe in the transforms of torchvision v1 or v2."""
    return of.Compose(
        [
            of.RandomResizedCrop(size, scale=(0.2, 1.0)),
            of.RandomApply([of.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            of.RandomGrayscale(p=0.2),
            of.RandomApply([blur], p=0.5),
            of.RandomHorizontalFlip(),
            *end,
            of.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def peers(size: int) -> dict[str, tuple[Callable, Callable]]:
    """The decoder and the transform of each peer."""
    to_float = [v2.ToDtype(torch.float32, scale=True)]
    return {
        "torchvision v1, PIL": (open_pil, steps(transforms, size, PilBlur(), [transforms.ToTensor()])),
        "torchvision v2, PIL": (open_pil, steps(v2, size, PilBlur(), [v2.ToImage(), *to_float])),
        "torchvision v2, tensors": (open_tensor, steps(v2, size, v2.GaussianBlur(13, (0.1, 2.0)), to_float)),
    }


def open_pil(path: str) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def open_tensor(path: str) -> torch.Tensor:
    return io.decode_image(path, mode=io.ImageReadMode.RGB)


def by_peer(paths: list[str], decoder: Callable, transform: Callable) -> None:
    for start in range(0, len(paths), BATCH):
        images = map(decoder, paths[start : start + BATCH])
        pairs = [(transform(image), transform(image)) for image in images]
        for view in zip(*pairs, strict=True):
            torch.stack(view)


def image_set(paths: Sequence[str]) -> ImageSet:
    """Files as the loader takes them."""
    count = len(paths)
    return ImageSet("images", "train", np.full(count, -1), np.arange(count), paths=tuple(paths))


def by_loader(images: ImageSet, size: int, epoch: int, recipe: Recipe = PAPER) -> None:
    """An epoch of two views by the loader of ``ssltool pretrain``, without workers."""
    loader = Loader(images, IMAGENET.at(size), torch.device("cpu"))
    for _ in loader.train(np.arange(len(images)), [recipe, recipe], batch_size=BATCH, seed=0, epoch=epoch):
        pass


def milliseconds(work: Callable[[], None], count: int) -> float:
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start) / count


def medians(programs: Mapping[str, Callable[[int], None]], rounds: int, count: int) -> dict[str, float]:
    """Milliseconds an image of each program, which is called with the number of the round and goes through ``count``
    images: medians over rounds in which the programs alternate. Round 0 warms up."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            spent = milliseconds(functools.partial(program, number), count)
            times[name] += [spent] if number else []
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 96], help="sides of the views in pixels")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), args.images)
        files = image_set(paths)
        mean = sum(map(os.path.getsize, paths)) / len(paths)
        print(
            f"{args.images} JPEG files of {SIZE[0]} x {SIZE[1]}, {mean / 1000:.0f} KB on average, two views, one thread"
        )
        for size in args.sizes:
            programs = {
                name: lambda _, d=decoder, t=transform: by_peer(paths, d, t)
                for name, (decoder, transform) in peers(size).items()
            }
            programs["ssltool"] = lambda epoch, size=size: by_loader(files, size, epoch)
            times = medians(programs, args.rounds, len(paths))
            for name, middle in times.items():
                line = f"{size} px  {name:25} {middle:6.2f} ms an image {1000 / middle:6.0f} images/s"
                print(f"{line}  {middle / times['ssltool']:5.2f}")


if __name__ == "__main__":
    main()
