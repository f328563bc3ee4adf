"""Images and labels in NumPy files."""

from __future__ import annotations

import io
import os
import zipfile

import numpy as np
import pytest
import torch

from ssltool.config import DataSettings
from ssltool.data.detection import detect
from ssltool.data.images import ImageSet, open_dataset
from ssltool.errors import SSLToolError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 5, 4), np.uint8)
COLOUR = RNG.integers(0, 256, (6, 5, 4, 3), np.uint8)


def opened(path, split="train", **settings) -> ImageSet:
    return open_dataset(DataSettings(data=str(path), **settings), split)


def test_medmnist_file_has_both_splits_and_labels_of_a_column(tmp_path):
    path = tmp_path / "pathmnist.npz"
    labels = np.array([[0], [2], [1], [0], [2], [1]], np.uint8)
    np.savez(
        path, train_images=COLOUR, train_labels=labels, val_images=COLOUR[:2], val_labels=labels[:2], test_images=GREY
    )
    for split, count in {"train": 6, "val": 2}.items():
        made = opened(path, split)
        assert (made.name, made.split, made.classes) == ("arrays", split, ("0", "1", "2"))
        assert torch.equal(made.images, torch.from_numpy(COLOUR[:count]).permute(0, 3, 1, 2))
        assert made.labels.tolist() == [0, 2, 1, 0, 2, 1][:count]


SPLITS_OF_A_FILE = {
    "MedMNIST": (("train_images", "val_images", "test_images"), ("train", "val", "test")),
    "Keras": (("x_train", "x_val", "x_test"), ("train", "val", "test")),
    "no val": (("train_images", "test_images"), ("train", "test")),
}


@pytest.mark.parametrize(("names", "splits"), SPLITS_OF_A_FILE.values(), ids=SPLITS_OF_A_FILE)
@pytest.mark.parametrize("archive", [True, False])
def test_test_images_are_a_split_and_the_val_split_if_there_is_no_other(tmp_path, names, splits, archive):
    stored = {name: GREY[i : i + 3] for i, name in enumerate(names)}
    if archive:
        np.savez(tmp_path / "a.npz", **stored)
    else:
        for split, images in zip(splits, stored.values(), strict=True):
            np.save(tmp_path / f"{split}.npy", images)
    for split in ("train", "val", "test"):
        source = split if split in splits else "test"
        made = opened(tmp_path / "a.npz" if archive else tmp_path, split)
        expected = stored[names[splits.index(source)]]
        assert made.split == split and torch.equal(made.images[:, 0], torch.from_numpy(expected))
        assert any("val is read from" in note for note in made.notes) == (source != split)
        assert names[splits.index(source)].replace("images", "labels").replace("x_", "y_") in made.why_unlabelled or (
            not archive and f"{source}_labels.npy" in made.why_unlabelled
        )


def test_split_without_its_array_is_one_line_that_names_it(tmp_path):
    np.savez(tmp_path / "a.npz", train_images=GREY, val_images=GREY)
    with pytest.raises(SSLToolError, match=r"a\.npz has no test images.*test_images"):
        opened(tmp_path / "a.npz", "test")


def test_keras_file_validates_on_its_test_images(tmp_path):
    np.savez_compressed(
        tmp_path / "mnist.npz", x_train=GREY, y_train=np.arange(6), x_test=GREY[:3], y_test=np.arange(3)
    )
    assert torch.equal(opened(tmp_path / "mnist.npz", "val").images[:, 0], torch.from_numpy(GREY[:3]))


def test_folder_has_a_file_for_each_split(tmp_path):
    np.save(tmp_path / "train.npy", GREY)
    np.save(tmp_path / "train_labels.npy", np.arange(6) % 2)
    np.save(tmp_path / "val.npy", GREY[:3])
    assert detect(str(tmp_path)) == "arrays"
    assert opened(tmp_path).labels.tolist() == [0, 1] * 3
    assert opened(tmp_path, "val").labels.tolist() == [-1] * 3


