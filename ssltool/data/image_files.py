"""The image files of a set: what a sample of them shows before they are read, and reading them into memory."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ssltool.data.decoding import Header, decode, read_header, read_values
from ssltool.data.listing import CORRUPT
from ssltool.data.opening import CorruptImage, without_warnings
from ssltool.data.pixels import SAMPLE_IMAGES, PixelRules, ValueType, evenly_spaced, settle, unused
from ssltool.data.sources import Encoded, Source
from ssltool.training.progress import has_bars, is_quiet

if TYPE_CHECKING:
    from ssltool.data.images import ImageSet

MEMORY_LIMIT = 2 * 2**30
"""Bytes up to which image files of one size are decoded into memory."""

READ_AHEAD = 1024
"""Image files that are decoded ahead of their use, which bounds the memory that they take."""

OWN_SIZE_LIMIT = 96
"""Pixels up to which images of one size are used at that size by default."""

SAMPLE_HEADERS = 256
"""Files whose headers are read where not all are."""


@dataclass(frozen=True)
class Survey:
    """The headers of image files.

    Attributes:
        size: the (width, height) of all readable files if it is the same; None if it is not, or if the images are
            large and do not fit into memory, so that it does not matter.
        headers: the path and header of each readable file of the survey.
        whole: whether it covers all files, or a sample.
    """

    size: tuple[int, int] | None
    headers: list[tuple[Encoded, Header]]
    whole: bool

    @property
    def wide(self) -> list[tuple[Encoded, ValueType]]:
        """The path and type of each image with more than 8 bits."""
        return [(path, header.kind) for path, header in self.headers if header.kind is not None]

    def notes(self, rules: PixelRules) -> list[str]:
        """What happens to the pixels of some of the images, a line each."""
        headers = [header for _, header in self.headers]
        alpha, turned, frames, unnamed = (
            sum(getattr(header, name) for header in headers) for name in ("alpha", "turned", "frames", "unnamed")
        )
        of = f"of {'' if self.whole else 'a sample of '}{len(headers):,} images"
        lines = {
            f"{frames:,} {of} have several frames; the first one is used": frames,
            f"{unnamed:,} {of} have a further channel, which is left out": unnamed,
        }
        if rules.raw:
            lines |= {
                f"{alpha:,} {of} have an alpha channel, which raw pixels leave out (--no-raw-pixels)": alpha,
                f"{turned:,} {of} have an EXIF orientation, which raw pixels ignore (--no-raw-pixels)": turned,
            }
        else:
            colour = rules.settings()["background"]
            lines[f"{alpha:,} {of} have an alpha channel; the background is {colour} (--background)"] = alpha
        notes = [line for line, count in lines.items() if count]
        return notes + (unused(rules, wide=bool(self.wide), alpha=bool(alpha)) if self.whole else [])


def survey(paths: Sequence[str] | Source, rules: PixelRules) -> Survey:
    """Reads the headers of all files, or of a sample if the files differ in size or do not fit into memory.

    Raises:
        SSLToolError: if a header shows that an image is not corrupt but cannot be read by ``rules``.
    """
    found: dict[int, Header | None] = {}
    common: tuple[int, int] | None = None
    for row in range(len(paths)):
        header = found[row] = _header(paths[row], rules)
        if header is None:
            continue
        common = common or header.size
        large = max(header.size) > OWN_SIZE_LIMIT and not fits_into_memory(header.size, len(paths))
        if header.size != common or large:
            common = None
            break
    whole = len(found) == len(paths)
    if not whole:
        sample = evenly_spaced(len(paths), SAMPLE_HEADERS)
        found = {row: found[row] if row in found else _header(paths[row], rules) for row in sample}
    return Survey(common, [(paths[row], header) for row, header in found.items() if header is not None], whole)


def fits_into_memory(size: tuple[int, int], count: int) -> bool:
    """Whether ``count`` images of ``size`` are held in memory."""
    return 3 * size[0] * size[1] * count <= MEMORY_LIMIT


def _header(path: Encoded, rules: PixelRules) -> Header | None:
    try:
        return read_header(path, rules)
    except CorruptImage:
        return None  # reading it raises the error, or leaves it out with --skip-corrupt


def _sampled_values(
    wide: Sequence[tuple[Encoded, ValueType]], rules: PixelRules
) -> Iterator[tuple[ValueType, np.ndarray]]:
    for i in evenly_spaced(len(wide), SAMPLE_IMAGES):
        path, kind = wide[i]
        try:
            yield kind, read_values(path, rules)
        except CorruptImage:
            continue


def read_files(images: ImageSet, skip_corrupt: bool) -> tuple[ImageSet, list[str]]:
    """Decodes the images into memory if they have one size and fit; with ``skip_corrupt``, drops unreadable ones.

    Returns:
        The images, with the range of values in their rules; and lines about what happens to their pixels.

    Raises:
        SSLToolError: if an image cannot be decoded, or not by the rules of ``images``.
    """
    images, notes = surveyed(images)
    with without_warnings():
        return _into_memory(images, skip_corrupt), notes


def surveyed(images: ImageSet) -> tuple[ImageSet, list[str]]:
    """The images with what a survey of their headers shows: their size, and the range of their values in their rules.

    Returns and raises as ``read_files``.
    """
    rules = asked = images.rules
    with without_warnings():
        found = survey(images.paths or (), asked)
        if not rules.raw:
            rules = settle(rules, _sampled_values(found.wide, rules))
    images = dataclasses.replace(images, size=found.size, rules=dataclasses.replace(rules, auto=False))
    return images, found.notes(asked)


def _into_memory(images: ImageSet, skip_corrupt: bool) -> ImageSet:
    paths, size = images.paths or (), images.size
    fits = size is not None and fits_into_memory(size, len(paths))
    if not fits and not skip_corrupt:
        return images
    pixels = torch.empty((len(paths), 3, size[1], size[0]), dtype=torch.uint8) if fits and size else None
    readable = np.zeros(len(paths), bool)
    for row, image in enumerate(_decoded(paths, images.rules)):
        if isinstance(image, CorruptImage):
            if not skip_corrupt:
                raise image
            continue
        readable[row] = True
        if size is not None and image.size != size:  # some headers are wrong, as those of icons
            pixels = size = None
            if not skip_corrupt:
                break
        if pixels is not None:
            pixels[row] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    images = dataclasses.replace(images, size=size)
    if pixels is not None:
        images = dataclasses.replace(images, images=pixels, paths=None)
    return images.without({CORRUPT: np.flatnonzero(~readable).tolist()}) if skip_corrupt else images


def _decoded(paths: Sequence[str] | Source, rules: PixelRules) -> Iterator[Image.Image | CorruptImage]:
    """The images in order, decoded by several threads."""

    def attempt(path: Encoded) -> Image.Image | CorruptImage:
        try:
            return decode(path, rules)
        except CorruptImage as error:
            return error

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(paths), desc="reading images", disable=is_quiet() or not has_bars(), leave=False) as bar,
    ):
        for start in range(0, len(paths), READ_AHEAD):
            for image in pool.map(attempt, paths[start : start + READ_AHEAD]):
                bar.update()
                yield image


def pixels(images: ImageSet, row: int) -> np.ndarray:
    """The image in ``row`` without transforms, (H, W, 3) uint8.

    Raises:
        SSLToolError: if its file cannot be decoded.
    """
    if images.images is not None:
        return images.images[row].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
    if images.cached is not None:
        return images.cached.pixels(row)
    return np.asarray(decode((images.paths or ())[row], images.rules))


def identical(images: ImageSet) -> bool:
    """Whether all images of an evenly spaced sample of two or more are the same, pixel by pixel.

    Raises:
        SSLToolError: if an image of the sample cannot be decoded.
    """
    rows = evenly_spaced(len(images), SAMPLE_HEADERS)
    if isinstance(images.paths, Source) and images.paths.in_order:
        rows = np.arange(len(rows))
    arrays = (pixels(images, row) for row in rows.tolist())
    return len(rows) > 1 and all(itertools.starmap(np.array_equal, itertools.pairwise(arrays)))
