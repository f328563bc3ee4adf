"""Places365-Standard in torchvision's layout: a list file, and images 256 pixels (small) or up to 512 wide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torchvision.datasets as tv

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet
from ssltool.data.raw import broken, find
from ssltool.files.reading import decode, read_bytes

CLASSES = 365


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """The image files in the list of a split, in its order."""
    listing = find(folder, "places365_train_standard.txt" if split == "train" else "places365_val.txt")
    kind = "256" if settings.small else "large"
    base = find(folder, f"data_{kind}_standard" if split == "train" else f"val_{kind}")
    try:
        rows = [line.split() for line in decode(read_bytes(listing), listing).splitlines() if line.strip()]
        paths = tuple(str(base / row[0].lstrip("/")) for row in rows)
        labels = np.array([int(row[1]) for row in rows], np.int64)
        if not len(labels) or labels.min() < -1 or labels.max() >= CLASSES:
            raise ValueError(f"its labels must be from 0 to {CLASSES - 1}")
    except (ValueError, IndexError, OverflowError) as error:
        raise broken(listing, error) from error
    return ImageSet("places365", split, labels, np.arange(len(labels)), tuple(map(str, range(CLASSES))), paths=paths)


def download(folder: Path, split: str, settings: DataSettings) -> None:
    """Downloads a split with torchvision."""
    own = "train-standard" if split == "train" else "val"
    tv.Places365(str(folder), own, small=settings.small, download=True)
