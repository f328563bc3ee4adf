"""The names of splits: of folders, and in the names of files such as ``train-00000.tar``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ssltool.errors import SSLToolError, first_names

TEST = ("test", "testing")
NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", *TEST), "test": TEST}
"""The names of each split, in lower case; the first one that exists is read."""

ALL_NAMES = {name for names in NAMES.values() for name in names}

INSTEAD = "because there is no other {} for it"
"""Why the test images are the val split."""


def is_there(find: Callable[[Path, str], object], place: Path, split: str) -> bool:
    """Whether ``find(place, split)`` finds something of a split. It may raise an ``SSLToolError`` if not."""
    try:
        return bool(find(place, split))
    except SSLToolError:
        return False


def word_of(name: str) -> str | None:
    """The name of a split that is a word of a file's name: ``val`` of ``birds_val-0001.tar``; None if there is none."""
    return next((word for word in re.split(r"[^a-z]+", name.lower()) if word in ALL_NAMES), None)


def word_for(split: str, words: Collection[str]) -> str | None:
    """The first of the names of a split that is among ``words``; None if none is."""
    return next((name for name in NAMES[split] if name in words), None)


def files_of(split: str, files: Sequence[Path], place: Path) -> tuple[list[Path], list[str]]:
    """The files of a split by their names below ``place``, in order, and notes. If none has a split, all are train.

    Raises:
        SSLToolError: if there is no file of the split in ``place``.
    """
    words = {file: word_of(os.path.relpath(file, place)) for file in files}
    known = {word for word in words.values() if word is not None}
    if not known and split == "train":
        return list(files), []
    word = word_for(split, known)
    if word is None:
        found = first_names(sorted(known)) if known else "none"
        raise SSLToolError(
            f"{place} has no {split} split: the splits in the names of its files are {found}; name files of {split}, "
            f"such as {split}{files[0].suffix}"
        )
    notes = (
        [f"val is read from the files of {word}, {INSTEAD.format('file')}"] if split == "val" and word in TEST else []
    )
    unnamed = [file.name for file, other in words.items() if other is None]
    notes += [f"files whose name has no split are not read: {first_names(unnamed)}"] if unnamed else []
    return [file for file, other in words.items() if other == word], notes
