"""Opens datasets: the images and labels of a split.

An ``ImageSet`` contains either all images in memory, as uint8 and of one size, or the paths of image files, which
``loader`` decodes when they are needed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm.auto import tqdm

from ssltool.config import SPLITS, DataSettings
from ssltool.data.layouts import LAYOUTS
from ssltool.data.strategies import read_numbers
from ssltool.errors import SSLToolError, UsageError, counted, first_line, unknown
from ssltool.training.progress import has_bars, is_quiet

MEMORY_LIMIT = 2 * 2**30
"""Bytes up to which image files of one size are decoded into memory."""

READ_AHEAD = 1024
"""Image files that are decoded ahead of their use, which bounds the memory that they take."""

OWN_SIZE_LIMIT = 96
"""Pixels up to which images of one size are used at that size by default."""


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
        skipped: the number of unreadable files, which are not in the set.
        fingerprint: 16 hex digits of the paths and contents of all images of the split. ``select`` keeps it.
        files: the relative path of each image, with ``/``; None for arrays in one file.
        digests: (N,) int64, a hash of the content of each image.
    """

    name: str
    split: str
    labels: np.ndarray
    index: np.ndarray
    classes: tuple[str, ...] = ()
    images: Tensor | None = None
    paths: tuple[str, ...] | None = None
    size: tuple[int, int] | None = None
    skipped: int = 0
    fingerprint: str = ""
    files: tuple[str, ...] | None = None
    digests: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def own_size(self) -> int | None:
        """The side of the images if all are square, of one size, and at most 96 pixels wide; else None."""
        width, height = self.size or (0, 0) if self.images is None else self.images.shape[:-3:-1]
        return int(width) if width == height and 0 < width <= OWN_SIZE_LIMIT else None

    def select(self, rows: np.ndarray) -> ImageSet:
        """The images at ``rows``, in that order."""
        return dataclasses.replace(
            self,
            labels=self.labels[rows],
            index=self.index[rows],
            images=None if self.images is None else self.images[torch.from_numpy(rows)],
            paths=None if self.paths is None else tuple(self.paths[i] for i in rows),
            files=None if self.files is None else tuple(self.files[i] for i in rows),
            digests=None if self.digests is None else self.digests[rows],
        )

    def describe(self) -> str:
        """A one-line description."""
        labelled = int((self.labels >= 0).sum())
        kind = counted(len(self.classes), "class") if self.classes else "labelled" if labelled else "unlabelled"
        if self.images is None:
            shape = "files of {} x {}".format(*self.size) if self.size else "files of varying size"
        else:
            channels, height, width = self.images.shape[1:]
            shape = f"{width} x {height} {'grey' if channels == 1 else 'colour'}, in memory"
        skipped = f", {self.skipped} unreadable skipped" if self.skipped else ""
        return f"{self.name} {self.split}: {counted(len(self), 'image')}, {kind}, {shape}{skipped}"


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
    name = detect(settings.data) if name == "auto" else name
    layout = LAYOUTS[name]
    if layout.folder is None and settings.data is None:
        raise UsageError(f"--dataset-type {settings.dataset_type} needs the folder of its images as DATA")
    if layout.folder is not None and settings.data is not None:
        package = LAYOUTS.plugin(name) or "ssltool"
        raise UsageError(f"--dataset-type {name} is installed with {package} and takes no DATA; leave one of them out")
    if settings.small and not layout.small:
        raise UsageError(f"--small has no effect with {name}; leave it out")
    if settings.download:
        _download(name, split, settings)
    folder = layout.folder or Path(str(settings.data))
    if not folder.is_dir():
        raise no_folder(folder)
    images = _read(name, folder, split, settings)
    if settings.idx_path is not None:
        images = images.select(read_numbers(settings.idx_path, len(images), "--idx-path"))
    if settings.skip_corrupt and images.paths is None:
        raise SSLToolError(f"--skip-corrupt has no effect with {name}, which has no image files; leave it out")
    if images.paths is not None:
        images = _into_memory(images, settings.skip_corrupt)
    if not len(images):
        raise SSLToolError(f"{folder} contains no readable images")
    return images


def no_folder(folder: Path) -> SSLToolError:
    """The error for a folder of images that does not exist."""
    return SSLToolError(f"no such folder: {folder}; name the folder of the images as DATA")


def parse_type(dataset_type: str) -> tuple[str, str | None, bool]:
    """Parses ``--dataset-type``, such as ``imagenet_val_subset``.

    Returns:
        The dataset type, the split or None, and whether it is a subset, which needs ``--idx-path``.

    Raises:
        UsageError: for an unknown name.
    """
    text = dataset_type.removesuffix("_subset")
    subset = text != dataset_type
    aliases = {alias: (name, own) for name, layout in LAYOUTS.items() for alias, own in layout.aliases.items()}
    if text in aliases:
        return *aliases[text], subset
    base, _, end = text.rpartition("_")
    written, split = (base, end) if end in SPLITS else (text, None)
    names = {name.replace("_", "-"): name for name in ("auto", *LAYOUTS)}
    name = names.get(written.replace("_", "-"))
    if name is None:
        raise unknown(LAYOUTS.kind, dataset_type, [*names.values(), *aliases, "imagenet_train_subset"])
    return name, split, subset


def detect(data: str | None) -> str:
    """Detects the dataset type of a folder from its contents; ``DatasetLayout`` describes the order of the checks."""
    if data is None:
        return "bundled"
    folder = Path(data)
    if not folder.is_dir():
        raise no_folder(folder)
    for name, layout in LAYOUTS.items():
        if any((folder / file).exists() for file in layout.files):
            return name
    for name in sorted(LAYOUTS, key=lambda name: LAYOUTS[name].generic):
        if LAYOUTS[name].recogniser and LAYOUTS.load(name, "recogniser")(folder):
            return name
    return "images"


def _read(name: str, folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """Calls the reader of the layout and converts its result to an ``ImageSet``."""
    splits = LAYOUTS[name].splits
    if split == "val" and splits == ("train",):
        raise SSLToolError(
            f"{folder} has no val split; arrange the images in DIR/train and DIR/val, or name the folder of the val "
            "images as DATA"
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
    image_set = ImageSet(name, split, labels, np.arange(len(labels)), classes)
    if not isinstance(images, np.ndarray):
        return dataclasses.replace(image_set, paths=tuple(map(str, images)))
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise SSLToolError(
            f"{folder}: the {split} images are {images.dtype} {images.shape}; {name} needs uint8 images (N, C, H, W) "
            "with C 1 or 3"
        )
    return dataclasses.replace(image_set, images=torch.from_numpy(np.require(images, requirements="W")))


def _download(name: str, split: str, settings: DataSettings) -> None:
    if LAYOUTS[name].download is None:
        supported = ", ".join(name for name, layout in LAYOUTS.items() if layout.download)
        raise SSLToolError(f"--download does not support {name}; use --dataset-type with one of {supported}")
    try:
        LAYOUTS.load(name, "download")(Path(str(settings.data)), split, settings)
    except (OSError, RuntimeError) as error:
        raise SSLToolError(f"--download of {name} into {settings.data} failed: {first_line(error)}") from error


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


def _into_memory(images: ImageSet, skip_corrupt: bool) -> ImageSet:
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
