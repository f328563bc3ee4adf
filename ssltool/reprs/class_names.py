"""Which classes of two sets are the same: those of one name, or of one number where there are no names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.errors import SSLToolError, counted, first_few
from ssltool.files.text import composed

LABELS_BY = ("name", "number")

BY_NUMBER = "compare their numbers with --labels-by number"
"""What else to do where two sets cannot be compared by the names of their classes."""

MOST = 5
"""Number of names that messages list."""


@dataclass(frozen=True)
class Labels:
    """The labels of N rows.

    Attributes:
        title: what messages call the rows.
        numbers: (N,) int64, -1 for unlabelled rows.
        names: the names by number of the classes that have one, in Unicode's composed form.
    """

    title: str
    numbers: Tensor
    names: Mapping[int, str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", {number: composed(name) for number, name in self.names.items() if name})

    @classmethod
    def of(cls, title: str, numbers: Tensor, classes: Sequence[str]) -> Labels:
        """``classes`` are the names of the classes 0, 1, 2, ..., or empty."""
        return cls(title, numbers, dict(enumerate(classes)))

    @property
    def named(self) -> bool:
        """Whether the classes have names; numbers as text, as readers of unnamed classes fill them in, are none."""
        return any(name != str(number) for number, name in self.names.items())

    @property
    def present(self) -> list[int]:
        """The classes that rows have, in increasing order."""
        found: list[int] = self.numbers[self.numbers >= 0].unique().tolist()
        return found

    @property
    def count(self) -> int:
        """The number of classes, up to the largest number that has a name or rows."""
        return max((*self.names, *self.present), default=-1) + 1

    @property
    def unnamed(self) -> list[int]:
        """The classes of rows that have no name, although others have one."""
        return [number for number in self.present if number not in self.names] if self.named else []

    def name(self, number: int) -> str:
        """The name of a class; its number if it has none."""
        return self.names.get(number, str(number))


@dataclass(frozen=True)
class Matched:
    """The labels of other rows in the numbers of the reference.

    Attributes:
        numbers: (N,) int64; classes that the reference lacks have numbers that it does not use.
        names: the names of the classes of both by number.
        notes: messages for the user.
    """

    numbers: Tensor
    names: Mapping[int, str]
    notes: tuple[str, ...] = ()

    def name(self, number: int) -> str:
        """The name of a class; its number if it has none."""
        return self.names.get(number) or str(number)


def match_classes(reference: Labels, other: Labels, by: str = "name") -> Matched:
    """The labels of ``other`` as numbers of ``reference``: by the names of the classes if both have names.

    Args:
        by: ``number`` compares the numbers, whatever the names.

    Raises:
        SSLToolError: if one side has no names and the numbers of classes differ, if some classes of a side have names
            and others none, unless both sides have the same names, if a name is given twice, or if no class is in both.
    """
    if by == "number" or reference.names == other.names or not (reference.named or other.named):
        names = dict(reference.names if reference.named or not other.named else other.names)
        unnamed = sorted({*reference.unnamed, *other.unnamed}) if by != "number" else []
        note = f"classes without a name are compared by number: {first_few(unnamed, MOST)}"
        return Matched(other.numbers, names, (*([note] if unnamed else []), *_missing(reference, other, names)))
    if not _comparable(reference, other):
        return _by_number(reference, other)
    numbers, names = _by_name(reference, other, BY_NUMBER)
    in_other = set(map(other.name, (*other.names, *other.present)))
    absent = [name for name in map(reference.name, reference.present) if name not in in_other]
    notes = (f"{other.title} lacks {_listed(absent)} of {reference.title}, which no row tests",) if absent else ()
    return Matched(numbers, names, (*notes, *_missing(reference, Labels(other.title, numbers, names), names)))


def unified(parts: Sequence[Labels]) -> tuple[list[Tensor], list[str]]:
    """The labels of the files of one set in the numbers of the first file with names of classes, and the names of all
    classes. Labels of files without names are those numbers, if all others have the same names.

    Raises:
        SSLToolError: if a file gives a name to two classes, or to some of its classes only, or if one has labels but no
            names, and those of two others differ.
    """
    named = [part for part in parts if part.names]
    if not named:
        return [part.numbers for part in parts], []
    first = named[0]
    other = next((part for part in named if part.named and part.names != first.names), None)
    unnamed = next((part for part in parts if not part.names and part.present), None)
    if other is not None and unnamed is not None:
        raise SSLToolError(
            f"{unnamed.title} has labels without names of classes, and the names of {first.title} and {other.title} "
            "differ, so that its labels cannot be compared; save all with the same classes"
        )
    numbers = []
    for part in parts:
        if not part.names or part.names == first.names:
            numbers.append(part.numbers)
            continue
        own, names = _by_name(first, part, "save both with the same classes")
        numbers.append(own)
        first = Labels(first.title, first.numbers, names)
    return numbers, [first.names.get(number, "") for number in range(max(first.names, default=-1) + 1)]


def _by_name(reference: Labels, other: Labels, otherwise: str) -> tuple[Tensor, dict[int, str]]:
    """The labels of ``other`` in the numbers of ``reference``, and the names of the classes of both.

    ``otherwise`` is what else to do where that is impossible.
    """
    for side in (reference, other):
        if side.unnamed:
            raise SSLToolError(
                f"{side.title} names {counted(len(side.names), 'class')}, but its rows of class {side.unnamed[0]} have "
                f"no name, so that classes cannot be compared by name; name all (meta classes), or {otherwise}"
            )
        twice = [name for name, times in Counter(map(side.name, side.names)).items() if times > 1]
        if twice:
            raise SSLToolError(
                f"{side.title} has several classes called {twice[0]}, so that classes cannot be compared by name; "
                f"rename them, or {otherwise}"
            )
    number_of = {reference.name(number): number for number in (*reference.present, *reference.names)}
    free = max(number_of.values(), default=-1) + 1
    for name in map(other.name, (*other.names, *other.present)):
        if name not in number_of:
            number_of[name] = free
            free += 1
    known, places = other.numbers.unique(return_inverse=True)
    new = [number if number < 0 else number_of[other.name(number)] for number in known.tolist()]
    numbers = torch.tensor(new, dtype=torch.int64)[places] if new else other.numbers
    return numbers, {number: name for name, number in number_of.items()}


def _comparable(reference: Labels, other: Labels) -> bool:
    """Whether both have names; numbers as text are names where all names of the other side are numbers too."""
    return all(
        one.named or (bool(one.names) and all(name.isdecimal() for name in two.names.values()))
        for one, two in ((reference, other), (other, reference))
    )


def _by_number(reference: Labels, other: Labels) -> Matched:
    """The numbers as they are, if one side has names and the other as many classes without."""
    bare, full = (reference, other) if other.named else (other, reference)
    if bare.count != full.count:
        raise SSLToolError(
            f"{bare.title} has no names of classes and {counted(bare.count, 'class')}, {full.title} has "
            f"{counted(full.count, 'class')} with names, so it is unknown which are the same; save {bare.title} with "
            f"names (meta classes), or {BY_NUMBER}"
        )
    note = f"{bare.title} has no names of classes: labels are compared by number with those of {full.title}"
    return Matched(other.numbers, full.names, (note, *_missing(reference, other, full.names)))


def _missing(reference: Labels, other: Labels, names: Mapping[int, str]) -> tuple[str, ...]:
    """A note on the classes that rows of ``other`` have and no row of ``reference``.

    Raises:
        SSLToolError: if these are all.
    """
    present = other.present
    lacking = [number for number in present if number not in set(reference.present)]
    if not lacking:
        return ()
    called = [names.get(number) or str(number) for number in lacking]
    if len(lacking) == len(present):
        own = [names.get(number) or str(number) for number in reference.present]
        raise SSLToolError(
            f"{other.title} and {reference.title} have no class in common: {_listed(called)}, and {_listed(own)}; "
            "name files of the same classes"
        )
    rows = int(torch.isin(other.numbers, torch.tensor(lacking)).sum())
    total = int((other.numbers >= 0).sum())
    return (
        f"{reference.title} lacks {_listed(called)} of {other.title}, which cannot be predicted: "
        f"{rows:,} of {counted(total, 'row')} count as errors",
    )


def _listed(names: Sequence[str]) -> str:
    """The number of classes and the first names: ``2 classes (ant, bee)``."""
    more = f" and {len(names) - MOST:,} more" if len(names) > MOST else ""
    return f"{counted(len(names), 'class')} ({', '.join(names[:MOST])}{more})"
