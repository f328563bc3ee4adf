"""Fashion-MNIST, and MNIST in the same format: four IDX files, or a torchvision root.

The bundled subset has the same files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torchvision.datasets as tv

from ssltool.config import DataSettings
from ssltool.data.raw import COMPRESSED, Arrays, find, read_idx

PLACES = ("", "FashionMNIST/raw/", "MNIST/raw/", "raw/")


def read(folder: Path, split: str, settings: DataSettings) -> Arrays:
    """The images (N, 1, 28, 28) and labels of a split."""
    prefix = {"train": "train", "val": "t10k"}[split]
    arrays = []
    for kind, ndim in (("images", 3), ("labels", 1)):
        names = [f"{prefix}-{kind}{mark}idx{ndim}-ubyte{end}" for mark in "-." for end in ("", *COMPRESSED)]
        arrays.append(read_idx(find(folder, *(f"{place}{name}" for place in PLACES for name in names)), ndim))
    return arrays[0][:, None], arrays[1].astype(np.int64)


def download(folder: Path, split: str, settings: DataSettings) -> None:
    """Downloads both splits with torchvision."""
    tv.FashionMNIST(str(folder), split == "train", download=True)
