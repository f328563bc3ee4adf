"""CIFAR-10 and CIFAR-100, Python version: the folder of the batches, or a torchvision root.

The files are pickles. The unpickler here only extracts the bytes of arrays. It calls no function, not even NumPy's,
which a corrupt array can crash.
"""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets as tv

from ssltool.config import DataSettings
from ssltool.data.raw import Arrays, broken, find


def read_cifar10(folder: Path, split: str, settings: DataSettings) -> Arrays:
    """The images (N, 3, 32, 32) and labels of a split of CIFAR-10."""
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    return _read(find(folder, f"cifar-10-batches-py/{names[0]}", names[0]).parent, names, b"labels")


def read_cifar100(folder: Path, split: str, settings: DataSettings) -> Arrays:
    """The images (N, 3, 32, 32) and fine labels of a split of CIFAR-100."""
    name = {"train": "train", "val": "test"}[split]
    return _read(find(folder, f"cifar-100-python/{name}", name).parent, [name], b"fine_labels")


def recognise_cifar100(folder: Path) -> bool:
    """Whether ``train`` is a file, as in the folder of the batches. In ImageNet's layout it is a folder."""
    return (folder / "train").exists() and not (folder / "train").is_dir()


def download_cifar10(folder: Path, split: str, settings: DataSettings) -> None:
    """Downloads both splits with torchvision."""
    tv.CIFAR10(str(folder), split == "train", download=True)


def download_cifar100(folder: Path, split: str, settings: DataSettings) -> None:
    """Downloads both splits with torchvision."""
    tv.CIFAR100(str(folder), split == "train", download=True)


class _Stub:
    """Replaces what NumPy would build from a pickle. The last item of an array's state is its bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return _Stub
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return codecs.encode
        raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not an array")


def _read(folder: Path, names: list[str], label_key: bytes) -> Arrays:
    images, labels = [], []
    for name in names:
        try:
            with open(folder / name, "rb") as stream:
                contents = _ArraysOnly(stream, encoding="bytes").load()
            images.append(np.frombuffer(contents[b"data"].state[-1], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(contents[label_key], np.int64))
        except Exception as error:  # a corrupt pickle can raise nearly anything
            raise broken(folder / name, error) from error
    return np.concatenate(images), np.concatenate(labels)