@pytest.mark.parametrize(
    ("images", "labels"), [("x_train", "y_train"), ("X_train", "Y_train"), ("train_images", "train_labels")]
)
def test_names_of_archives_are_those_of_the_files_of_a_folder_too(tmp_path, images, labels):
    np.save(tmp_path / f"{images}.npy", GREY)
    np.save(tmp_path / f"{labels}.npy", np.arange(6) % 3)
    assert detect(str(tmp_path)) == "arrays"
    assert opened(tmp_path).labels.tolist() == [0, 1, 2] * 2
    with pytest.raises(SSLToolError, match=r"no test images.*test\.npy"):
        opened(tmp_path, "test")


def test_single_array_is_unlabelled_and_has_one_split(tmp_path):
    np.save(tmp_path / "cells.npy", COLOUR)
    made = opened(tmp_path / "cells.npy")
    assert made.labels.tolist() == [-1] * 6 and made.images.shape == (6, 3, 5, 4)
    with pytest.raises(SSLToolError, match=r"cells\.npy has no val split"):
        opened(tmp_path / "cells.npy", "val")


def test_one_channel_last_is_grey(tmp_path):
    np.save(tmp_path / "a.npy", GREY[..., None])
    assert torch.equal(opened(tmp_path / "a.npy").images[:, 0], torch.from_numpy(GREY))


def test_four_channels_are_composited(tmp_path):
    alpha = RNG.integers(0, 256, (6, 5, 4, 1), np.uint8)
    np.save(tmp_path / "a.npy", np.concatenate([COLOUR, alpha], axis=3))
    expected = np.rint(COLOUR * (alpha / 255) + 255 * (1 - alpha / 255)).astype(np.uint8)
    assert torch.equal(opened(tmp_path / "a.npy").images, torch.from_numpy(expected).permute(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", [np.uint16, np.int64, np.float32])
@pytest.mark.parametrize("opaque", [1, 255, 65535])
def test_alpha_is_a_share_of_1_255_or_65535_whatever_the_range_of_the_colours(tmp_path, dtype, opaque):
    share = RNG.integers(0, 2, (6, 5, 4, 1)) if opaque == 1 else RNG.integers(0, 256, (6, 5, 4, 1)) / 255
    np.save(tmp_path / "a.npy", np.concatenate([COLOUR, np.rint(share * opaque)], axis=3).astype(dtype))
    expected = np.rint(COLOUR * share + 255 * (1 - share)).astype(np.uint8)
    found = opened(tmp_path / "a.npy", value_range=("0", "255"))
    assert torch.equal(found.images, torch.from_numpy(expected).permute(0, 3, 1, 2))


@pytest.mark.parametrize("alpha", [-1.0, 65536.0, np.nan, np.inf])
def test_alpha_of_another_range_is_refused(tmp_path, alpha):
    array = np.concatenate([COLOUR, COLOUR[..., :1]], axis=3).astype(np.float32)
    array[3, 2, 1, 3] = alpha
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(SSLToolError, match=r"a\.npy.*alpha, has values from .*\[\.\.\., :3\]"):
        opened(tmp_path / "a.npy", value_range=("0", "255"))


@pytest.mark.parametrize(
    ("array", "high"), [(RNG.integers(0, 65536, (6, 5, 4), np.uint16), 65535), (RNG.random((6, 5, 4)), 1)]
)
def test_wide_types_are_scaled_by_their_range(tmp_path, array, high):
    np.save(tmp_path / "a.npy", array)
    expected = np.rint(array.astype(float) / high * 255).astype(np.uint8)
    assert torch.equal(opened(tmp_path / "a.npy").images[:, 0], torch.from_numpy(expected))


@pytest.mark.parametrize("array", [GREY.astype(np.uint16), GREY.astype(np.int64), GREY.astype(np.float32)], ids=str)
def test_values_of_a_part_of_the_range_name_the_flag(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(SSLToolError, match="--value-range"):
        opened(tmp_path / "a.npy")
    assert torch.equal(opened(tmp_path / "a.npy", value_range=("0", "255")).images[:, 0], torch.from_numpy(GREY))


@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 5, 8), (6, 5, 4, 7), (6, 5, 4, 3, 2), (0, 5, 4), (6, 0, 4)], ids=str)
def test_shapes_that_are_no_images_are_refused(tmp_path, shape):
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    with pytest.raises(SSLToolError, match=r"a\.npy.*shape"):
        opened(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(5),
        np.eye(5),
        np.eye(6)[:, :3],
        np.eye(6) + np.eye(6, k=1),
        np.full((6, 3), 1 / 3),
        np.zeros((6, 2, 2), int),
        np.array(3),
        np.arange(6) + 0.5,
        np.full(6, np.nan),
        np.full(6, 10**9),
        np.full(6, 1j),
        np.array([list("ab")] * 6),
    ],
    ids=lambda labels: f"{labels.dtype} {labels.shape} {labels.ravel()[0]}",
)
def test_labels_that_are_not_one_class_per_image_are_one_line(tmp_path, labels):
    np.save(tmp_path / "a.npy", GREY)
    np.save(tmp_path / "a_labels.npy", labels)
    with pytest.raises(SSLToolError, match=r"a\.npy.*labels") as caught:
        opened(tmp_path / "a.npy")
    assert "\n" not in str(caught.value)


