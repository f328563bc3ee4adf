"""The registry of dataset layouts: layouts that a plug-in adds, and how a folder is recognised."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from ssltool.config import SPLITS, DataSettings
from ssltool.data.decoding import decode
from ssltool.data.detection import detect, has_split, parse_type
from ssltool.data.images import open_dataset
from ssltool.data.layouts import LAYOUTS, DatasetLayout
from ssltool.errors import SSLToolError, UsageError
from ssltool.registry import load_plugins

PLUGIN = '''
"""A dataset whose images are in toy.npz: one array and its labels for each split."""

import numpy as np

from ssltool.data.layouts import LAYOUTS, DatasetLayout


def read(folder, split, settings):
    with np.load(folder / "toy.npz") as arrays:
        return arrays[split], arrays[f"{split}_labels"]


LAYOUTS.add("toylayout", DatasetLayout(read, files=("toy.npz",), aliases={"paper_toy": "val"}))
'''


@pytest.fixture
def plugin(tmp_path, registries) -> str:
    """The file of a plug-in that adds the layout ``toylayout``."""
    path = tmp_path / "toy_plugin.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture
def toy(tmp_path):
    """A folder in that layout, and its arrays."""
    rng, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 24), ("val", 12)):
        arrays[split] = rng.integers(0, 256, (count, 3, 16, 16), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count) % 4
    folder = tmp_path / "toy"
    folder.mkdir()
    np.savez(folder / "toy.npz", **arrays)
    return folder, arrays


def opened(folder, split="train", **settings):
    return open_dataset(DataSettings(data=str(folder), **settings), split)


def added(read, **facts) -> None:
    LAYOUTS.add("added", DatasetLayout(read, **facts))


def test_has_split_tells_which_splits_are_there(tmp_path, write_images):
    np.save(tmp_path / "one.npy", np.zeros((2, 4, 4), np.uint8))
    for name in ("set/train/a", "set/train/b", "set/test/a", "pile"):
        write_images(tmp_path / name, 2)
    (tmp_path / "t.csv").write_text("path\npile/000.png\n")
    found = {
        name: [split for split in ("train", "val", "test") if has_split(DataSettings(data=str(tmp_path / name)), split)]
        for name in ("one.npy", "set", "pile", "t.csv")
    }
    assert found == {"one.npy": ["train"], "set": ["train", "val", "test"], "pile": ["train"], "t.csv": ["train"]}


# A plug-in's layout


def test_help_lists_the_layout_of_a_plugin(plugin, ssltool):
    before, after = ssltool("pretrain", "--help"), ssltool("pretrain", "--plugin", plugin, "--help")
    assert (before.code, after.code) == (0, 0)
    assert "toylayout" not in before.out
    assert "toylayout" in after.out


@pytest.mark.parametrize("flags", [["--dataset-type", "toylayout"], []], ids=["named", "auto"])
def test_pretrain_reads_the_layout_of_a_plugin(plugin, toy, ssltool, tmp_path, flags):
    network = ["-a", "resnet18_w8", "--stem", "small-stride2", "--dim", 8, "--pred-dim", 4, "--device", "cpu"]
    schedule = ["--epochs", 1, "-b", 8, "--steps-per-epoch", 1, "--monitor-every", 0, "-j", 0, "-o", tmp_path / "run"]
    ran = ssltool("pretrain", toy[0], "--plugin", plugin, *flags, *network, *schedule)
    assert ran.code == 0, ran.err
    assert "toylayout train: 24 images, 4 classes, 16 x 16 colour" in ran.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"] == str(toy[0])


def test_layout_of_a_plugin_is_read_for_each_split(plugin, toy):
    load_plugins([plugin])
    folder, arrays = toy
    spellings = {"auto": "train", "toylayout": "train", "toylayout_val": "val", "paper_toy": "val"}
    for dataset_type, split in spellings.items():
        made = opened(folder, dataset_type=dataset_type)
        assert (made.name, made.split, made.classes) == ("toylayout", split, ("0", "1", "2", "3"))
        assert torch.equal(made.images, torch.from_numpy(arrays[split]))
        assert made.labels.tolist() == arrays[f"{split}_labels"].tolist()
        assert made.labels.dtype == np.int64
    with pytest.raises(SSLToolError, match=r"unlabeled.*train, val"):
        opened(folder, dataset_type="toylayout_unlabeled")


@pytest.mark.parametrize(("wrong", "offered"), [("toylayuot", "toylayout"), ("paper_tyo", "paper_toy")])
def test_unknown_type_offers_the_names_of_a_plugin(plugin, toy, ssltool, wrong, offered):
    ran = ssltool("pretrain", toy[0], "--plugin", plugin, "--dataset-type", wrong, "-o", toy[0] / "run")
    assert ran.code == 2
    assert wrong in ran.err
    assert offered in ran.err


def test_the_name_of_a_layout_cannot_be_taken_twice(registries):
    with pytest.raises(SSLToolError, match="cifar10"):
        LAYOUTS.add("cifar10", DatasetLayout(lambda folder, split, settings: ([], [])))


def test_name_with_an_underscore_is_found_in_both_spellings(registries):
    LAYOUTS.add("my_birds", DatasetLayout(lambda folder, split, settings: ([], [])))
    assert parse_type("my_birds") == parse_type("my-birds") == ("my_birds", None, False)
    assert parse_type("my_birds_val_subset") == ("my_birds", "val", True)


def test_name_that_ends_like_a_split_is_the_name(registries):
    LAYOUTS.add("crash-test", DatasetLayout(lambda folder, split, settings: ([], [])))
    assert parse_type("crash_test") == ("crash-test", None, False)
    assert parse_type("crash_test_val") == ("crash-test", "val", False)


def test_reader_may_return_paths_of_image_files(registries, tmp_path, write_images):
    paths = write_images(tmp_path / "birds", 3) + write_images(tmp_path / "more", 1)
    added(lambda folder, split, settings: (paths[::-1], [1, -1, 0, 1]), splits=("train",))
    made = opened(tmp_path, dataset_type="added")
    assert made.labels.tolist() == [1, -1, 0, 1]
    assert made.classes == ("0", "1")
    images = [torch.from_numpy(np.array(decode(str(path)))).permute(2, 0, 1) for path in paths[::-1]]
    assert torch.equal(made.images, torch.stack(images))


def test_reader_may_return_an_image_set(registries, tmp_path, write_images):
    write_images(tmp_path / "pile", 2)
    plain = opened(tmp_path / "pile", dataset_type="images")
    named = dataclasses.replace(plain, name="added", labels=np.array([1, 0]), classes=("owl", "wren"))
    added(lambda folder, split, settings: named)
    assert opened(tmp_path / "pile", dataset_type="added").classes == ("owl", "wren")


def test_reader_is_given_the_settings(registries, tmp_path):
    seen = []

    def read(folder, split, settings):
        seen.append((folder, split, settings.small))
        return np.zeros((1, 1, 8, 8), np.uint8), [0]

    added(read, small=True)
    opened(tmp_path, "val", dataset_type="added", small=True)
    assert seen == [(tmp_path, "val", True)]


@pytest.mark.parametrize(
    "images",
    [np.zeros((2, 3, 8, 8)), np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 8, 3), np.uint8)],
    ids=["floats", "no channels", "channels last"],
)
def test_arrays_that_are_no_images_are_refused(registries, tmp_path, images):
    added(lambda folder, split, settings: (images, [0, 1]))
    with pytest.raises(SSLToolError, match="added needs uint8"):
        opened(tmp_path, dataset_type="added")


def test_layout_with_its_own_folder_takes_no_data(registries, tmp_path):
    added(lambda folder, split, settings: (np.load(folder / "images.npy"), [0, 1]), folder=tmp_path)
    images = np.arange(2 * 64, dtype=np.uint8).reshape(2, 1, 8, 8)
    np.save(tmp_path / "images.npy", images)
    assert torch.equal(open_dataset(DataSettings(dataset_type="added"), "train").images, torch.from_numpy(images))
    with pytest.raises(UsageError, match="added"):
        opened(tmp_path, dataset_type="added")


def test_download_of_a_plugin_is_called_before_reading(registries, tmp_path):
    def download(folder, split, settings):
        folder.mkdir()
        np.save(folder / f"{split}.npy", np.zeros((1, 1, 8, 8), np.uint8))

    added(lambda folder, split, settings: (np.load(folder / f"{split}.npy"), [0]), download=download)
    assert len(opened(tmp_path / "new", "val", dataset_type="added", download=True)) == 1
    with pytest.raises(SSLToolError, match=r"--download .*added"):
        opened(tmp_path, dataset_type="images", download=True)


# Recognition


def test_every_layout_can_be_imported_and_has_known_splits():
    for name, layout in LAYOUTS.items():
        for field in ("target", "recogniser", "download"):
            assert getattr(layout, field) is None or callable(LAYOUTS.load(name, field))
        assert set(layout.splits) <= set(SPLITS)
        assert set(layout.aliases.values()) <= {None, *layout.splits}


MARKS = [
    *(("fashion-mnist", f) for f in ("FashionMNIST", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz")),
    *(("cifar10", file) for file in ("cifar-10-batches-py", "data_batch_1")),
    ("cifar100", "cifar-100-python"),
    *(("stl10", file) for file in ("stl10_binary", "train_X.bin")),
    *(("places365", file) for file in ("places365_train_standard.txt", "places365_val.txt")),
]
"""Files that identify a layout, the strongest first."""


@pytest.mark.parametrize("first", range(len(MARKS)), ids=[file for _, file in MARKS])
@pytest.mark.parametrize("train", ["file", "folder", None])
def test_files_identify_a_layout_whatever_else_is_in_the_folder(tmp_path, first, train):
    for _, file in MARKS[first:]:
        (tmp_path / file).touch()
    if train == "file":
        (tmp_path / "train").touch()
    elif train == "folder":
        (tmp_path / "train").mkdir()
    assert detect(str(tmp_path)) == MARKS[first][0]


@pytest.mark.parametrize("classes", [False, True], ids=["alone", "beside class folders"])
def test_train_is_a_file_in_cifar100_and_a_folder_in_imagenet(tmp_path, write_images, classes):
    if classes:
        for name in ("a", "b"):
            write_images(tmp_path / name, 2)
    train = tmp_path / "train"
    train.touch()
    assert detect(str(tmp_path)) == "cifar100"
    train.unlink()
    assert detect(str(tmp_path)) == ("folder" if classes else "images")
    train.mkdir()
    assert detect(str(tmp_path)) == ("folder" if classes else "imagenet")


@pytest.mark.parametrize("data", ["train folder", "class folders", "images"])
def test_recogniser_of_a_plugin_comes_before_the_generic_layouts(registries, tmp_path, write_images, data):
    folders = {"train folder": ("train",), "class folders": ("a", "b"), "images": (".",)}[data]
    for name in folders:
        write_images(tmp_path / name, 2)
    assert detect(str(tmp_path)) == {"train folder": "imagenet", "class folders": "folder"}.get(data, "images")
    added(lambda folder, split, settings: ([], []), recogniser=lambda folder: (folder / folders[0]).is_dir())
    assert detect(str(tmp_path)) == "added"
