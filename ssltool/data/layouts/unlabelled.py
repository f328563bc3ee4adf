"""Unlabelled images, in one folder or in nested ones."""

from __future__ import annotations

from pathlib import Path

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet, is_detected
from ssltool.data.layouts.class_folders import unlabelled_images, why_no_classes
from ssltool.data.listing import list_images, subfolders


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """All image files under the folder, without labels."""
    images = unlabelled_images("images", folder, split, list_images(folder))
    if not is_detected(settings) or not subfolders(folder):
        return images
    why = f"without labels, because {why_no_classes(folder)}; --dataset-type folder takes labels from the folders"
    return images.with_notes(f"--dataset-type images was detected: {why}")