WANTED = np.array([2, 0, 1, 0, 2, 1])
FORMS = {
    "numbers": WANTED,
    "a column": WANTED[:, None].astype(np.uint8),
    "one-hot": np.eye(3)[WANTED],
    "one-hot booleans": np.eye(3, dtype=bool)[WANTED],
    "big-endian": WANTED.astype(">u2"),
    "whole floats": WANTED.astype(np.float16),
    "names": np.array(["ant", "bee", "cat"])[WANTED],
    "a column of names": np.array([b"ant", b"bee", b"cat"])[WANTED][:, None],
}


@pytest.mark.parametrize("labels", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("archive", [False, True])
def test_labels_of_every_form_are_the_same_classes(tmp_path, labels, archive):
    path = tmp_path / ("a.npz" if archive else "a.npy")
    if archive:
        np.savez(path, images=GREY, labels=labels)
    else:
        np.save(path, GREY)
        np.save(tmp_path / "a_labels.npy", labels)
    made = opened(path)
    assert made.labels.tolist() == WANTED.tolist() and len(made.classes) == 3


def test_names_of_labels_may_be_of_val_only_empty_bytes_or_decomposed(tmp_path):
    names = {"train": np.array(["tea", "b\u00e9", ""]), "val": np.array(["be\u0301".encode(), b"zoo", b"\xff"])}
    for split, found in names.items():
        np.save(tmp_path / f"{split}.npy", GREY[: len(found)])
        np.save(tmp_path / f"{split}_labels.npy", found)
    train, val = (opened(tmp_path, split) for split in names)
    assert train.classes == ("b\u00e9", "tea") and train.labels.tolist() == [1, 0, -1]
    assert val.classes[:2] == train.classes and [val.classes[label] for label in val.labels] == [
        "b\u00e9",
        "zoo",
        "\\xff",
    ]


def test_labels_that_are_names_are_numbered_by_the_train_split(tmp_path):
    for split, names in {"train": ["cat", "ant", "bee", "ant", "cat", "bee"], "val": ["cat", "bee"]}.items():
        np.save(tmp_path / f"{split}.npy", GREY[: len(names)])
        np.save(tmp_path / f"{split}_labels.npy", names)
    assert opened(tmp_path).labels.tolist() == [2, 0, 1, 0, 2, 1]
    made = opened(tmp_path, "val")
    assert (made.labels.tolist(), made.classes) == ([2, 1], ("ant", "bee", "cat"))


@pytest.mark.parametrize("names_in", ["train", "val"])
def test_names_in_one_split_and_numbers_in_the_other_are_refused(tmp_path, names_in):
    for split in ("train", "val"):
        np.save(tmp_path / f"{split}.npy", GREY)
        np.save(tmp_path / f"{split}_labels.npy", ["cat", "ant"] * 3 if split == names_in else np.arange(6))
    assert len(opened(tmp_path).classes) == (2 if names_in == "train" else 6)
    with pytest.raises(SSLToolError, match=r"val images: .*names.*"):
        opened(tmp_path, "val")


@pytest.mark.parametrize("text_in", ["train", "val", "both"])
def test_numbers_that_are_text_are_numbers(tmp_path, text_in):
    numbers = np.array([10, 2, 0, 11, 1, 3])
    for split in ("train", "val"):
        np.save(tmp_path / f"{split}.npy", GREY)
        np.save(tmp_path / f"{split}_labels.npy", numbers.astype(str) if text_in in (split, "both") else numbers)
        assert opened(tmp_path, split).labels.tolist() == numbers.tolist()


def test_test_images_alone_may_have_names_as_labels(tmp_path):
    np.savez(tmp_path / "a.npz", test_images=GREY, test_labels=["cat", "ant"] * 3)
    assert opened(tmp_path / "a.npz", "test").labels.tolist() == [1, 0] * 3


def test_pickles_are_not_loaded(tmp_path, bomb):
    np.save(tmp_path / "a.npy", np.array([bomb(os.mkdir, str(tmp_path / "made"))], object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", images=np.array([bomb(os.mkdir, str(tmp_path / "made"))], object), allow_pickle=True)
    for name in ("a.npy", "b.npz"):
        with pytest.raises(SSLToolError, match=name):
            opened(tmp_path / name)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_file_cut_anywhere_is_one_line(tmp_path, name):
    path = tmp_path / name
    np.save(path, GREY) if name.endswith("npy") else np.savez(path, images=GREY)
    whole = path.read_bytes()
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        with pytest.raises(SSLToolError, match=name) as caught:
            opened(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_a_header_that_declares_more_than_the_file_holds_is_refused_before_memory_is_allocated(tmp_path, name):
    header = io.BytesIO()
    np.lib.format.write_array_header_2_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**40, 8, 8)})
    if name == "a.npy":
        (tmp_path / name).write_bytes(header.getvalue())
    else:
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("images.npy", header.getvalue())
    with pytest.raises(SSLToolError, match=rf"{name}.*declares {2**46:,} bytes"):
        opened(tmp_path / name)


def test_archive_without_images_lists_its_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", weights=GREY)
    with pytest.raises(SSLToolError, match=r"a\.npz has no train images.*weights"):
        opened(tmp_path / "a.npz")


@pytest.mark.parametrize(("images", "used"), [(GREY, False), (COLOUR, False), (GREY.astype(np.uint16) * 257, True)])
def test_a_range_without_effect_is_said(tmp_path, images, used):
    np.save(tmp_path / "a.npy", images)
    made = opened(tmp_path / "a.npy", value_range=("0", "9999"))
    assert any("--value-range is not used" in note for note in made.notes) != used


def test_alpha_and_values_that_are_no_pixels_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.concatenate([COLOUR, COLOUR[..., :1]], axis=3))
    assert any("--background" in note for note in opened(tmp_path / "a.npy").notes)
    np.save(tmp_path / "b.npy", COLOUR.astype(complex))
    with pytest.raises(SSLToolError, match=r"b\.npy.*complex128"):
        opened(tmp_path / "b.npy")


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(6, [("a", "i4")]),
        np.zeros(6, complex),
        np.zeros(6, "M8[s]"),
        np.full(6, 1e307),
        np.full(6, np.nan),
        np.full(6, 2**63, np.uint64),
        np.full(6, 0.5),
    ],
    ids=lambda labels: f"{labels.dtype} {labels[0]}",
)
@pytest.mark.filterwarnings("error")
def test_labels_of_a_type_without_class_numbers_are_refused_without_a_warning(tmp_path, labels):
    np.savez(tmp_path / "a.npz", images=GREY, labels=labels)
    with pytest.raises(SSLToolError, match=r"a\.npz.*labels.*class|a\.npz.*labels.*integers"):
        opened(tmp_path / "a.npz")


@pytest.mark.parametrize("train", [np.zeros(6, [("a", "i4")]), np.arange(6), np.arange(6.0)], ids=str)
def test_names_beside_labels_of_the_train_split_that_are_none_are_refused(tmp_path, train):
    val = {"val_images": GREY, "val_labels": np.array(list("abcabc"))}
    np.savez(tmp_path / "a.npz", train_images=GREY, train_labels=train, **val)
    with pytest.raises(SSLToolError, match=r"names.*train split"):
        opened(tmp_path / "a.npz", "val")
