"""Classes of two files are compared by name: of any names, in any order, on any side."""

from __future__ import annotations

import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssltool.errors import SSLToolError
from ssltool.reprs.class_names import Labels, match_classes, unified

TEXT = st.text(min_size=1, max_size=6).map(lambda text: unicodedata.normalize("NFC", text))
NAMES = st.lists(TEXT, min_size=1, max_size=8, unique=True)


def labels(title: str, numbers: list[int], classes: list[str]) -> Labels:
    return Labels.of(title, torch.tensor(numbers, dtype=torch.int64), classes)


@given(NAMES, NAMES, st.randoms(use_true_random=False))
def test_a_row_keeps_the_name_of_its_class(first, second, random):
    """Whatever the names, their order and which of them both sides have; or an error says what to do."""
    train = labels("TRAIN", list(range(len(first))), first)
    order = random.sample(second, len(second))
    val = labels("VAL", list(range(len(order))), order)
    try:
        found = match_classes(train, val)
    except SSLToolError:
        common, bare = set(first) & set(second), [not side.named for side in (train, val)]
        assert not common or any(bare)
        return
    if train.named and val.named:
        assert [found.name(number) for number in found.numbers.tolist()] == order
        for number, name in zip(found.numbers.tolist(), order, strict=True):
            assert (number < len(first)) == (name in first)
            assert name not in first or number == first.index(name)


@given(NAMES, st.permutations(["NFC", "NFD", "NFC"]))
def test_a_class_is_the_same_in_each_unicode_form(names, forms):
    """Names are compared as text, not as code points: macOS writes an accent as a character of its own."""
    first, second, third = ([unicodedata.normalize(form, f"é{name}") for name in names] for form in forms)
    numbers = list(range(len(names)))
    assert match_classes(labels("TRAIN", numbers, first), labels("VAL", numbers, second)).numbers.tolist() == numbers
    backwards = labels("VAL", numbers, third[::-1])
    assert match_classes(labels("TRAIN", numbers, first), backwards).numbers.tolist() == numbers[::-1]
    (_, own), classes = unified([labels("A", numbers, first), backwards])
    assert own.tolist() == numbers[::-1] and len(classes) == len(names)


def test_classes_that_one_side_lacks_are_named_with_what_follows():
    train = labels("TRAIN", [0, 1, 2], ["ant", "bee", "cat"])
    found = match_classes(train, labels("VAL", [0, 1, 1, -1, 2], ["bee", "dog", "cat"]))
    assert found.numbers.tolist() == [1, 3, 3, -1, 2]
    absent, missing = found.notes
    assert "VAL lacks" in absent and "(ant)" in absent
    assert "TRAIN lacks" in missing and "(dog)" in missing and "2 of 4 rows" in missing


def test_equal_names_change_nothing():
    train = labels("TRAIN", [0, 2], ["ant", "bee", "cat"])
    val = labels("VAL", [2, 0, -1], ["ant", "bee", "cat"])
    found = match_classes(train, val)
    assert found.numbers is val.numbers and found.notes == ()


def test_names_that_are_the_numbers_count_as_missing():
    named, bare = labels("TRAIN", [0, 1], ["ant", "bee"]), labels("VAL", [0, 1], ["0", "1"])
    found = match_classes(named, bare)
    assert found.numbers.tolist() == [0, 1] and [found.name(i) for i in (0, 1)] == ["ant", "bee"]
    assert "no names" in found.notes[0]
    with pytest.raises(SSLToolError, match="--labels-by number"):
        match_classes(named, labels("VAL", [0, 1, 2], ["0", "1", "2"]))
    with pytest.raises(SSLToolError, match="--labels-by number"):
        match_classes(named, labels("VAL", [0], []))
    assert match_classes(named, labels("VAL", [0], []), "number").numbers.tolist() == [0]


def test_folders_that_are_called_as_numbers_are_names():
    train = labels("TRAIN", list(range(10)), list(map(str, range(10))))
    assert match_classes(train, labels("VAL", [0, 1], ["3", "7"])).numbers.tolist() == [3, 7]
    part, all_ten = labels("TRAIN", [0, 1], ["3", "7"]), labels("VAL", [3, 7, 1], list(map(str, range(10))))
    assert match_classes(part, all_ten).numbers.tolist()[:2] == [0, 1]


def test_without_any_names_numbers_are_compared():
    found = match_classes(labels("TRAIN", [0, 5], []), labels("VAL", [5, 9], []))
    assert found.numbers.tolist() == [5, 9] and "(9)" in found.notes[0]


