"""The columns of a table that hold images and labels, and labels that are numbers or names."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ssltool.errors import SSLToolError, first_names
from ssltool.files.label_values import LABELS_REMEDY, read_targets
from ssltool.files.npy_files import to_tensor
from ssltool.files.text import composed

IMAGES = ("image", "img", "path", "image_path", "filepath", "file_path", "filename", "file_name", "file")
"""Names of the column of images, in lower case; the first one that there is is used."""

LABELS = ("label", "labels", "class", "class_name", "target", "category", "fine_label")
"""Names of the column of labels, likewise."""

MAX_CLASSES = 100_000
"""Labels are numbers below this."""

WHOLE_NUMBER = re.compile(r"-?\d+(\.0*)?")
"""Text that is a class number; pandas writes 1 as 1.0 in a column with empty cells."""

ADVICE = "name the column of labels with --label-column"

Labels = tuple[np.ndarray, tuple[str, ...]]
"""The class of each image (N,) int64, -1 if it is unlabelled, and the names of the classes."""


def image_column(given: str | None, names: Sequence[str], source: object) -> str:
    """The column of images among ``names``: the ``given`` one, or the first that has a name of ``IMAGES``.

    Raises:
        SSLToolError: if there is none.
    """
    found = _column(given, names, IMAGES, source, "--image-column")
    if found is None:
        raise SSLToolError(f"{source} has the columns {first_names(names)}; name that of images with --image-column")
    return found


def label_column(given: str | None, names: Sequence[str], source: object, image: str) -> str | None:
    """The column of labels among ``names``, as ``image_column``, other than the column ``image`` of the images; None if
    none is given and none has such a name."""
    if given == image:
        raise SSLToolError(f"{source}: --label-column {given} is the column of images; name another, or leave it out")
    others = names if given is not None else [name for name in names if name != image]
    return _column(given, others, LABELS, source, "--label-column")


def chosen(images: Sequence[str], labels: str | None, others: Sequence[str]) -> str:
    """A note that says which columns of a table, or extensions of samples, have the images and labels, and which
    ``others`` there are."""
    note = f"images are read from {first_names(images)}, labels from {labels or 'none'}"
    return note + (f"; not read: {first_names(others)}" if others else "")


def _column(given: str | None, names: Sequence[str], known: Collection[str], source: object, flag: str) -> str | None:
    if given is not None and given not in names:
        raise SSLToolError(f"{source} has no column {given}, which {flag} names; its columns are {first_names(names)}")
    by_name = {name.lower(): name for name in reversed(names)}
    return given or next((by_name[name] for name in known if name in by_name), None)


def labels_of(values: Sequence[Any], reference: Sequence[Any] | None, source: str) -> Labels:
    """The labels of a column, of numbers or names; None and "" are no label. Text that is a whole number is one.

    Args:
        values: the labels of the split.
        reference: those of the train split, which number the first classes; None if it is that split.

    Raises:
        SSLToolError: if a value is no label, or one is a name and those of the train split are numbers.
    """
    texts = [_text(value, source) for value in values]
    known = texts if reference is None else [_text(value, source) for value in reference]
    if are_names(known):
        return numbered(texts, sorted({*known} - {""}))
    name = next((text for text in texts if text and not WHOLE_NUMBER.fullmatch(text)), None)
    if name is not None and any(known):
        raise SSLToolError(
            f"{source}: the label {name!r} is a name, and those of the train split are numbers; write its number, or "
            "nothing for an image without a label"
        )
    if name is not None:
        return numbered(texts, ())
    largest = np.iinfo(np.int64).max  # which of_numbers refuses as it does any that is too large
    numbers = [int(text.partition(".")[0]) if text else -1 for text in texts]
    return of_numbers(np.array([max(-1, min(number, largest)) for number in numbers], np.int64), source)


def _text(value: Any, source: str) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int)) or isinstance(value, bool) or len(str(value)) > 1000:
        raise SSLToolError(f"{source}: a label is {str(value)[:40]!r}; {LABELS_REMEDY}")
    return composed(str(value).strip())


def of_numbers(labels: np.ndarray, source: str) -> Labels:
    """Labels that are the numbers of classes, (N,), (N, 1) or one-hot (N, C); negative numbers are no label.

    Raises:
        SSLToolError: if they are no such numbers.
    """
    numbers = read_targets(to_tensor(labels, source, "labels"), source, [], "labels")[0].numpy()
    largest = int(numbers.max(initial=-1))
    if largest >= MAX_CLASSES:
        raise SSLToolError(
            f"{source}: labels are up to {largest}, and must be class numbers below {MAX_CLASSES}; {LABELS_REMEDY}"
        )
    return numbers, tuple(map(str, range(largest + 1)))


def numbered(names: Sequence[str], known: Sequence[str]) -> Labels:
    """The class numbers of ``names``, of which "" is none: first the ``known`` classes in their order, then others."""
    classes = (*known, *sorted({*names} - {*known} - {""}))
    number = {name: i for i, name in enumerate(classes)} | {"": -1}
    return np.array([number[name] for name in names], np.int64), classes


def are_names(texts: Sequence[str]) -> bool:
    """Whether a label among them is a name, not a number."""
    return not all(map(WHOLE_NUMBER.fullmatch, {*texts} - {""}))
