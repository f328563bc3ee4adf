"""The bundled images: class balance, licence, and the script that creates them."""

from __future__ import annotations

import gzip
import lzma

import numpy as np
import pytest

from ssltool.config import DataSettings
from ssltool.data import bundled
from ssltool.data.bundled import __main__ as cut
from ssltool.data.images import open_dataset
from ssltool.data.raw import read_idx


@pytest.mark.parametrize(("split", "per_class"), [("train", 800), ("val", 200)])
def test_every_class_has_equally_many_images(split, per_class):
    images = open_dataset(DataSettings(), split)
    assert np.bincount(images.labels).tolist() == [per_class] * 10
    assert images.images.shape == (10 * per_class, 1, 28, 28)
    assert images.own_size == 28
    assert len(images.classes) == 10


def test_no_two_bundled_images_are_the_same():
    images = np.concatenate([open_dataset(DataSettings(), split).images.numpy() for split in ("train", "val")])
    assert len(np.unique(images.reshape(10_000, -1), axis=0)) == 10_000


def test_bundled_images_are_not_constant():
    images = open_dataset(DataSettings(), "val").images.flatten(1).float()
    assert (images.std(dim=1) > 5).all()
    assert images.min() == 0
    assert images.max() == 255


def test_licence_and_attribution_are_bundled():
    licence = (bundled.FOLDER / "LICENSE").read_text()
    assert "Zalando SE" in licence
    assert "Permission is hereby granted, free of charge" in licence
    readme = (bundled.FOLDER / "README.md").read_text()
    assert "Fashion-MNIST" in readme
    assert "arXiv:1708.07747" in readme


@pytest.mark.parametrize("shape", [(7,), (5, 28, 28), (0, 3), (2, 1, 4, 3)], ids=str)
def test_written_idx_files_read_back_the_same(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    cut.write_idx(tmp_path / "array.xz", array)
    read = read_idx(tmp_path / "array.xz")
    assert read.shape == shape
    assert (read == array).all()


def test_written_idx_files_have_mnists_header(tmp_path, idx_bytes):
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    cut.write_idx(tmp_path / "array.xz", array)
    assert lzma.decompress((tmp_path / "array.xz").read_bytes()) == idx_bytes(array)


@pytest.fixture
def original(tmp_path, idx_bytes):
    """A Fashion-MNIST with more images than the subset, in random order; each image encodes its index."""
    rng = np.random.default_rng(3)
    for split, per_class in {"train": 830, "t10k": 215}.items():
        labels = rng.permutation(np.repeat(np.arange(10, dtype=np.uint8), per_class))
        images = np.frombuffer(np.arange(10 * per_class, dtype=">u4").tobytes(), np.uint8).reshape(-1, 2, 2)
        for kind, array in {"images-idx3": images, "labels-idx1": labels}.items():
            (tmp_path / f"{split}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path


def test_subset_is_the_first_images_of_each_class_in_file_order(original, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(cut, "FOLDER", out)
    cut.main(original)
    for split, per_class in {"train": 800, "t10k": 200}.items():
        all_labels = read_idx(original / f"{split}-labels-idx1-ubyte.gz").tolist()
        seen, expected = [0] * 10, []
        for number, label in enumerate(all_labels):
            if seen[label] < per_class:
                expected.append(number)
            seen[label] += 1
        numbers = read_idx(out / f"{split}-images-idx3-ubyte.xz").tobytes()
        assert np.frombuffer(numbers, ">u4").tolist() == expected
        assert read_idx(out / f"{split}-labels-idx1-ubyte.xz").tolist() == [all_labels[i] for i in expected]
