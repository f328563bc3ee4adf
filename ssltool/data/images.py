"""Opens datasets: the images and labels of a split.

An ``ImageSet`` contains either all images in memory, as uint8 and of one size, or the paths of image files or a source
of encoded images, which ``loader`` decodes when they are needed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssltool.config import DataSettings
from ssltool.data import fingerprint, listing
from ssltool.data.cached_images import into_memory, read_cached, without_corrupt
from ssltool.data.detection import layout_of, location, named_errors, parse_type
from ssltool.data.image_cache import CachedImages
from ssltool.data.image_files import OWN_SIZE_LIMIT, read_files
from ssltool.data.layouts import LAYOUTS, PIXEL_FLAGS
from ssltool.data.listing import LeftOut
from ssltool.data.pixels import DEFAULT_RULES, PixelRules
from ssltool.data.sources import Source
from ssltool.data.strategies import read_numbers
from ssltool.errors import SSLToolError, UsageError, counted, first_line
from ssltool.settings import flag


@dataclass(frozen=True)
class ImageSet:
    """The images of one split.

    Attributes:
        name: the dataset type.
        labels: (N,) int64, -1 if unlabelled.
        index: (N,) int64, the numbers of the images in the split.
        classes: the names of the classes.
        images: (N, C, H, W) uint8 with C 1 or 3; None if ``paths`` are given.
        size: (width, height) if all files have the same size.
        skipped: the number of files that are not in the set because of ``--skip-corrupt``.
        left_out: the relative paths of everything that is not in the set, by reason; see ``listing``.
        notes: how the folder and its pixels were read.
        why_unlabelled: why no image has a label, and what to do; empty if it is not known, or some have.
        fingerprint: 16 hex digits of the paths and contents of all images of the split. ``select`` keeps it.
        paths: the path of each image file, or the source of the images; None if they are in memory.
        files: the relative path of each image, with ``/``; None for images without names.
        digests: (N,) int64, a hash of the content of each image.
        rules: how the files are decoded into pixels.
        cached: the images in a cache, which take the place of the files.
    """

    name: str
    split: str
    labels: np.ndarray
    index: np.ndarray
    classes: tuple[str, ...] = ()
    images: Tensor | None = None
    paths: tuple[str, ...] | Source | None = None
    size: tuple[int, int] | None = None
    skipped: int = 0
    left_out: LeftOut = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    why_unlabelled: str = ""
    fingerprint: str = ""
    files: tuple[str, ...] | None = None
    digests: np.ndarray | None = None
    rules: PixelRules = DEFAULT_RULES
    cached: CachedImages | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """The (width, height) of all images; None if they differ or are not known."""
        return self.size if self.images is None else (self.images.shape[-1], self.images.shape[-2])

    @property
    def own_size(self) -> int | None:
        """The side of the images if all are square, of one size, and at most 96 pixels wide; else None."""
        width, height = self.image_size or (0, 0)
        return int(width) if width == height and 0 < width <= OWN_SIZE_LIMIT else None

    def select(self, rows: np.ndarray) -> ImageSet:
        """The images at ``rows``, in that order."""
        return dataclasses.replace(
            self,
            labels=self.labels[rows],
            index=self.index[rows],
            images=None if self.images is None else self.images[torch.from_numpy(rows)],
            paths=_selected(self.paths, rows),
            files=None if self.files is None else tuple(self.files[i] for i in rows),
            digests=None if self.digests is None else self.digests[rows],
            cached=None if self.cached is None else self.cached.select(rows),
        )

    def with_labels(self, labels: np.ndarray, classes: tuple[str, ...]) -> ImageSet:
        """The images with these labels (N,), int64, and names of the classes."""
        return dataclasses.replace(self, labels=labels, classes=classes)

    def with_notes(self, *notes: str) -> ImageSet:
        """The images with further notes."""
        return dataclasses.replace(self, notes=(*self.notes, *notes))

    def without_labels(self, why: str) -> ImageSet:
        """The images without labels, with a note that says why, and what to do."""
        no_labels = np.full(len(self), -1)
        unlabelled = dataclasses.replace(self, labels=no_labels, classes=(), why_unlabelled=why)
        return unlabelled.with_notes(f"without labels, because {why}")

    def without(self, left_out: Mapping[str, Sequence[int]]) -> ImageSet:
        """The images without some rows, which are recorded as left out: {reason: rows}."""
        rows = np.setdiff1d(np.arange(len(self)), [row for found in left_out.values() for row in found])
        files = self.files or tuple(map(str, self.index.tolist()))
        named = {reason: tuple(files[row] for row in found) for reason, found in left_out.items() if len(found)}
        total = {reason: (*self.left_out.get(reason, ()), *names) for reason, names in named.items()}
        fewer = self.select(rows) if named else self
        count = sum(map(len, named.values()))
        return dataclasses.replace(fewer, left_out={**self.left_out, **total}, skipped=self.skipped + count)

    def describe(self) -> str:
        """A one-line description."""
        labelled, present = int((self.labels >= 0).sum()), len(np.unique(self.labels[self.labels >= 0]))
        of = f"{present} of " if present < len(self.classes) else ""
        kind = of + counted(len(self.classes), "class") if self.classes else "labelled" if labelled else "unlabelled"
        if 0 < labelled < len(self):
            kind += f", {len(self) - labelled:,} unlabelled"
        if self.images is None:
            what = "files" if self.cached is None else "cached images"
            shape = f"{what} of {' x '.join(map(str, self.size)) if self.size else 'varying size'}"
        else:
            channels, height, width = self.images.shape[1:]
            shape = f"{width} x {height} {'grey' if channels == 1 else 'colour'}, in memory"
        count = sum(map(len, self.left_out.values()))
        skipped = f", {count:,} skipped" if count else ""
        return f"{self.name} {self.split}: {counted(len(self), 'image')}, {kind}, {shape}{skipped}"


def _selected(paths: tuple[str, ...] | Source | None, rows: np.ndarray) -> tuple[str, ...] | Source | None:
    return paths.select(rows) if isinstance(paths, Source) else paths and tuple(paths[i] for i in rows)


@named_errors()
def open_dataset(settings: DataSettings, split: str) -> ImageSet:
    """Opens the images that the settings name.

    Raises:
        UsageError: if the settings contradict each other.
        SSLToolError: if the folder, the split or the file of image numbers is missing, corrupt or empty, or if an
            image cannot be decoded.
    """
    name, own_split, needs_numbers = parse_type(settings.dataset_type)
    split = own_split or split
    if needs_numbers and settings.idx_path is None:
        raise UsageError(
            f"--dataset-type {settings.dataset_type} is a subset; name its images with --idx-path FILE.npy"
        )
    name = layout_of(settings)
    layout = LAYOUTS[name]
    if layout.folder is None and settings.data is None:
        raise UsageError(f"--dataset-type {settings.dataset_type} needs the folder of its images as DATA")
    if layout.folder is not None and settings.data is not None:
        package = LAYOUTS.plugin(name) or "ssltool"
        raise UsageError(f"--dataset-type {name} is installed with {package} and takes no DATA; leave one of them out")
    if settings.small and not layout.small:
        raise UsageError(f"--small has no effect with {name}; leave it out")
    if settings.unlabelled and not layout.class_folders:
        raise SSLToolError(f"--unlabelled has no effect with {name}, which has no class folders; leave it out")
    for given in ("image_column", "label_column"):
        if getattr(settings, given) is not None and not layout.columns:
            raise SSLToolError(f"{flag(given)} has no effect with {name}, which has no columns; leave it out")
    if settings.download:
        _download(name, split, settings)
    folder = layout.folder or location(str(settings.data), name)
    images, unusable = _identified(_read(name, folder, split, settings), folder)
    whole = images
    if settings.idx_path is not None:
        images = images.select(read_numbers(settings.idx_path, len(images), "--idx-path"))
    if images.cached is not None:
        images = without_corrupt(images)
    rules, notes = PixelRules.of(settings), list[str]()
    if settings.skip_corrupt and images.paths is None:
        raise SSLToolError(f"--skip-corrupt has no effect with {name}, which has no image files; leave it out")
    if settings.cache is not None and images.paths is None:
        raise SSLToolError(f"--cache has no effect with {name}, which has no image files; leave it out")
    if settings.cache_size is not None and settings.cache is None and images.cached is None:
        raise SSLToolError("--cache-size has no effect without --cache; leave it out")
    if images.paths is not None:
        images = _without_unusable(images, unusable, settings.skip_corrupt)
        images = dataclasses.replace(images, rules=rules)
        if settings.cache is None:
            images, notes = read_files(images, settings.skip_corrupt)
        else:
            images, notes = read_cached(images, whole, settings)
    images = into_memory(images)
    if not len(images):
        raise SSLToolError(f"{folder} contains no readable images")
    if layout.folder is None and folder != Path(str(settings.data)):
        notes.append(f"the archive holds one folder, {folder.name}, which is read")
    if rules.auto and images.rules.value_range is not None:
        low, high = images.rules.value_range
        notes.append(f"--value-range auto is {low:g} {high:g}")
    return images.with_notes(*notes)


def set_of_files(paths: Sequence[str], rules: PixelRules = DEFAULT_RULES) -> ImageSet:
    """The image files ``paths``, as a set without labels.

    Raises:
        SSLToolError: if one cannot be read.
    """
    found, rows = fingerprint.of_files(paths), np.arange(len(paths))
    images = ImageSet("images", "train", np.full(len(paths), -1), rows, paths=tuple(paths), files=tuple(paths))
    images = dataclasses.replace(images, digests=found.digests, rules=rules)
    for row, why in found.unreadable.items():
        raise SSLToolError(f"the image {paths[row]} cannot be read: {why}; name another file")
    return read_files(images, skip_corrupt=False)[0]


def check_pixel_flags(given: DataSettings, settings: DataSettings) -> None:
    """Refuses the pixel flags of ``given`` that have no effect on the images of ``settings``.

    These may have further ones, of the run whose settings they take over. Defaults, which ``config.json`` holds, are
    allowed everywhere.

    Raises:
        SSLToolError: naming the first flag and the layout.
    """
    defaults = DEFAULT_RULES.settings()
    flags = [name for name in PIXEL_FLAGS if getattr(given, name) not in (None, defaults.get(name))]
    layout = layout_of(settings) if flags else ""
    for name in flags:
        if name not in LAYOUTS[layout].pixel_flags:
            raise SSLToolError(f"{flag(name)} has no effect with {layout}, which has no image files; leave it out")


def _read(name: str, folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """Calls the reader of the layout and converts its result to an ``ImageSet``."""
    splits = LAYOUTS[name].splits
    if split in ("val", "test") and splits == ("train",):
        raise SSLToolError(
            f"{folder} has no {split} split; arrange the images in DIR/train and DIR/{split}, or save representations "
            "of two folders, each as DATA without --split"
        )
    if split not in splits:
        raise SSLToolError(f"{name} has no split '{split}'; it has {', '.join(splits)}")
    result = LAYOUTS.load(name)(folder, split, settings)
    if isinstance(result, ImageSet):
        return result
    images, labels = result[0], np.asarray(result[1], np.int64)
    if len(images) != len(labels):
        raise SSLToolError(f"{folder} contains {len(images)} {split} images but {len(labels)} labels; copy it again")
    classes = tuple(map(str, range(int(labels.max()) + 1 if len(labels) else 0)))
    rules = dataclasses.replace(PixelRules.of(settings), auto=False)
    image_set = ImageSet(name, split, labels, np.arange(len(labels)), classes, rules=rules)
    if not isinstance(images, np.ndarray):
        return dataclasses.replace(image_set, paths=tuple(map(str, images)))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise SSLToolError(
            f"{folder}: the {split} images are {images.dtype} {images.shape}; {name} needs uint8 images (N, C, H, W) "
            "with C 1 or 3"
        )
    return dataclasses.replace(image_set, images=torch.from_numpy(np.require(images, requirements="W")))


def _identified(images: ImageSet, folder: Path) -> tuple[ImageSet, dict[str, tuple[str, str]]]:
    """The images with their fingerprint, relative paths and digests.

    Returns also the paths that cannot be used: {path: (reason, description)}.
    """
    if images.fingerprint:  # of a reader that opened them as another layout
        return images, {}
    if images.paths is None:
        digests = fingerprint.of_arrays(np.asarray(images.images))
        return dataclasses.replace(images, digests=digests, fingerprint=fingerprint.fingerprint(None, digests)), {}
    paths = images.paths
    found = fingerprint.of_files(paths)
    unreadable = {row: (listing.UNREADABLE, f"cannot be read: {error}") for row, error in found.unreadable.items()}
    empty = dict.fromkeys(found.empty, (listing.EMPTY, "is empty"))
    unusable = {str(paths[row]): why for row, why in (unreadable | empty).items()}
    files = images.files
    if files is None and not isinstance(paths, Source):
        files = tuple(os.path.relpath(path, folder).replace(os.sep, "/") for path in paths)
    identity = fingerprint.fingerprint(files, found.digests)
    return dataclasses.replace(images, files=files, digests=found.digests, fingerprint=identity), unusable


def _without_unusable(images: ImageSet, unusable: Mapping[str, tuple[str, str]], skip: bool) -> ImageSet:
    """The images without the ``unusable`` paths.

    Raises:
        SSLToolError: naming the first, if they are not to be skipped.
    """
    rows: dict[str, list[int]] = {}
    for row, path in enumerate(images.paths or ()) if unusable else ():
        reason, description = unusable.get(str(path), (None, ""))
        if reason is not None and not skip:
            raise SSLToolError(f"the image {path} {description}; replace it, or skip it with --skip-corrupt")
        if reason is not None:
            rows.setdefault(reason, []).append(row)
    return images.without(rows)


def _download(name: str, split: str, settings: DataSettings) -> None:
    if LAYOUTS[name].download is None:
        supported = ", ".join(name for name, layout in LAYOUTS.items() if layout.download)
        raise SSLToolError(f"--download does not support {name}; use --dataset-type with one of {supported}")
    try:
        LAYOUTS.load(name, "download")(Path(str(settings.data)), split, settings)
    except (OSError, RuntimeError) as error:
        raise SSLToolError(f"--download of {name} into {settings.data} failed: {first_line(error)}") from error
