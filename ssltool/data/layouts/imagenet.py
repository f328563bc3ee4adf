"""ImageNet's layout: the folders ``train``, ``val`` and ``test``, each with a folder per class or unlabelled images.

The val split is the test split if there is no other folder for it.
"""

from __future__ import annotations

from pathlib import Path

from ssltool.config import DataSettings
from ssltool.data.detection import is_detected
from ssltool.data.images import ImageSet
from ssltool.data.layouts.class_folders import (
    check_unlabelled,
    class_names,
    contains_images,
    labelled_images,
    unlabelled_images,
    why_no_classes,
)
from ssltool.data.listing import direct_images, list_images, subfolders
from ssltool.data.splits import ALL_NAMES, INSTEAD, NAMES, TEST
from ssltool.errors import SSLToolError, first_names


def recognise(folder: Path) -> bool:
    """Whether there is a folder ``train``, and no other folder than those of the splits contains images.

    Otherwise ``train`` may be a class. It is a split if there is also a folder ``val`` and ``train`` has subfolders
    with images, and no images directly inside.
    """
    train = find_split(folder, "train")
    if train is None:
        return False
    if not any(contains_images(folder / name) for name in _others(folder)):
        return True
    has_val = find_split(folder, "val") is not None
    return has_val and next(direct_images(train), None) is None and contains_images(train)


def find_split(folder: Path, split: str) -> Path | None:
    """The folder of a split, in upper or lower case; None if there is none.

    Raises:
        SSLToolError: if there are several in different cases.
    """
    present = subfolders(folder)
    for name in NAMES[split]:
        found = [other for other in present if other.lower() == name]
        if name in found or len(found) == 1:
            return folder / (name if name in found else found[0])
        if found:
            raise SSLToolError(f"{folder} has the folders {' and '.join(found)}; rename or merge them")
    return None


def has_split(folder: Path, split: str) -> bool:
    """Whether there is a folder of the split."""
    return find_split(folder, split) is not None


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """The images of a split; the class folders of ``train`` number the classes of both splits."""
    own, train = find_split(folder, split), find_split(folder, "train")
    if own is None:
        raise SSLToolError(f"{folder} has no folder '{split}'; ImageNet's layout has the folders train, val and test")
    reference = train or own
    why = _why_unlabelled(own, reference, settings)
    found = list_images(own)
    if why is None:
        check_unlabelled(settings, folder, [own, reference])
        classes = None if own == reference else class_names(reference, settings)
        images = labelled_images("imagenet", own, split, found, settings, classes)
    else:
        if settings.unlabelled:
            raise SSLToolError(f"--unlabelled has no effect: no image of {own} has a label, because {why}")
        images = unlabelled_images("imagenet", own, split, found)
    images = images.with_notes(*_notes(folder, own, split, settings))
    return images if why is None else images.without_labels(why)


def _why_unlabelled(own: Path, reference: Path, settings: DataSettings) -> str | None:
    """Why the images of a split have no labels; None if they have. The type alone decides, if it is given."""
    if not any(contains_images(own / name) for name in subfolders(own)):
        return f"{own.name} has no class folders; arrange its images in a folder for each class"
    why = why_no_classes(reference) if is_detected(settings) else None
    return f"{why}; --dataset-type imagenet takes labels from the folders" if why else None


def _notes(folder: Path, own: Path, split: str, settings: DataSettings) -> list[str]:
    notes = []
    if own.name != split:
        instead = f", {INSTEAD.format('folder')}" if own.name.lower() in TEST and split == "val" else ""
        notes.append(f"{split} is read from the folder {own.name}{instead}")
    if is_detected(settings):
        notes.append(
            "--dataset-type imagenet was detected: the folder train is a split; --dataset-type folder makes every "
            "subfolder a class"
        )
    read = {own, *(find_split(folder, each) for each in ("train", "val"))}
    unread = [name for name in subfolders(folder) if folder / name not in read and contains_images(folder / name)]
    if unread:
        has_test = find_split(folder, "test") in {folder / name for name in unread}
        how = "; save-reprs --split test reads the test images" if has_test else ""
        notes.append(f"other folders with images are not read: {first_names(unread)}{how}")
    return notes


def _others(folder: Path) -> list[str]:
    """The subfolders that are not those of a split."""
    return [name for name in subfolders(folder) if name.lower() not in ALL_NAMES]
