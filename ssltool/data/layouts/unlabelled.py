"""Unlabelled images, in one folder or in nested ones."""

from __future__ import annotations

from pathlib import Path

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet
from ssltool.data.layouts.class_folders import read_files


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """All image files under the folder, without labels."""
    return read_files("images", folder, split, None)
