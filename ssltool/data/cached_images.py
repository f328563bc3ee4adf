"""Image sets whose pixels come from a cache, a folder with a file of each split; see ``image_cache``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ssltool.config import SPLITS, DataSettings
from ssltool.data import fingerprint
from ssltool.data.cache_writer import write_cache
from ssltool.data.image_cache import CacheFile, settings_of
from ssltool.data.image_files import fits_into_memory, surveyed
from ssltool.data.listing import CORRUPT, EMPTY, UNREADABLE, is_hidden
from ssltool.data.opening import CorruptImage
from ssltool.data.pixels import PixelRules
from ssltool.errors import SSLToolError, counted, first_names
from ssltool.files.misfit import shown
from ssltool.settings import flag

if TYPE_CHECKING:
    from ssltool.data.images import ImageSet

CACHE = "cache"
"""The layout of the folder of a cache."""

DEFAULT_SIZE = 256
"""The shorter side of cached images, for views of 224 pixels: the validation transform resizes to it."""


def cache_path(folder: str | Path, split: str) -> Path:
    """The file of a split in the folder of a cache."""
    return Path(folder, f"{split}.cache")


def other_files(folder: Path) -> list[str]:
    """The names in a folder that are no files of a cache, without hidden ones; none if there is no such folder."""
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted({name for name in names if not is_hidden(name)} - {cache_path("", split).name for split in SPLITS})


def read_cached(images: ImageSet, whole: ImageSet, settings: DataSettings) -> tuple[ImageSet, list[str]]:
    """The image files ``images``, a part of ``whole``, with their pixels in the folder ``--cache``. If it has no file
    of the split, that is written first, with all images of ``whole``.

    Returns:
        The images, and notes about their pixels.

    Raises:
        SSLToolError: if the cache is of other images or pixels, an image in it is corrupt and not to be skipped, or it
            would be written into a folder of other files.
        Interrupted: after a signal while the cache was written.
    """
    folder, given = Path(str(settings.cache)), images.rules
    if settings.data is not None and os.path.realpath(folder) == os.path.realpath(settings.data):
        raise SSLToolError(f"--cache {folder} is the folder of the images; name another one")
    path, others = cache_path(folder, whole.split), _rules_in(folder)
    if given.auto and others is not None and others.value_range is not None:  # all splits have one range
        given = dataclasses.replace(given, value_range=others.value_range, auto=False)
    if not path.exists():
        if strange := other_files(folder):
            raise SSLToolError(
                f"{folder} holds other files than those of a cache ({first_names(strange, 3)}); name an empty or a new "
                "folder for the cache"
            )
        size = given.cache_size or (others.cache_size if others else None) or DEFAULT_SIZE
        whole, notes = surveyed(dataclasses.replace(whole, rules=given))
        write_cache(path, whole, given, size, notes, workers=settings.workers, skip_corrupt=settings.skip_corrupt)
    file = CacheFile.open(path)
    _check(file, whole, given)
    cached = file.images.select(images.index)
    corrupt = np.flatnonzero(cached.corrupt)
    if len(corrupt) and not settings.skip_corrupt:
        name = (images.paths or ())[corrupt[0]]
        raise CorruptImage(f"the image {name} is corrupt; replace it, or skip it with --skip-corrupt")
    images = dataclasses.replace(images, cached=cached, rules=file.rules).without({CORRUPT: corrupt.tolist()})
    return images, [*file.head["notes"], f"the pixels are those of {path}, {reduction(file)}"]


def reduction(file: CacheFile) -> str:
    """What a cache did to its images, for notes."""
    return f"with a shorter side of at most {file.rules.cache_size} pixels"


def without_corrupt(images: ImageSet) -> ImageSet:
    """The images of a cache without those that could not be read when it was written, by reason."""
    reasons = {fingerprint.UNREADABLE: UNREADABLE, fingerprint.EMPTY: EMPTY}
    left_out: dict[str, list[int]] = {}
    if images.cached is not None and images.digests is not None:
        for row in np.flatnonzero(images.cached.corrupt).tolist():
            left_out.setdefault(reasons.get(int(images.digests[row]), CORRUPT), []).append(row)
    return images.without(left_out)


def check_labels(path: Path, images: ImageSet) -> None:
    """Refuses a cache whose labels are not those of ``images``, which were read with it: as a dataset of its own it has
    the labels with which it was written.

    Raises:
        SSLToolError: if they differ.
    """
    file = CacheFile.open(path)
    same = np.array_equal(file.labels[images.index], images.labels)
    if not same or tuple(file.head["classes"]) != images.classes:
        raise SSLToolError(
            f"{path} has other labels than DATA now: {_named(file.head['classes'])}, not {_named(images.classes)}; "
            "delete it, or write to another folder"
        )


def _named(classes: Sequence[str]) -> str:
    return f"{counted(len(classes), 'class')} ({first_names(classes, 3)})" if classes else "none"


def _rules_in(folder: Path) -> PixelRules | None:
    """The rules of the first split in the folder of a cache; None if there is none."""
    found = (cache_path(folder, split) for split in SPLITS)
    return next((CacheFile.open(path).rules for path in found if path.exists()), None)


def _check(file: CacheFile, whole: ImageSet, given: PixelRules) -> None:
    """Refuses a cache of other images, or of pixels that are not as ``given``."""
    if file.head["fingerprint"] != whole.fingerprint:
        raise SSLToolError(
            f"{file.path} was made of other images than DATA, or they changed since: their fingerprint was "
            f"{file.head['fingerprint']}, is now {whole.fingerprint}; delete it, or name another folder with --cache"
        )
    was, now = file.head["given"], settings_of(given, given.cache_size or int(file.rules.cache_size or 0))
    if now in (was, file.head["rules"]):
        return
    names = [name for name in was if was[name] != now[name]]
    differing = [f"{flag(name)} was {shown(was[name])}, is now {shown(now[name])}" for name in names]
    raise SSLToolError(f"{file.path} has other pixels: {'; '.join(differing)}; name another folder with --cache")


def into_memory(images: ImageSet) -> ImageSet:
    """Cached images that all have one size, in memory if they fit, as image files are."""
    cached = images.cached
    if cached is None:
        return images
    images = dataclasses.replace(images, size=cached.size)
    if images.size is None or not fits_into_memory(images.size, len(images)):
        return images
    pixels = torch.empty((len(images), 3, *images.size[::-1]), dtype=torch.uint8)
    for row in range(len(images)):
        pixels[row] = torch.from_numpy(cached.pixels(row).copy()).permute(2, 0, 1)
    return dataclasses.replace(images, images=pixels, paths=None)
