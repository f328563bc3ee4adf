"""Batched views compared with torchvision's per-image transforms: the same recipe on the same images, one core each.

    python benchmarks/views.py [--size 32] [--images 512] [--channels 3]

Prints views/s of both and their ratio. The reference is the paper's pipeline: PIL images through RandomResizedCrop,
ColorJitter, RandomGrayscale, Gaussian blur, flip, ToTensor and Normalize, one image at a time.
"""

from __future__ import annotations

import argparse
import random
import time

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from ssltool import seeds
from ssltool.data import views
from ssltool.data.preprocessing import IMAGENET, IMAGENET_MEAN, IMAGENET_STD

REPEATS = 3


class PilBlur:
    """Gaussian blur of a PIL image with a random sigma, as MoCo v2 does it."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def peer(size: int) -> transforms.Compose:
    """The paper's recipe in torchvision's per-image transforms."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([PilBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def seconds(work) -> float:
    """The shortest time of ``REPEATS`` runs."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="side of images and views in pixels")
    parser.add_argument("--images", type=int, default=512, help="images in the batch")
    parser.add_argument("--channels", type=int, default=3, choices=(1, 3))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (args.images, args.channels, args.size, args.size), np.uint8)
    batch = torch.from_numpy(pixels)
    colour = np.ascontiguousarray(np.broadcast_to(pixels, (args.images, 3, args.size, args.size)).transpose(0, 2, 3, 1))
    pictures = [Image.fromarray(image) for image in colour]
    transform, generator = peer(args.size), seeds.generator(0)

    ours = seconds(
        lambda: views.train_view(batch, views.sample_params(args.images, views.PAPER, generator), args.size, IMAGENET)
    )
    theirs = seconds(lambda: torch.stack([transform(picture) for picture in pictures]))
    print(f"{args.images} images of {args.size} px, {args.channels} channel(s), one thread, best of {REPEATS}")
    print(f"per-image PIL transforms  {args.images / theirs:10,.0f} views/s")
    print(f"batched views             {args.images / ours:10,.0f} views/s")
    print(f"ratio                     {theirs / ours:10.1f}")


if __name__ == "__main__":
    main()
