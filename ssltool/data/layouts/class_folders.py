"""A folder per class, and functions shared by the layouts of image files."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from ssltool.config import DataSettings
from ssltool.data import archives, listing
from ssltool.data.detection import is_detected
from ssltool.data.images import ImageSet
from ssltool.data.listing import (
    NOT_IMAGE,
    Listing,
    direct_images,
    has_images,
    list_images,
    skipped_text,
    subfolders,
    unreadable_folder,
)
from ssltool.data.sources import Source
from ssltool.errors import SSLToolError, counted, first_names
from ssltool.files.text import composed


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """The images below the class folders, labelled in alphabetical order of the folders."""
    found = list_images(folder)
    check_unlabelled(settings, folder, [folder])
    images = labelled_images("folder", folder, split, found, settings)
    if not is_detected(settings):
        return images
    why = "the subfolders are classes; --dataset-type images reads no labels"
    return images.with_notes(f"--dataset-type folder was detected: {why}")


def has_class_folders(folder: Path) -> bool:
    """Whether the subfolders look like classes; see ``why_no_classes``."""
    return why_no_classes(folder) is None


def why_no_classes(folder: Path) -> str | None:
    """Why the subfolders of ``folder`` do not look like classes; None if they do.

    There must be two or more with images directly inside, not all with only one, and none with images only deeper
    inside; and fewer images beside the folders than folders. Subfolders without images do not count.
    """
    title = folder.name or str(folder)
    direct = {name: _first(folder / name, 2) for name in subfolders(folder)}
    nested = [name for name, count in direct.items() if not count and contains_images(folder / name)]
    flat = {name: count for name, count in direct.items() if count}
    if nested:
        verb = "has" if len(nested) == 1 else "have"
        return f"{first_names(nested, 1)} of {title} {verb} images only in deeper subfolders"
    if len(flat) < 2:
        return f"{'only one' if flat else 'no'} subfolder of {title} has images"
    if max(flat.values()) == 1:
        return f"each of the {len(flat)} subfolders of {title} has one image"
    if _first(folder, len(flat)) == len(flat):
        return f"as many images as folders are directly in {title}"
    return None


def class_names(folder: Path, settings: DataSettings) -> list[str]:
    """The names of the subfolders with images, at any depth, in alphabetical order, without those of ``--unlabelled``.

    Raises:
        SSLToolError: if one cannot be read.
    """
    names = [name for name in subfolders(folder) if is_class(name, settings) and has_images(folder / name)]
    return _in_order(_numbers(names, ()))


def unlabelled_images(name: str, folder: Path, split: str, found: Listing) -> ImageSet:
    """All images of a listing of ``folder``, without labels.

    Raises:
        SSLToolError: if there are none.
    """
    _refuse_none(folder, found)
    paths = _paths(folder, found)
    rows = np.arange(len(paths))
    no_labels = np.full(len(paths), -1)
    return ImageSet(name, split, no_labels, rows, paths=paths, files=tuple(found.files), left_out=found.found())


def labelled_images(
    name: str,
    folder: Path,
    split: str,
    found: Listing,
    settings: DataSettings,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """The images of a listing of ``folder`` that are below a subfolder, with its name as their class.

    Args:
        classes: the first names of the classes; by default there are none. Those of other subfolders follow in
            alphabetical order.

    Raises:
        SSLToolError: if there are no class folders, or one cannot be read.
    """
    _refuse_none(folder, found)
    closed = [
        path for path in found.left_out.get(listing.UNREADABLE, ()) if path.endswith("/") and path.count("/") == 1
    ]
    if closed:
        raise unreadable_folder(folder / closed[0].rstrip("/"))
    beside = [file for file in found.files if "/" not in file]
    found.files = [file for file in found.files if "/" in file]
    for file in beside:
        found.leave_out(listing.OUTSIDE, file)
    if not found.files:
        raise SSLToolError(f"{folder} contains no class folders; use --dataset-type images for unlabelled images")
    tops = [file.partition("/")[0] for file in found.files]
    number = _numbers(sorted(top for top in {*tops} if is_class(top, settings)), classes or ())
    labels = np.array([number.get(top, -1) for top in tops], np.int64)
    images = unlabelled_images(name, folder, split, found)
    names = tuple(_in_order(number))
    if not names:
        return images.without_labels("--unlabelled names all class folders; leave one out")
    images = images.with_labels(labels, names)
    return images.with_notes(*_notes(folder, images, {*tops}), *_new_classes(images, classes))


def is_class(name: str, settings: DataSettings) -> bool:
    """Whether the images of the subfolder ``name`` are labelled, which ``--unlabelled`` prevents."""
    return composed(name) not in map(composed, settings.unlabelled)


def _numbers(names: Sequence[str], classes: Sequence[str]) -> dict[str, int]:
    """The number of each class in ``classes`` and of each folder in ``names``.

    macOS and Linux write accents in different ways; a folder is of the class whose name is the same text.
    """
    same_text: dict[str, int] = {}
    return {name: same_text.setdefault(composed(name), len(same_text)) for name in (*classes, *names)}


def _in_order(number: dict[str, int]) -> list[str]:
    """The name of each number; the first, if it has several."""
    names: dict[int, str] = {}
    for name, i in number.items():
        names.setdefault(i, name)
    return [names[i] for i in range(len(names))]


def _notes(folder: Path, images: ImageSet, tops: Collection[str]) -> list[str]:
    """A note for the subfolders without images."""
    skipped = {path.rstrip("/") for paths in images.left_out.values() for path in paths if path.endswith("/")}
    empty = [name for name in subfolders(folder) if name not in tops and name not in skipped]
    return [f"no class, because it has no readable images: {first_names(empty)}"] if empty else []


def _new_classes(images: ImageSet, classes: Sequence[str] | None) -> list[str]:
    """A note for the classes that are not in ``classes``, those of the train images."""
    if classes is None or len(images.classes) == len(classes):
        return []
    counts = Counter(images.labels[images.labels >= len(classes)].tolist())
    names = [f"{images.classes[label]} ({counted(count, 'image')})" for label, count in sorted(counts.items())]
    return [f"classes of {images.split} that train does not have: {first_names(names)}"]


def check_unlabelled(settings: DataSettings, folder: Path, places: Sequence[Path]) -> None:
    """Checks that each folder of ``--unlabelled`` is a subfolder of one of ``places``.

    Raises:
        SSLToolError: if one is not.
    """
    if not settings.unlabelled:
        return
    names = sorted(set(itertools.chain.from_iterable(subfolders(place) for place in places)))
    for name in settings.unlabelled:
        if composed(name) not in map(composed, names):
            raise SSLToolError(f"--unlabelled {name}: {folder} has no such class folder; it has {first_names(names)}")


def _refuse_none(folder: Path, found: Listing) -> None:
    if not found.files:
        skipped = skipped_text(found.found())
        raise SSLToolError(
            f"no images in {folder}{f' ({skipped})' if skipped else ''}; supported are {', '.join(IMG_EXTENSIONS)}, "
            f"and other files that Pillow recognises{_of_tables(found)}"
        )


def _of_tables(found: Listing) -> str:
    """Advice for a folder of tables, which is recognised by the first path in that of train."""
    others = found.left_out.get(NOT_IMAGE, ())
    if not any(name.lower().endswith((".csv", ".tsv", ".parquet")) for name in others):
        return ""
    return (
        "; a folder of tables has train in the name of one, or a split in none, and the paths in it are relative to "
        "the folder (--dataset-type table)"
    )


def _paths(folder: Path, found: Listing) -> tuple[str, ...] | Source:
    """The paths of the images, or the source that holds them."""
    return archives.images_of(folder, found.files) or tuple(os.path.join(folder, file) for file in found.files)


def _first(folder: Path, most: int) -> int:
    """The number of images directly in ``folder``, at most ``most``."""
    return sum(1 for _ in itertools.islice(direct_images(folder), most))


def contains_images(folder: Path) -> bool:
    """Whether there is an image under ``folder``, at any depth; False if it cannot be read."""
    try:
        return has_images(folder)
    except SSLToolError:
        return False
