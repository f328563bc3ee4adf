"""Unlabelled images, in one folder or in nested ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ssltool.config import DataSettings
from ssltool.data.detection import is_detected
from ssltool.data.images import ImageSet
from ssltool.data.layouts.class_folders import unlabelled_images, why_no_classes
from ssltool.data.listing import list_images, subfolders


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """All image files under the folder, without labels."""
    images = unlabelled_images("images", folder, split, list_images(folder))
    if not subfolders(folder):
        return images
    advice = "--dataset-type folder takes labels from the folders"
    if not is_detected(settings):
        return dataclasses.replace(images, why_unlabelled=f"--dataset-type images reads none; {advice}")
    why = f"{why_no_classes(folder)}; {advice}"
    return images.with_notes("--dataset-type images was detected").without_labels(why)
