"""Readers for the raw files of the small-image datasets: uint8 images (N, C, H, W) and int64 labels (N,).

CIFAR's Python files are pickles; they are read by an unpickler that takes the bytes of arrays out of them and can call
nothing, not even NumPy, which a damaged array can crash.
"""

from __future__ import annotations

import codecs
import gzip
import pickle
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ssltool.errors import SSLToolError

Arrays = tuple[np.ndarray, np.ndarray]


def broken(path: Path, error: Exception | None = None) -> SSLToolError:
    """The error for a data file that does not hold what its name says."""
    reason = f" ({error})" if error else ""
    return SSLToolError(f"{path} is not a readable file of its dataset{reason}; download or copy it again")


def find(folder: Path, *candidates: str) -> Path:
    """The first of the ``candidates``, relative paths, that exists under ``folder``.

    Raises:
        SSLToolError: if none does.
    """
    for candidate in candidates:
        if (folder / candidate).exists():
            return folder / candidate
    raise SSLToolError(f"{folder} holds none of {', '.join(candidates)}; check the folder, or add --download")


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes in the IDX format of MNIST, gzipped or not."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError("no IDX header of unsigned bytes")
        ndim = data[3]
        shape = np.frombuffer(data, ">i4", ndim, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise broken(path, error) from error


def fashion_mnist(folder: Path, split: str) -> Arrays:
    """Fashion-MNIST from its four IDX files, or from a torchvision root."""
    prefix = {"train": "train", "val": "t10k"}[split]
    arrays = []
    for kind in ("images-idx3", "labels-idx1"):
        name = f"{prefix}-{kind}-ubyte"
        places = ("", "FashionMNIST/raw/", "raw/")
        arrays.append(read_idx(find(folder, *(f"{place}{name}{end}" for place in places for end in ("", ".gz")))))
    return arrays[0][:, None], arrays[1].astype(np.int64)


class _Stub:
    """Stands for what NumPy would build from a pickle. The last part of an array's state are its bytes."""

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
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")


def _cifar(folder: Path, names: list[str], label_key: bytes) -> Arrays:
    images, labels = [], []
    for name in names:
        try:
            with open(folder / name, "rb") as stream:
                contents = _ArraysOnly(stream, encoding="bytes").load()
            images.append(np.frombuffer(contents[b"data"].state[-1], np.uint8).reshape(-1, 3, 32, 32))
            labels.append(np.asarray(contents[label_key], np.int64))
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise broken(folder / name, error) from error
    return np.concatenate(images), np.concatenate(labels)


def cifar10(folder: Path, split: str) -> Arrays:
    """CIFAR-10, Python version, from its folder or from a torchvision root."""
    names = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
    return _cifar(find(folder, f"cifar-10-batches-py/{names[0]}", names[0]).parent, names, b"labels")


def cifar100(folder: Path, split: str) -> Arrays:
    """CIFAR-100 with its fine labels, Python version, from its folder or from a torchvision root."""
    name = {"train": "train", "val": "test"}[split]
    return _cifar(find(folder, f"cifar-100-python/{name}", name).parent, [name], b"fine_labels")


def stl10(folder: Path, split: str) -> Arrays:
    """STL-10 from its binary files or from a torchvision root; the unlabelled split is memory-mapped."""
    name = {"train": "train", "val": "test", "unlabeled": "unlabeled"}[split]
    path = find(folder, f"stl10_binary/{name}_X.bin", f"{name}_X.bin")
    try:
        # The files are column-major: axis 2 runs over columns.
        images = np.memmap(path, np.uint8, "c").reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
        if split == "unlabeled":
            return images, np.full(len(images), -1)
        labels = np.fromfile(path.with_name(f"{name}_y.bin"), np.uint8).astype(np.int64) - 1
    except (OSError, ValueError) as error:
        raise broken(path, error) from error
    return np.ascontiguousarray(images), labels
