"""Places365-Standard in torchvision's layout: a list file, and images 256 pixels (small) or up to 512 wide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torchvision.datasets as tv

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet
from ssltool.data.raw import broken, find


def read(folder: Path, split: str, settings: DataSettings) -> ImageSet:
    """The image files in the list of a split, in its order."""
    listing = find(folder, "places365_train_standard.txt" if split == "train" else "places365_val.txt")
    kind = "256" if settings.small else "large"
    base = find(folder, f"data_{kind}_standard" if split == "train" else f"val_{kind}")
    try:
        rows = [line.split() for line in listing.read_text().splitlines() if line.strip()]
        paths = tuple(str(base / row[0].lstrip("/")) for row in rows)
        labels = np.array([int(row[1]) for row in rows], np.int64)
    except (ValueError, IndexError) as error:
        raise broken(listing, error) from error
    return ImageSet("places365", split, labels, np.arange(len(labels)), tuple(map(str, range(365))), paths=paths)


def download(folder: Path, split: str, settings: DataSettings) -> None:
    """Downloads a split with torchvision."""
    own = "train-standard" if split == "train" else "val"
    tv.Places365(str(folder), own, small=settings.small, download=True)
