"""ImageNet's layout: the folders ``train`` and ``val``, each with a folder per class or with unlabelled images."""

from __future__ import annotations

from pathlib import Path

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet
from ssltool.data.layouts.class_folders import has_class_folders, read_files, subfolders
from ssltool.errors import SSLToolError


def recognise(folder: Path) -> bool:
    """Whether there is a folder ``train``."""
    return (folder / "train").is_dir()


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """The images of a split; the class folders of ``train`` number the classes of both splits."""
    if not (folder / split).is_dir():
        raise SSLToolError(f"{folder} has no folder '{split}'; ImageNet's layout has the folders train and val")
    reference = folder / "train" if (folder / "train").is_dir() else folder / split
    labelled = has_class_folders(reference) and subfolders(folder / split)
    return read_files("imagenet", folder / split, split, subfolders(reference) if labelled else None)
