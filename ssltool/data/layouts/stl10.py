"""STL-10: the folder of the binary files, or a torchvision root."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torchvision.datasets as tv

from ssltool.config import DataSettings
from ssltool.data.raw import Arrays, broken, find
from ssltool.files.reading import open_file, read_bytes


def read(folder: Path, split: str, settings: DataSettings) -> Arrays:
    """The images (N, 3, 96, 96) and labels of a split; the unlabelled split is memory-mapped."""
    name = _file_prefix(split)
    path = find(folder, f"stl10_binary/{name}_X.bin", f"{name}_X.bin")
    open_file(path).close()  # a regular file, which can be read
    try:
        # The files are column-major: axis 2 is the column.
        images = np.memmap(path, np.uint8, "c").reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
        if split == "unlabeled":
            return images, np.full(len(images), -1)
        path = path.with_name(f"{name}_y.bin")
        labels = np.frombuffer(read_bytes(path), np.uint8).astype(np.int64) - 1
    except (OSError, ValueError) as error:
        raise broken(path, error) from error
    return np.ascontiguousarray(images), labels


def download(folder: Path, split: str, settings: DataSettings) -> None:
    """Downloads all splits with torchvision."""
    tv.STL10(str(folder), _file_prefix(split), download=True)


def _file_prefix(split: str) -> str:
    return {"val": "test"}.get(split, split)
