"""A folder per class, and functions shared by the layouts of image files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet
from ssltool.errors import SSLToolError


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """The images below the class folders, labelled in alphabetical order of the folders."""
    return read_files("folder", folder, split, subfolders(folder))


def has_class_folders(folder: Path) -> bool:
    """Whether the subfolders look like classes.

    There must be two or more, each with images directly inside, not all with only one, and no images next to them.
    Otherwise the images are unlabelled.

    Raises:
        SSLToolError: if a subfolder among class folders is empty.
    """

    def images_in(place: Path) -> int:
        return sum(entry.name.lower().endswith(IMG_EXTENSIONS) for entry in os.scandir(place) if entry.is_file())

    names = subfolders(folder)
    counts = [images_in(folder / name) for name in names]
    empty = next((folder / n for n, count in zip(names, counts, strict=True) if not count), None)
    if empty and sum(map(bool, counts)) >= 2 and not _image_files(empty):
        raise SSLToolError(f"the class folder {empty} contains no images; add images or remove it")
    return len(counts) >= 2 and all(counts) and max(counts) > 1 and images_in(folder) == 0


def subfolders(folder: Path) -> list[str]:
    """The names of the subfolders that are not hidden, in alphabetical order."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def read_files(name: str, folder: Path, split: str, classes: Sequence[str] | None) -> ImageSet:
    """All image files under ``folder``, at any depth.

    An image's label is the index in ``classes`` of the subfolder that contains it; -1 if ``classes`` is None.

    Raises:
        SSLToolError: if there are no images, or an image is not in one of the class folders.
    """
    paths = _image_files(folder)
    if not paths:
        raise SSLToolError(f"no images in {folder}; supported are {', '.join(IMG_EXTENSIONS)}")
    if classes is None:
        return ImageSet(name, split, np.full(len(paths), -1), np.arange(len(paths)), paths=tuple(paths))
    if not classes:
        raise SSLToolError(f"{folder} contains no class folders; use --dataset-type images for unlabelled images")
    number = {c: i for i, c in enumerate(classes)}
    names = [os.path.relpath(path, folder).split(os.sep)[0] for path in paths]
    unknown = next((name for name in names if name not in number), None)
    if unknown is not None:
        raise SSLToolError(f"{folder}: '{unknown}' is not one of the {len(classes)} classes of the training folder")
    labels = np.array([number[name] for name in names], np.int64)
    return ImageSet(name, split, labels, np.arange(len(paths)), tuple(classes), paths=tuple(paths))


def _image_files(folder: Path) -> list[str]:
    paths = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [os.path.join(parent, file) for file in sorted(files) if file.lower().endswith(IMG_EXTENSIONS)]
    return paths