@pytest.mark.parametrize("classes", [["ant", "bee"], []])
def test_no_class_in_common_is_an_error_that_names_them(classes):
    with pytest.raises(SSLToolError, match=r"no class in common"):
        match_classes(labels("TRAIN", [0], classes), labels("VAL", [1], classes))


def test_a_name_of_two_classes_is_refused_unless_all_names_are_equal():
    twice = ["crane", "maillot", "crane"]
    assert match_classes(labels("a", [0, 2], twice), labels("b", [2], twice)).numbers.tolist() == [2]
    with pytest.raises(SSLToolError, match="several classes called crane"):
        match_classes(labels("a", [0, 2], twice), labels("b", [0], ["crane"]))


SOME_NAMES = st.lists(st.one_of(st.just(""), st.sampled_from(["ant", "bee", "0", "1", "2"])), max_size=4)


@given(SOME_NAMES, SOME_NAMES, st.lists(st.integers(-1, 4), max_size=6), st.lists(st.integers(-1, 4), max_size=6))
def test_names_that_are_missing_empty_or_given_twice_are_never_guessed(first, second, left, right):
    """Two rows get one number only if the names of their classes are equal, or if a note or equal lists of names say
    that numbers are compared."""
    train, val = labels("TRAIN", left, first), labels("VAL", right, second)
    try:
        found = match_classes(train, val)
    except SSLToolError:
        return
    by_number = train.names == val.names or not (train.named or val.named) or any("number" in n for n in found.notes)
    if by_number:
        assert found.numbers.tolist() == right
        return
    for row, number in enumerate(right):
        for own in left:
            same = bool(val.names.get(number)) and train.names.get(own) == val.names.get(number)
            assert number < 0 or own < 0 or (found.numbers[row] == own) == same


def test_a_class_without_a_name_beside_named_ones_is_refused_or_noted():
    part, full = ["ant", "bee"], ["ant", "bee", "cat", "dog"]
    for train, val in ((part, full), (full, part), (["ant", "", "cat", "dog"], full)):
        with pytest.raises(SSLToolError, match=r"class [12] .*--labels-by number"):
            match_classes(labels("TRAIN", [0, 1, 2, 3], train), labels("VAL", [0, 1, 2, 3], val))
    same = match_classes(labels("TRAIN", [0, 3], part), labels("VAL", [3, 0], part))
    assert same.numbers.tolist() == [3, 0] and "3" in same.notes[0]
    assert match_classes(labels("TRAIN", [0, 2], full), labels("VAL", [1, 0], ["cat", "ant"])).numbers.tolist() == [
        0,
        2,
    ]
    with pytest.raises(SSLToolError) as caught:
        unified([labels("a", [0, 2], part), labels("b", [0], ["bee"])])
    assert "--labels-by" not in str(caught.value)


@given(st.permutations(range(3)))
def test_a_part_without_labels_changes_those_of_the_others_nowhere(order):
    parts = [labels("a", [0, 1], ["ant", "bee"]), labels("b", [0, 1], ["bee", "cat"]), labels("none", [-1, -1], [])]
    numbers, classes = unified([parts[i] for i in order])
    named = {
        parts[i].title: [classes[number] if number >= 0 else "" for number in part.tolist()]
        for i, part in zip(order, numbers, strict=True)
    }
    assert named == {"a": ["ant", "bee"], "b": ["bee", "cat"], "none": ["", ""]}


@given(st.permutations(range(3)))
def test_numbers_without_names_beside_different_names_are_refused(order):
    parts = [labels("a", [0, 1], ["ant", "bee"]), labels("b", [0, 1], ["bee", "cat"]), labels("c", [0, 1], [])]
    with pytest.raises(SSLToolError, match=r"^c has labels without names of classes"):
        unified([parts[i] for i in order])
    parts[1] = labels("b", [1, 0], ["ant", "bee"])
    numbers, classes = unified([parts[i] for i in order])
    assert classes == ["ant", "bee"]
    assert [part.tolist() for part in numbers] == [parts[i].numbers.tolist() for i in order]


def test_the_parts_of_a_set_have_the_classes_of_all():
    numbers, classes = unified([labels("a", [0, 1], ["ant", "cat"]), labels("b", [1, 0], ["bee", "cat"])])
    assert [part.tolist() for part in numbers] == [[0, 1], [1, 2]]
    assert classes == ["ant", "cat", "bee"]
    numbers, classes = unified([labels("a", [0], ["ant", "cat"]), labels("b", [1], ["ant", "cat"])])
    assert [part.tolist() for part in numbers] == [[0], [1]] and classes == ["ant", "cat"]
