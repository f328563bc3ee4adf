"""Decodes image files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

from ssltool.errors import SSLToolError, first_line
from ssltool.training.progress import has_bars, is_quiet

if TYPE_CHECKING:
    from ssltool.data.images import ImageSet

MEMORY_LIMIT = 2 * 2**30
"""Bytes up to which image files of one size are decoded into memory."""

READ_AHEAD = 1024
"""Image files that are decoded ahead of their use, which bounds the memory that they take."""

OWN_SIZE_LIMIT = 96
"""Pixels up to which images of one size are used at that size by default."""


def decode(path: str) -> Image.Image:
    """The image in a file, as RGB.

    Raises:
        SSLToolError: if it cannot be decoded; the message names the file.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SSLToolError(
            f"corrupt image {path} ({first_line(error)}); replace it, or skip it with --skip-corrupt"
        ) from error


def _try_decode(path: str) -> Image.Image | SSLToolError:
    try:
        return decode(path)
    except SSLToolError as error:
        return error


def into_memory(images: ImageSet, skip_corrupt: bool) -> ImageSet:
    """Decodes the images into memory if they have one size and fit; with ``skip_corrupt``, drops unreadable ones."""
    paths = images.paths or ()
    size = _common_size(paths)
    images = dataclasses.replace(images, size=size)
    fits = size is not None and 3 * size[0] * size[1] * len(paths) <= MEMORY_LIMIT
    if not fits and not skip_corrupt:
        return images
    pixels = torch.empty((len(paths), 3, size[1], size[0]), dtype=torch.uint8) if fits and size else None
    readable = np.zeros(len(paths), bool)
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(paths), desc="reading images", disable=is_quiet() or not has_bars(), leave=False) as bar,
    ):
        for start in range(0, len(paths), READ_AHEAD):
            for row, image in enumerate(pool.map(_try_decode, paths[start : start + READ_AHEAD]), start):
                bar.update()
                if isinstance(image, SSLToolError):
                    if not skip_corrupt:
                        raise image
                    continue
                readable[row] = True
                if pixels is not None:
                    pixels[row] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    rows = np.flatnonzero(readable)
    skipped = len(paths) - len(rows)
    if pixels is not None:
        images = dataclasses.replace(images, images=pixels, paths=None)
    return dataclasses.replace(images.select(rows) if skipped else images, skipped=skipped)


def _common_size(paths: Sequence[str]) -> tuple[int, int] | None:
    """The (width, height) of all readable files if it is the same; None if it is not, or if the images are large and
    do not fit into memory, so that it does not matter."""
    common: tuple[int, int] | None = None
    for path in paths:
        try:
            with Image.open(path) as image:
                size = image.size
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError):
            continue
        common = common or size
        large = max(size) > OWN_SIZE_LIMIT and 3 * size[0] * size[1] * len(paths) > MEMORY_LIMIT
        if size != common or large:
            return None
    return common
