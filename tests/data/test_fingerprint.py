"""Fingerprints of image sets, their manifests, and what a change of the images is called."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.config import DataSettings
from ssltool.data import fingerprint
from ssltool.data.images import ImageSet, open_dataset
from ssltool.data.layouts import LAYOUTS, DatasetLayout
from ssltool.data.manifest import Manifest
from ssltool.errors import SSLToolError


def opened(folder, split="train", **settings) -> ImageSet:
    return open_dataset(DataSettings(data=str(folder), **settings), split)


@pytest.fixture
def pile(tmp_path, write_images):
    """A folder of five images."""
    write_images(tmp_path / "pile", 5)
    return tmp_path / "pile"


# The fingerprint


def test_the_same_images_elsewhere_have_the_same_fingerprint(tmp_path, write_images):
    for place in ("one", "two"):
        write_images(tmp_path / place / "ant", 2)
        write_images(tmp_path / place / "bee", 2)
    one, two = opened(tmp_path / "one"), opened(tmp_path / "two")
    assert one.fingerprint == two.fingerprint and len(one.fingerprint) == 16
    assert np.array_equal(one.digests, two.digests)
    assert one.files == ("ant/000.png", "ant/001.png", "bee/000.png", "bee/001.png")


@pytest.mark.parametrize("change", ["replace", "rename", "add", "remove"])
def test_any_change_of_the_files_changes_the_fingerprint(pile, write_images, change):
    before = opened(pile).fingerprint
    path = pile / "003.png"
    if change == "replace":
        os.replace(write_images(pile / "other", 1)[0], path)
        (pile / "other").rmdir()
    elif change == "rename":
        path.rename(pile / "0031.png")
    elif change == "add":
        write_images(pile / "more", 1)
    else:
        path.unlink()
    assert opened(pile).fingerprint != before


def test_the_whole_set_is_identified_whatever_is_selected(pile, tmp_path):
    np.save(tmp_path / "some.npy", [4, 1])
    whole, some = opened(pile), opened(pile, idx_path=str(tmp_path / "some.npy"))
    assert some.fingerprint == whole.fingerprint
    assert some.files == ("004.png", "001.png")
    assert some.digests.tolist() == whole.digests[[4, 1]].tolist()
    assert some.select(np.array([1])).files == ("001.png",)


def test_skipping_corrupt_images_keeps_the_fingerprint(pile):
    (pile / "002.png").write_bytes(b"no image")
    made = opened(pile, skip_corrupt=True)
    assert made.files == ("000.png", "001.png", "003.png", "004.png") and len(made.digests) == 4
    assert made.fingerprint == fingerprint.fingerprint(
        [f"{i:03d}.png" for i in range(5)], fingerprint.of_files([str(pile / f"{i:03d}.png") for i in range(5)]).digests
    )


def test_the_split_folders_of_imagenet_are_the_same_sets_as_class_folders(tmp_path, write_images):
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            write_images(tmp_path / split / name, 2, seed=len(split))
    for split in ("train", "val"):
        assert opened(tmp_path, split).fingerprint == opened(tmp_path / split).fingerprint
    assert opened(tmp_path, "train").fingerprint != opened(tmp_path, "val").fingerprint


@pytest.mark.parametrize("layout", ["fashion-mnist", "cifar10", "cifar100", "stl10"])
def test_arrays_are_identified_by_their_content(tmp_path, write_fashion, write_cifar, write_stl10, layout):
    write = {
        "fashion-mnist": write_fashion,
        "cifar10": lambda folder: write_cifar(folder, 10),
        "cifar100": lambda folder: write_cifar(folder, 100),
        "stl10": write_stl10,
    }[layout]
    write(tmp_path / "one")
    write(tmp_path / "two")
    sets = {split: opened(tmp_path / "one", split) for split in LAYOUTS[layout].splits}
    assert len({images.fingerprint for images in sets.values()}) == len(sets)
    for split, images in sets.items():
        assert images.files is None and images.digests.shape == (len(images),)
        assert images.digests.dtype == np.int64 and len(set(images.digests.tolist())) == len(images)
        assert opened(tmp_path / "two", split).fingerprint == images.fingerprint


def test_layouts_of_plugins_have_fingerprints(registries, tmp_path, write_images):
    paths = write_images(tmp_path / "birds", 3)
    LAYOUTS.add("paths", DatasetLayout(lambda folder, split, settings: (paths[::-1], [0, 1, 0])))
    LAYOUTS.add("arrays-of", DatasetLayout(lambda folder, split, settings: (np.zeros((2, 1, 8, 8), np.uint8), [0, 1])))
    made = opened(tmp_path, dataset_type="paths")
    assert made.files == ("birds/002.png", "birds/001.png", "birds/000.png") and made.fingerprint
    arrays = opened(tmp_path, dataset_type="arrays-of")
    assert arrays.files is None and arrays.digests[0] == arrays.digests[1] and arrays.fingerprint


def test_places365_has_relative_paths(tmp_path, write_images):
    write_images(tmp_path / "val_large", 2)
    (tmp_path / "places365_val.txt").write_text("001.png 165\n000.png 0\n")
    assert opened(tmp_path, "val").files == ("val_large/001.png", "val_large/000.png")


# The content of a file


@given(size=st.integers(1, 20_000), at=st.data())
def test_a_change_of_the_first_or_last_4_kilobytes_or_of_the_size_is_seen(tmp_path_factory, size, at):
    path = tmp_path_factory.mktemp("raw") / "a.raw"
    content = bytearray(np.random.default_rng(0).bytes(size))
    path.write_bytes(content)
    (before,) = fingerprint.of_files([str(path)]).digests
    edges = [i for i in (0, 4095, size - 4096, size - 1) if 0 <= i < size]
    content[at.draw(st.sampled_from(edges))] ^= 1
    path.write_bytes(content)
    assert fingerprint.of_files([str(path)]).digests[0] != before
    path.write_bytes(content + b"\0")
    assert fingerprint.of_files([str(path)]).digests[0] != before


def test_the_same_content_has_the_same_digest_under_any_name(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"content")
    one, two = fingerprint.of_files([str(tmp_path / "a"), str(tmp_path / "b")]).digests
    assert one == two


def test_pipes_and_missing_files_are_named_instead_of_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = fingerprint.of_files([str(tmp_path / "pipe"), str(tmp_path / "gone")])
    assert found.unreadable == {0: "not a regular file", 1: "No such file or directory"}


def test_slow_files_are_read_by_threads_with_the_same_result(tmp_path, monkeypatch):
    paths = []
    for i in range(40):
        paths.append(str(tmp_path / f"{i}"))
        (tmp_path / f"{i}").write_bytes(bytes([i]))
    expected = fingerprint.of_files(paths).digests
    read = os.fstat
    monkeypatch.setattr(fingerprint, "TRIAL_FILES", 4)
    monkeypatch.setattr(os, "fstat", lambda stream: time.sleep(0.02) or read(stream))
    start = time.perf_counter()
    assert np.array_equal(fingerprint.of_files(paths).digests, expected)
    assert time.perf_counter() - start < 0.02 * 36


# The manifest


def changed(pile, change) -> str | None:
    manifest = Manifest.of(opened(pile))
    change()
    return manifest.difference(opened(pile))


def test_the_same_images_have_no_difference(pile):
    assert changed(pile, lambda: None) is None


def test_a_replaced_image_is_named(pile, write_images):
    other = write_images(pile.parent / "other", 1)[0]
    assert changed(pile, lambda: os.replace(other, pile / "003.png")) == "003.png was replaced"


def test_a_renamed_image_is_named_with_both_names(pile):
    assert changed(pile, lambda: (pile / "003.png").rename(pile / "new.png")) == "003.png was renamed to new.png"


def test_missing_and_new_images_are_named(pile, write_images):
    assert changed(pile, lambda: write_images(pile / "more", 1)) == "more/000.png is new"
    assert changed(pile, (pile / "001.png").unlink) == "001.png is no longer among them"


def test_another_order_is_a_difference(pile):
    images = opened(pile)
    assert Manifest.of(images).difference(images.select(np.arange(5)[::-1].copy())) == "the order of the images changed"


def test_images_of_arrays_are_named_by_their_number(registries, tmp_path):
    arrays = np.arange(3 * 64, dtype=np.uint8).reshape(3, 1, 8, 8)
    LAYOUTS.add("mine", DatasetLayout(lambda folder, split, settings: (arrays.copy(), [0, 1, 2])))
    manifest = Manifest.of(opened(tmp_path, dataset_type="mine"))
    arrays[1] += 1
    assert manifest.difference(opened(tmp_path, dataset_type="mine")) == "image 1 was replaced"


def test_a_manifest_is_read_as_it_was_written(pile, tmp_path):
    (pile / "000.png").rename(pile / 'a "quoted"\n name \udcff.png')
    images = opened(pile)
    Manifest.of(images).save(tmp_path / "images.jsonl")
    assert Manifest.load(tmp_path / "images.jsonl") == Manifest.of(images)
    assert len((tmp_path / "images.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 1}', '{"format": "ssltool/images/1", "fingerprint": "a"}\n[1, 2]', "[" * 100_000],
    ids=["empty", "cut", "list", "format", "line", "deep"],
)
def test_a_manifest_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "images.jsonl").write_text(text)
    with pytest.raises(SSLToolError, match=r"images\.jsonl"):
        Manifest.load(tmp_path / "images.jsonl")


def test_images_in_memory_and_as_files_are_the_same_set(pile, monkeypatch):
    in_memory = opened(pile)
    monkeypatch.setattr("ssltool.data.image_files.MEMORY_LIMIT", 0)
    files = opened(pile)
    assert isinstance(in_memory.images, torch.Tensor) and files.images is None
    assert (in_memory.fingerprint, in_memory.files) == (files.fingerprint, files.files)
