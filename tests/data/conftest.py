"""Fixtures of the data tests: random images, and small datasets in the formats of the real ones."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture
def pixels():
    """Random uint8 images: ``pixels(n, channels, height, width)``, the same for the same numbers."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((seed, *shape)) % 2**63)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)

    return make


class Bomb:
    """Calls ``function(*arguments)`` when unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def bomb():
    """An object that runs code when unpickled: ``bomb(os.mkdir, "folder")``."""
    return Bomb


@pytest.fixture
def idx_bytes():
    """A uint8 array in MNIST's IDX format: a big-endian header, then the bytes."""

    def make(array: np.ndarray) -> bytes:
        return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()

    return make


class Python2Pickler(pickle._Pickler):
    """Pickles as Python 2 and the NumPy of its time did, which wrote CIFAR's files: byte strings, and no booleans."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, obj):
        short = len(obj) < 256
        self.write((b"U" + bytes([len(obj)]) if short else b"T" + struct.pack("<i", len(obj))) + obj)
        self.memoize(obj)

    def save_bool(self, obj):
        self.save(int(obj))

    dispatch[bytes], dispatch[bool] = save_bytes, save_bool


def python2_pickle(contents: object) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(contents)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


@pytest.fixture
def write_fashion(idx_bytes):
    """Writes Fashion-MNIST's four files: ``write_fashion(folder, gz=True) -> {split: (images, labels)}``."""

    def write(folder: Path, *, gz: bool = False) -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        rng, made = np.random.default_rng(1), {}
        for split, prefix, n in (("train", "train", 30), ("val", "t10k", 20)):
            images, labels = rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8) % 10
            for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
                data, name = idx_bytes(array), f"{prefix}-{kind}-ubyte"
                (folder / (name + ".gz" if gz else name)).write_bytes(gzip.compress(data) if gz else data)
            made[split] = images[:, None], labels
        return made

    return write


@pytest.fixture
def write_cifar():
    """Writes CIFAR's Python files: ``write_cifar(folder, 10) -> {split: (images, labels)}``, or 100."""

    def write(folder: Path, classes: int) -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        files = {10: ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]), 100: (["train"], ["test"])}[classes]
        rng, made = np.random.default_rng(classes), {}
        for split, names in zip(("train", "val"), files, strict=True):
            parts = []
            for name in names:
                data, labels = rng.integers(0, 256, (6, 3072), np.uint8), rng.integers(0, classes, 6)
                contents = {b"data": data, b"filenames": [b"some.png"] * 6, b"batch_label": name.encode()}
                if classes == 100:
                    contents[b"coarse_labels"] = (labels // 5).tolist()
                contents[b"labels" if classes == 10 else b"fine_labels"] = labels.tolist()
                (folder / name).write_bytes(python2_pickle(contents))
                parts.append((data.reshape(6, 3, 32, 32), labels))
            made[split] = tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return made

    return write


@pytest.fixture
def write_stl10():
    """Writes STL-10's binary files, column by column: ``write_stl10(folder) -> {split: (images, labels)}``."""

    def write(folder: Path) -> dict:
        folder.mkdir(parents=True, exist_ok=True)
        rng, made = np.random.default_rng(2), {}
        for split, name, n in (("train", "train", 5), ("val", "test", 4), ("unlabeled", "unlabeled", 6)):
            images, labels = rng.integers(0, 256, (n, 3, 96, 96), np.uint8), rng.integers(1, 11, n).astype(np.uint8)
            with open(folder / f"{name}_X.bin", "wb") as stream:
                for image in images:
                    for channel in image:
                        for x in range(96):
                            stream.write(channel[:, x].tobytes())
            if split == "unlabeled":
                made[split] = images, np.full(n, -1)
            else:
                labels.tofile(folder / f"{name}_y.bin")  # counted from 1
                made[split] = images, labels.astype(int) - 1
        return made

    return write
