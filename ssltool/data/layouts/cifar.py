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
from ssltool.files.misfit import Misfit, describe
from ssltool.files.reading import open_file
from ssltool.files.schema import ANYTHING, Check, Sizes, conform, integer, listing, mapping


def read_cifar10(folder: Path, split: str, settings: DataSettings) -> Arrays:
    """The images (N, 3, 32, 32) and labels of a split of CIFAR-10."""
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    return _read(find(folder, f"cifar-10-batches-py/{names[0]}", names[0]).parent, names, b"labels", 10)


def read_cifar100(folder: Path, split: str, settings: DataSettings) -> Arrays:
    """The images (N, 3, 32, 32) and fine labels of a split of CIFAR-100."""
    name = {"train": "train", "val": "test"}[split]
    return _read(find(folder, f"cifar-100-python/{name}", name).parent, [name], b"fine_labels", 100)


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
        self.state = state if isinstance(state, tuple) else ()


def _array(value: Any, sizes: Sizes) -> Any:
    if not isinstance(value, _Stub) or not value.state or not isinstance(value.state[-1], bytes):
        raise Misfit(describe(value), ARRAY.expected)
    return value


ARRAY = Check("an array of bytes", _array)


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return _Stub
        if (module, name) == ("_codecs", "encode"):  # how Python 3 writes bytes for Python 2
            return codecs.encode
        raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not an array")


def _read(folder: Path, names: list[str], label_key: bytes, classes: int) -> Arrays:
    parts = [_read_batch(folder / name, label_key, classes) for name in names]
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _read_batch(path: Path, label_key: bytes, classes: int) -> Arrays:
    with open_file(path) as stream:
        try:
            contents = _ArraysOnly(stream, encoding="bytes").load()
        except Exception as error:  # a corrupt pickle can raise nearly anything
            raise broken(path, error) from error
    known = {b"data": ARRAY, label_key: listing(integer(0, classes - 1), minimum=1)}
    batch = mapping(known, other=ANYTHING, keys=ANYTHING)
    contents = conform(contents, batch, path, remedy="download or copy it again")
    data, labels = contents[b"data"].state[-1], np.array(contents[label_key], np.int64)
    if len(data) != len(labels) * 3072:
        raise broken(path, ValueError(f"{len(data):,} bytes of images and {len(labels):,} labels do not match"))
    return np.frombuffer(data, np.uint8).reshape(-1, 3, 32, 32), labels
