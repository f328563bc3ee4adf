"""The labels and numbers of images as files hold them: numbers, names, one-hot rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.files.schema import (
    Check,
    boolean,
    conform,
    either,
    integer,
    listing,
    mapping,
    optional,
    real,
    tensor,
    text,
)
from ssltool.files.text import composed

MAX_EXACT = 2.0**53
"""All integers up to this are float64 numbers."""

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
"""Types that torch holds but hardly computes with."""

LABELS = tensor(..., kinds=("floating", "integer", "boolean"))
NUMBER = either(integer(), real(finite=False), boolean())
NUMBERS = listing(either(NUMBER, listing(NUMBER)), what="a list of numbers")
NAMES = listing(optional(text()), what="a list of names")

LABELS_REMEDY = "save one class number or name per image, -1 for an unlabelled image, or leave the labels out"
INDEX_REMEDY = "save the number of each image in its dataset, from 0, or leave index out"


def checked(value: Any, check: Check, path: object, name: str, remedy: str) -> Any:
    """The entry ``name`` of the file ``path`` as ``check`` returns it.

    Raises:
        SSLToolError: if it does not fit.
    """
    return conform({name: value}, mapping({name: check}), path, remedy=remedy)[name]


def read_targets(value: Any, path: object, classes: list[str], name: str = "targets") -> tuple[Tensor, list[str]]:
    """The labels that the file ``path`` holds as ``name``, and the names of the classes.

    Args:
        value: numbers (N,) or (N, 1) of any type, with integer values; one-hot rows (N, C); or names, with None or ""
            for an unlabelled image. Names that are integers, and not among ``classes``, are the
            numbers.
        path: the file.
        classes: the names of the classes in the metadata, which names among the targets refer to.

    Returns:
        (N,) int64, -1 for an unlabelled image, and the names, sorted if only the targets have them.

    Raises:
        SSLToolError: for anything else.
    """
    if isinstance(value, (list, tuple)) and any(isinstance(one, str) for one in value):
        return _of_names(checked(value, NAMES, path, name, LABELS_REMEDY), classes)
    numbers = _integers(value, path, name, LABELS_REMEDY)
    if numbers.dim() == 2:
        numbers = _of_one_hot(numbers, path, name)
    if numbers.dim() != 1:
        raise SSLToolError(f"{path}: {name} have the shape {tuple(numbers.shape)}; {LABELS_REMEDY}")
    return numbers.clamp(min=-1), classes


def read_index(value: Any, path: object) -> Tensor:
    """The numbers of the images that the file ``path`` holds as ``index``: (N,) int64, at least 0.

    Raises:
        SSLToolError: for anything else.
    """
    numbers = _integers(value, path, "index", INDEX_REMEDY)
    if numbers.dim() != 1:
        raise SSLToolError(f"{path}: index has the shape {tuple(numbers.shape)}; {INDEX_REMEDY}")
    if bool((numbers < 0).any()):
        row = int((numbers < 0).nonzero()[0])
        raise SSLToolError(f"{path}: index is {int(numbers[row])} in row {row}; {INDEX_REMEDY}")
    return numbers


def _integers(value: Any, path: object, name: str, remedy: str) -> Tensor:
    """Numbers with integer values, without dimensions of size 1 at the end but the first one, int64."""
    if isinstance(value, Tensor):
        numbers: Tensor = checked(_signed(value), LABELS, path, name, remedy)
    else:
        values = checked(value, NUMBERS, path, name, remedy)
        try:
            numbers = torch.tensor(values) if values else torch.empty(0)
        except (ValueError, TypeError) as error:
            raise SSLToolError(f"{path}: {name} is a list of lists of different lengths; {remedy}") from error
    while numbers.dim() > 1 and numbers.shape[-1] == 1:
        numbers = numbers.squeeze(-1)
    if numbers.is_floating_point():
        wrong = ~((numbers == numbers.round()) & (numbers.abs() <= MAX_EXACT))  # also NaN
        if bool(wrong.any()):
            place = wrong.nonzero()[0].tolist()
            found = float(numbers[tuple(place)])
            raise SSLToolError(f"{path}: {name} is {found:g} in row {(place or [0])[0]}, not an integer; {remedy}")
    return numbers.to(torch.int64)


def _signed(value: Tensor) -> Tensor:
    """``value`` as int64 if its type is an unsigned one that torch hardly computes with, and int64 holds its values."""
    if value.dtype not in UNSIGNED or value.layout != torch.strided or value.device.type != "cpu":
        return value
    numbers = value.to(torch.int64)
    return value if bool((numbers < 0).any()) else numbers


def _of_one_hot(rows: Tensor, path: object, name: str) -> Tensor:
    """The position of the 1 in each row (N, C)."""
    wrong = ((rows != 0) & (rows != 1)).any(dim=1) | (rows.sum(dim=1) != 1)
    if bool(wrong.any()) or not rows.shape[1]:
        row = int(wrong.nonzero()[0]) if bool(wrong.any()) else 0
        raise SSLToolError(
            f"{path}: {name} have the shape {tuple(rows.shape)}, but row {row} is not one-hot (a single 1, else 0); "
            f"{LABELS_REMEDY}"
        )
    return rows.argmax(dim=1)


def _of_names(values: list[str | None], classes: list[str]) -> tuple[Tensor, list[str]]:
    values = [value and composed(value) for value in values]
    classes = list(map(composed, classes))
    names = {value for value in values if value}
    if not names <= set(classes) and all(map(_is_integer, names)):
        return torch.tensor([int(value) if value else -1 for value in values]).clamp(min=-1), classes
    classes = classes if names <= set(classes) else sorted(names)
    number = {name: i for i, name in reversed(list(enumerate(classes)))}
    return torch.tensor([number[value] if value else -1 for value in values]), classes


def _is_integer(name: str) -> bool:
    return name.isascii() and name.removeprefix("-").isdecimal() and str(int(name[:20])) == name
