"""The raw files of the small-image datasets: read as torchvision reads them; damaged or hostile ones refused."""

from __future__ import annotations

import gzip
import lzma
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
import torchvision.datasets as tv

from ssltool.config import DataSettings
from ssltool.data.images import open_dataset
from ssltool.data.layouts import cifar, fashion_mnist, stl10
from ssltool.data.raw import read_idx
from ssltool.errors import SSLToolError

SETTINGS = DataSettings()


def assert_equal(read, expected):
    for ours, theirs in zip(read, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours == theirs).all()
    assert (read[0].dtype, read[1].dtype) == (np.uint8, np.int64)


# Fashion-MNIST


@pytest.mark.parametrize("gz", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize("place", [".", "raw", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_its_files_or_a_torchvision_root(tmp_path, write_fashion, place, gz):
    written = write_fashion(tmp_path / place, gz=gz)
    for split in ("train", "val"):
        assert_equal(fashion_mnist.read(tmp_path, split, SETTINGS), written[split])


def test_fashion_mnist_equals_torchvisions(tmp_path, write_fashion):
    write_fashion(tmp_path / "FashionMNIST/raw")
    for split in ("train", "val"):
        theirs = tv.FashionMNIST(tmp_path, train=split == "train")
        assert_equal(
            fashion_mnist.read(tmp_path, split, SETTINGS), (theirs.data.numpy()[:, None], theirs.targets.numpy())
        )


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-7],
        lambda data: data + b"\0",
        lambda data: b"",
        lambda data: b"\0\0\x08",
        lambda data: b"\0\0\x0d" + data[3:],
        lambda data: b"<html>not found</html>",
    ],
    ids=["truncated", "too long", "empty", "header cut", "floats", "web page"],
)
def test_damaged_idx_file_is_refused_by_name(tmp_path, write_fashion, damage):
    write_fashion(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(SSLToolError, match="train-images-idx3-ubyte "):
        fashion_mnist.read(tmp_path, "train", SETTINGS)


@pytest.mark.parametrize(("end", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_damaged_compressed_file_is_refused_wherever_the_damage_is(tmp_path, write_fashion, end, compress):
    write_fashion(tmp_path)
    name = "t10k-images-idx3-ubyte"
    data = (tmp_path / name).read_bytes()
    path = tmp_path / f"{name}{end}"
    path.write_bytes(compress(data))
    assert read_idx(path).tolist() == read_idx(tmp_path / name).tolist()
    whole = path.read_bytes()
    for place in (0, 10, len(whole) // 2, len(whole) - 6):  # magic number, kind of block, contents, check sum
        broken = bytearray(whole)
        broken[place] ^= 0xFF
        path.write_bytes(broken)
        with pytest.raises(SSLToolError, match="t10k-images"):
            read_idx(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SSLToolError, match="t10k-images"):
        read_idx(path)
    path.write_bytes(compress(b"something else"))
    with pytest.raises(SSLToolError, match="IDX"):
        read_idx(path)


def test_missing_files_are_listed_with_the_download_flag(tmp_path):
    with pytest.raises(SSLToolError, match=r"train-images-idx3-ubyte, .*--download"):
        fashion_mnist.read(tmp_path, "train", SETTINGS)


# CIFAR


@pytest.mark.parametrize("place", [".", "root"])
@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_is_read_from_its_files_or_a_torchvision_root(tmp_path, write_cifar, classes, place):
    inner = {10: "cifar-10-batches-py", 100: "cifar-100-python"}[classes] if place == "root" else "."
    written = write_cifar(tmp_path / inner, classes)
    read = {10: cifar.read_cifar10, 100: cifar.read_cifar100}[classes]
    for split in ("train", "val"):
        assert_equal(read(tmp_path, split, SETTINGS), written[split])


@pytest.mark.parametrize("classes", [10, 100])
def test_cifar_equals_torchvisions(tmp_path, write_cifar, monkeypatch, classes):
    dataset, read = {10: (tv.CIFAR10, cifar.read_cifar10), 100: (tv.CIFAR100, cifar.read_cifar100)}[classes]
    monkeypatch.setattr(dataset, "_check_integrity", lambda self: True)  # these are not the original files
    monkeypatch.setattr(dataset, "_load_meta", lambda self: None)
    write_cifar(tmp_path / dataset.base_folder, classes)
    for split in ("train", "val"):
        theirs = dataset(tmp_path, train=split == "train")
        assert_equal(read(tmp_path, split, SETTINGS), (theirs.data.transpose(0, 3, 1, 2), np.array(theirs.targets)))


@pytest.mark.parametrize("function", [os.mkdir, exec, getattr], ids=lambda f: f.__name__)
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_malicious_pickle_is_refused_and_not_executed(tmp_path, write_cifar, bomb, function, protocol):
    write_cifar(tmp_path, 10)
    ran = tmp_path / "ran"
    arguments = {os.mkdir: (str(ran),), exec: (f"import os; os.mkdir({str(ran)!r})",), getattr: ("text", "upper")}
    path = tmp_path / "data_batch_3"
    hostile = bomb(function, *arguments[function])
    path.write_bytes(pickle.dumps({b"data": hostile, b"labels": [0]}, protocol))
    with pytest.raises(SSLToolError, match="data_batch_3 "):
        cifar.read_cifar10(tmp_path, "train", SETTINGS)
    assert not ran.exists()


def test_the_hostile_pickle_would_have_run_under_an_ordinary_unpickler(tmp_path, bomb):
    pickle.loads(pickle.dumps(bomb(os.mkdir, str(tmp_path / "ran"))))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["numpy.f2py.compile", "numpy.testing.rundocs", "builtins.ndarray", "os.dtype"])
def test_unpickler_reads_arrays_and_nothing_else(tmp_path, write_cifar, name):
    write_cifar(tmp_path, 10)
    module, attribute = name.rsplit(".", 1)
    (tmp_path / "test_batch").write_bytes(f"c{module}\n{attribute}\n(tR.".encode())
    with pytest.raises(SSLToolError, match=name):
        cifar.read_cifar10(tmp_path, "val", SETTINGS)


@pytest.mark.parametrize(
    "contents",
    [{b"data": np.zeros((2, 3072), np.uint8)}, {b"labels": [1]}, [1, 2], {b"data": np.zeros(5), b"labels": [1]}, None],
    ids=["no labels", "no data", "a list", "no images", "nothing"],
)
def test_pickle_without_images_and_labels_is_refused(tmp_path, write_cifar, contents):
    write_cifar(tmp_path, 10)
    (tmp_path / "test_batch").write_bytes(pickle.dumps(contents, 2))
    with pytest.raises(SSLToolError, match=r"test_batch\b"):
        cifar.read_cifar10(tmp_path, "val", SETTINGS)


def test_damaged_batch_gives_arrays_or_one_clean_error(tmp_path, write_cifar):
    write_cifar(tmp_path, 10)
    path = tmp_path / "test_batch"
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    head = whole.index(b"U\x04data") + 200
    for trial in range(300):
        broken = bytearray(whole[: rng.integers(len(whole))] if trial % 3 == 0 else whole)
        for _ in range(trial % 3):
            place = rng.integers(-60, head)
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            cifar.read_cifar10(tmp_path, "val", SETTINGS)
        except SSLToolError:
            refused += 1
    assert 100 < refused < 300  # all that are cut off and some of the others


def test_missing_batch_is_named(tmp_path, write_cifar):
    write_cifar(tmp_path, 10)
    (tmp_path / "data_batch_4").unlink()
    with pytest.raises(SSLToolError, match=r"data_batch_4\b"):
        cifar.read_cifar10(tmp_path, "train", SETTINGS)


# STL-10


@pytest.mark.parametrize("place", [".", "stl10_binary"])
def test_stl10_is_read_from_its_files_or_a_torchvision_root(tmp_path, write_stl10, place):
    written = write_stl10(tmp_path / place)
    for split in ("train", "val", "unlabeled"):
        assert_equal(stl10.read(tmp_path, split, SETTINGS), written[split])


def test_stl10_equals_torchvisions(tmp_path, write_stl10, monkeypatch):
    monkeypatch.setattr(tv.STL10, "_check_integrity", lambda self: True)
    write_stl10(tmp_path / "stl10_binary")
    for split in ("train", "val", "unlabeled"):
        theirs = tv.STL10(tmp_path, split={"val": "test"}.get(split, split))
        assert_equal(stl10.read(tmp_path, split, SETTINGS), (theirs.data, theirs.labels.astype(int)))


def test_stl10_stores_columns_so_the_second_byte_is_one_row_down(tmp_path):
    data = np.zeros(3 * 96 * 96, np.uint8)
    data[1 * 96 * 96 + 7 * 96 + 5] = 200
    data.tofile(tmp_path / "unlabeled_X.bin")
    images, labels = stl10.read(tmp_path, "unlabeled", SETTINGS)
    assert np.argwhere(images).tolist() == [[0, 1, 5, 7]]  # channel 1, row 5, column 7
    assert labels.tolist() == [-1]


def test_unlabelled_split_of_stl10_stays_on_the_disk(tmp_path, write_stl10):
    write_stl10(tmp_path)
    images, _ = stl10.read(tmp_path, "unlabeled", SETTINGS)
    assert isinstance(images, np.memmap)
    assert images.flags.writeable  # else making a tensor of it would copy all of it into memory
    images[0, 0, 0, 0] += 1
    again, _ = stl10.read(tmp_path, "unlabeled", SETTINGS)
    assert again[0, 0, 0, 0] == images[0, 0, 0, 0] - 1  # the file is not written to


@pytest.mark.parametrize("damage", [lambda p: p.write_bytes(p.read_bytes()[:-5]), lambda p: p.write_bytes(b"")])
def test_truncated_stl10_is_refused_by_name(tmp_path, write_stl10, damage):
    write_stl10(tmp_path)
    damage(tmp_path / "train_X.bin")
    with pytest.raises(SSLToolError, match=r"train_X\.bin "):
        stl10.read(tmp_path, "train", SETTINGS)


def test_stl10_without_its_labels_is_refused(tmp_path, write_stl10):
    write_stl10(tmp_path)
    (tmp_path / "test_y.bin").unlink()
    with pytest.raises(SSLToolError, match=r"no such file: .*test_y.bin"):
        stl10.read(tmp_path, "val", SETTINGS)


@pytest.mark.parametrize(
    "header",
    [
        b"\0\0\x08\x01" + (10**9).to_bytes(4, "big"),
        b"\0\0\x08\x03" + (70_000_000).to_bytes(4, "big") + (28).to_bytes(4, "big") * 2,
        b"\0\0\x08\x03" + (0).to_bytes(4, "big") * 3,
        b"\0\0\x08\xff",
        b"\0\0\x0d\x03",
    ],
    ids=["rank", "huge", "empty", "255 dimensions", "floats"],
)
def test_what_an_idx_header_declares_is_compared_with_the_file(tmp_path, header):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(header + bytes(64)))
    with pytest.raises(SSLToolError, match="train-images-idx3") as caught:
        read_idx(path, 3)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(("end", "compress"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_zeros_are_not_inflated(tmp_path, end, compress):
    path = tmp_path / f"train-labels-idx1-ubyte{end}"
    block = compress(bytes(2**24))
    path.write_bytes(compress(b"\0\0\x08\x01" + (2**32 - 1).to_bytes(4, "big")) + block * 256)  # 4 GB
    tracemalloc.start()
    with pytest.raises(SSLToolError, match="declares the shape"):
        read_idx(path, 1)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize(
    "labels", [[[0] * 6], ["0"] * 6, [0] * 5, [10] * 6, [-1] * 6, [0.5] * 6, [True] * 6, {0: 0}, None, 6]
)
def test_labels_of_cifar_that_are_no_classes_are_refused_by_name(tmp_path, write_cifar, labels):
    write_cifar(tmp_path, 10)
    data = np.zeros((6, 3072), np.uint8)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": data, b"labels": labels}, protocol=2))
    with pytest.raises(SSLToolError, match="test_batch") as caught:
        cifar.read_cifar10(tmp_path, "val", SETTINGS)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("place", ["", "MNIST/raw"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_files_of_mnist_are_read_under_both_of_their_names(tmp_path, write_fashion, place, mark):
    written = write_fashion(tmp_path / place)
    for path in (tmp_path / place).iterdir():
        path.rename(path.with_name(path.name.replace("-idx", f"{mark}idx")))
    for split, (images, labels) in written.items():
        made = open_dataset(DataSettings(data=str(tmp_path)), split)
        assert torch.equal(made.images, torch.from_numpy(images)) and made.labels.tolist() == labels.tolist()
