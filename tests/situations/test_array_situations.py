"""Situations of representations, labels and lists of images from other programs, each with the right value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from situation_helpers import accuracy, class_folders, one_line, represent

N, CLASSES = 24, 4


def rows() -> torch.Tensor:
    """Rows whose nearest neighbours have their label: number i has label i mod 4."""
    centres = 10 * torch.eye(CLASSES, 8)
    return centres.repeat(N // CLASSES, 1) + 0.1 * torch.randn(N, 8, generator=torch.Generator().manual_seed(0))


LABELS = torch.arange(N) % CLASSES

TARGETS = {
    "int32": LABELS.int(),
    "uint8": LABELS.to(torch.uint8),
    "whole floats": LABELS.float(),
    "a list": LABELS.tolist(),
    "a column": LABELS[:, None],
    "names": [f"class {label}" for label in LABELS.tolist()],
    "from one": LABELS + 1,
    "with gaps": LABELS * 1000,
    "one-hot": torch.nn.functional.one_hot(LABELS, CLASSES),
}


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS)
def test_labels_of_every_usual_kind_give_the_same_accuracy(ssltool, tmp_path, targets):
    torch.save({"representations": rows(), "targets": targets}, tmp_path / "a.pt")
    torch.save({"representations": rows() + 0.01, "targets": targets}, tmp_path / "b.pt")
    assert accuracy(ssltool, tmp_path / "a.pt", tmp_path / "b.pt") == 1.0


WRONG_TARGETS = {
    "halves": LABELS + 0.5,
    "NaN": torch.full((N,), float("nan")),
    "complex": LABELS.to(torch.complex64),
    "too few": LABELS[:-1],
    "a number": torch.tensor(3),
    "None in a list": [None] * N,
    "soft labels": torch.full((N, CLASSES), 0.25),
    "huge": LABELS.double() * 1e300,
}


@pytest.mark.parametrize("targets", WRONG_TARGETS.values(), ids=WRONG_TARGETS)
@pytest.mark.parametrize("command", ["knn", "collapse", "lincls"])
def test_labels_that_are_none_are_refused_in_one_line(ssltool, tmp_path, targets, command):
    good, path = tmp_path / "good.pt", tmp_path / "a.pt"
    torch.save({"representations": rows(), "targets": LABELS}, good)
    torch.save({"representations": rows(), "targets": targets}, path)
    given = {"knn": [good, path], "collapse": [path], "lincls": ["--reprs", good, path, "-o", tmp_path / "run"]}
    assert one_line(ssltool(command, *given[command]), "a.pt", "targets")
    assert not (tmp_path / "run").exists()


FEATURES = {
    "half": rows().half(),
    "bfloat16": rows().bfloat16(),
    "double": rows().double(),
    "not contiguous": rows().T.contiguous().T,
    "pooled maps": rows()[:, :, None, None],
    "scaled up": rows() * 1e20,
    "scaled down": rows() * 1e-20,
    "requires grad": rows().requires_grad_(),
}


@pytest.mark.parametrize("metric", ["cos", "l2"])
@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_rows_of_every_usual_kind_have_the_same_neighbours(ssltool, tmp_path, features, metric):
    torch.save({"representations": features, "targets": LABELS}, tmp_path / "a.pt")
    torch.save({"representations": features.detach().clone(), "targets": LABELS}, tmp_path / "b.pt")
    assert accuracy(ssltool, tmp_path / "a.pt", tmp_path / "b.pt", "--metric", metric) == 1.0


@pytest.mark.parametrize("kind", [">f4", "<f8", "f2", "fortran"])
def test_numpy_arrays_of_any_byte_order_and_layout_are_read(ssltool, tmp_path, kind):
    array = rows().numpy()
    array = np.asfortranarray(array) if kind == "fortran" else array.astype(kind)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", array)
        np.save(tmp_path / f"{name}_targets.npy", LABELS.numpy().astype(">i4"))
    assert accuracy(ssltool, tmp_path / "a.npy", tmp_path / "b.npy") == 1.0


@pytest.mark.parametrize("names", [("representations", "targets"), ("features", "labels"), ("x", "y")])
def test_an_npz_is_read_by_the_usual_names(ssltool, tmp_path, names):
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", **dict(zip(names, (rows().numpy(), LABELS.numpy()), strict=True)))
    assert accuracy(ssltool, tmp_path / "a.npz", tmp_path / "b.npz") == 1.0


def test_labels_that_only_the_queries_have_are_named(ssltool, tmp_path):
    torch.save({"representations": rows()[LABELS < 3], "targets": LABELS[LABELS < 3]}, tmp_path / "a.pt")
    torch.save({"representations": rows(), "targets": LABELS}, tmp_path / "b.pt")
    ran = ssltool("knn", tmp_path / "a.pt", tmp_path / "b.pt", "-k", "1", "--json")
    assert ran.code == 0 and ran.json["accuracy"] == 0.75
    assert "3" in ran.err or any("3" in note for note in ran.json["notes"])


NUMBERS = {"uint8": "u1", "int32": "i4", "big-endian": ">i8", "uint64": "u8"}


@pytest.mark.parametrize("dtype", NUMBERS.values(), ids=NUMBERS)
def test_image_numbers_of_any_integer_type_select_the_images(ssltool, tmp_path, dtype):
    data = class_folders(tmp_path / "data", {"ant": 1, "bee": 2}, count=3)
    np.save(tmp_path / "idx.npy", np.array([5, 0], dtype))
    assert represent(ssltool, data, tmp_path / "r.pt", "--idx-path", str(tmp_path / "idx.npy")).code == 0
    saved = torch.load(tmp_path / "r.pt", weights_only=True)
    assert (saved["index"].tolist(), saved["targets"].tolist()) == ([5, 0], [1, 0])


WRONG_NUMBERS = {
    "a mask": np.array([True, False, True, False, True, False]),
    "floats": np.array([0.0, 1.0]),
    "negative": np.array([-1]),
    "too large": np.array([6]),
    "twice": np.array([1, 1]),
    "two axes": np.array([[1]]),
    "empty": np.array([], np.int64),
    "names": np.array(["0.png"]),
    "objects": np.array([None]),
}


@pytest.mark.parametrize("numbers", WRONG_NUMBERS.values(), ids=WRONG_NUMBERS)
def test_what_is_no_list_of_image_numbers_is_refused_in_one_line(ssltool, tmp_path, numbers):
    data = class_folders(tmp_path / "data", {"ant": 1, "bee": 2}, count=3)
    np.save(tmp_path / "idx.npy", numbers, allow_pickle=True)
    assert one_line(represent(ssltool, data, tmp_path / "r.pt", "--idx-path", str(tmp_path / "idx.npy")), "idx.npy")


def test_a_text_file_of_image_numbers_is_refused_in_one_line(ssltool, tmp_path):
    data = class_folders(tmp_path / "data", {"ant": 1, "bee": 2}, count=3)
    path: Path = tmp_path / "idx.txt"
    path.write_text("0\n1\n")
    assert one_line(represent(ssltool, data, tmp_path / "r.pt", "--idx-path", str(path)), "idx.txt")
