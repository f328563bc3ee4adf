"""A random sample of the images of a dataset: one rule, so that the commands take the same images."""

from __future__ import annotations

import numpy as np

from ssltool import seeds
from ssltool.data.images import ImageSet


def sample_images(images: ImageSet, count: int, seed: int) -> ImageSet:
    """At most ``count`` of the images, in their order. They depend on the number of images and the seed only, and a
    smaller sample is part of a larger one."""
    random = np.random.RandomState(seeds.derive(seed, seeds.Stream.SAVED_VIEWS) % 2**32)
    return images.select(np.sort(random.permutation(len(images))[:count]))
