"""Labels in files of other programs: numbers, names and one-hot rows become the labels they stand for, or one line."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import SSLToolError
from ssltool.files.label_values import read_index, read_targets
from ssltool.reprs.representations import Representations

WANTED = [2, 0, 1, 0]


@pytest.mark.parametrize(
    "value",
    [
        torch.tensor(WANTED),
        torch.tensor(WANTED, dtype=torch.uint8),
        torch.tensor(WANTED).to(torch.uint16),
        torch.tensor(WANTED).to(torch.uint32),
        torch.tensor(WANTED).to(torch.uint64),
        torch.tensor(WANTED).float(),
        torch.tensor(WANTED).half(),
        torch.tensor(WANTED).view(4, 1),
        torch.tensor(WANTED).view(4, 1, 1).double(),
        torch.nn.functional.one_hot(torch.tensor(WANTED)),
        torch.nn.functional.one_hot(torch.tensor(WANTED)).float(),
        torch.nn.functional.one_hot(torch.tensor(WANTED)).bool(),
        torch.tensor(WANTED, dtype=torch.float32).requires_grad_(),
        WANTED,
        tuple(WANTED),
        [[one] for one in WANTED],
        [float(one) for one in WANTED],
        list(map(str, WANTED)),
    ],
    ids=str,
)
def test_numbers_of_any_form_are_the_labels(value):
    labels, classes = read_targets(value, "r.pt", [])
    assert labels.dtype == torch.int64 and not labels.requires_grad
    assert labels.tolist() == WANTED and classes == []


def test_names_are_mapped_to_those_of_the_file_or_sorted():
    labels, classes = read_targets(["cat", "ant", None, "", "cat"], "r.pt", [])
    assert (labels.tolist(), classes) == ([1, 0, -1, -1, 1], ["ant", "cat"])
    labels, classes = read_targets(["cat", "ant"], "r.pt", ["dog", "cat", "ant"])
    assert (labels.tolist(), classes) == ([1, 2], ["dog", "cat", "ant"])


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=20))
def test_equal_names_are_equal_labels(names):
    labels, classes = read_targets(names, "r.pt", [])
    found = [classes[i] if classes else str(i) for i in labels.tolist()]
    assert found == names or all(name.removeprefix("-").isdecimal() for name in names)


def test_booleans_are_two_classes_and_negative_numbers_are_unlabelled():
    assert read_targets(torch.tensor([True, False]), "r.pt", [])[0].tolist() == [1, 0]
    assert read_targets([True, False], "r.pt", [])[0].tolist() == [1, 0]
    assert read_targets(torch.tensor([-100, 3]), "r.pt", [])[0].tolist() == [-1, 3]


WRONG = {
    "half": torch.tensor([0.0, 0.5]),
    "nan": torch.tensor([0.0, float("nan")]),
    "inf": [0.0, float("inf")],
    "too large": torch.tensor([0.0, 1e30]),
    "complex": torch.zeros(2, dtype=torch.complex64),
    "sparse": torch.eye(2).to_sparse(),
    "meta": torch.zeros(2, device="meta"),
    "float8": torch.zeros(2).to(torch.float8_e4m3fn),
    "soft labels": torch.tensor([[0.4, 0.6], [0.0, 1.0]]),
    "two labels of a row": torch.tensor([[1, 1], [0, 1]]),
    "no label of a row": torch.tensor([[0, 0], [0, 1]]),
    "3-d": torch.zeros(2, 2, 2),
    "0-d": torch.tensor(1),
    "uneven": [[1], [0, 1]],
    "mixed": ["ant", 3],
    "integer of 100 bits": [0, 2**100],
    "dict": {"a": 1},
    "text": "ant",
    "none": None,
}


@pytest.mark.parametrize("value", WRONG.values(), ids=WRONG.keys())
def test_what_is_no_label_per_image_is_one_line_with_file_and_key(value, tmp_path):
    with pytest.raises(SSLToolError, match=r"r\.pt: targets") as caught:
        read_targets(value, "r.pt", [])
    assert "\n" not in str(caught.value)
    torch.save({"representations": torch.randn(2, 3), "targets": value}, tmp_path / "r.pt")
    with pytest.raises(SSLToolError, match="targets"):
        Representations.load(tmp_path / "r.pt")


@pytest.mark.parametrize("value", [torch.tensor([0, -1]), torch.eye(2), [0.5, 1.0], "01", torch.tensor(3), [0, 2**70]])
def test_numbers_of_images_are_integers_from_0(value):
    with pytest.raises(SSLToolError, match=r"r\.pt: index"):
        read_index(value, "r.pt")
    assert read_index(torch.tensor([[5.0], [2**40]]), "r.pt").tolist() == [5, 2**40]


def test_unsigned_labels_that_int64_cannot_hold_are_refused():
    with pytest.raises(SSLToolError, match="uint64"):
        read_targets(torch.tensor([1, 2**63], dtype=torch.uint64), "r.pt", [])
