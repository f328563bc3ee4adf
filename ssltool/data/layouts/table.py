"""A table of image files: a .csv, .tsv or .parquet file with a column of paths and, often, one of labels.

Paths are absolute, or relative to the folder of the table. A folder has a table for each split, such as ``train.csv``
and ``val.csv``.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssltool.config import DataSettings
from ssltool.data import table_columns as columns
from ssltool.data.detection import is_detected
from ssltool.data.images import ImageSet
from ssltool.data.listing import files_with_suffix
from ssltool.data.splits import ALL_NAMES, INSTEAD, TEST, files_of, is_there, word_for
from ssltool.errors import SSLToolError, first_line, first_names
from ssltool.files.parquet_files import pyarrow
from ssltool.files.reading import decode, open_file, read_bytes

SUFFIXES = (".csv", ".tsv", ".parquet")

LINE = re.compile(r"\r\n|\r|\n")
"""The end of a line. Other separators of lines in Unicode are part of a text, such as a caption."""

SEPARATORS = ",;\t"
"""What separates the columns of a .csv file, of which its first line has the most."""


SPLIT = "split"
"""The column of a single table that has the split of each row, if its values are names of splits."""


class Columns(NamedTuple):
    """The paths in a table, and its labels, None if it has no such column; ``note`` says which columns they are.
    ``names`` are the paths, and "t.csv, row 3" of a row without one."""

    paths: list[str]
    names: list[str]
    labels: list[Any] | None
    note: str


def recognise(place: Path) -> bool:
    """Whether it is a table of paths, or a folder with one for train whose first image exists."""
    if place.is_file():
        return place.suffix.lower() in SUFFIXES and not (place.suffix.lower() == ".parquet" and holds_images(place))
    tables = _tables(place)
    if not tables:
        return False
    try:
        first = files_of("train", tables, place)[0][0]
        if first.suffix.lower() == ".parquet" and holds_images(first):
            return False
        return (place / next(_paths(first, _names(first)))).is_file()
    except (SSLToolError, StopIteration, OSError, ValueError):  # also for text that cannot be a path
        return False


def holds_images(file: Path) -> bool:
    """Whether a Parquet file holds the bytes of images, as the library ``datasets`` writes them.

    Raises:
        SSLToolError: if pyarrow is not installed, or the file cannot be read.
    """
    return any(holds_bytes(kind) for kind in schema_of(file).types)


def holds_bytes(kind: Any) -> bool:
    """Whether a column of this type of pyarrow holds bytes, or structures of bytes."""
    pa, _ = pyarrow("a Parquet table")
    if pa.types.is_struct(kind):
        return any(holds_bytes(kind.field(i).type) for i in range(kind.num_fields) if kind.field(i).name == "bytes")
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def schema_of(file: Path) -> Any:
    """The schema of a Parquet file; raises as ``holds_images``."""
    _, parquet = pyarrow(f"{file}, a Parquet table,")
    with open_file(file) as stream:
        try:
            return parquet.read_schema(stream)
        except Exception as error:  # a damaged file makes pyarrow raise nearly anything
            raise SSLToolError(f"{file} is not a readable Parquet file ({first_line(error)}); copy it again") from error


def has_split(place: Path, split: str) -> bool:
    """Whether there is a table of the split."""
    return is_there(_of_split, place, split)


def read(place: Path, split: str, settings: DataSettings) -> ImageSet:
    """The image files in the tables of a split, in their order.

    Raises:
        SSLToolError: naming the table, if it cannot be read, or has no such split or column.
    """
    files, rows, notes = _of_split(place, split)
    found = [_read(file, settings, rows) for file in files]
    names = [name for one in found for name in one.names]
    if not names:
        raise SSLToolError(f"{files[0]} has no rows; name a table of images")
    base = place if place.is_dir() else place.parent
    paths = tuple(os.path.join(base, path) for one in found for path in one.paths)
    images = ImageSet("table", split, np.full(len(names), -1), np.arange(len(names)), paths=paths, files=tuple(names))
    if is_detected(settings) and place.is_dir():
        detected = f"--dataset-type table was detected: {first_names([file.name for file in files])} has their paths"
        notes = [f"{detected}; --dataset-type images reads all image files", *notes]
    images = images.with_notes(*notes, found[0].note)
    labels = _joined(found)
    if labels is None:
        known = first_names(_names(files[0]))
        return images.without_labels(f"{files[0].name} has no column of labels among {known}; {columns.ADVICE}")
    trained = None
    if split != "train" and has_split(place, "train"):
        files, rows, _ = _of_split(place, "train")
        trained = _joined([_read(file, settings, rows) for file in files])
    return images.with_labels(*columns.labels_of(labels, trained, f"{files[0]}, {split} images"))


def _joined(found: Sequence[Columns]) -> list[Any] | None:
    labels = [label for one in found for label in one.labels or ()]
    return labels if all(one.labels is not None for one in found) else None


def _of_split(place: Path, split: str) -> tuple[list[Path], list[int] | None, list[str]]:
    """The tables of a split, its rows in a single table that has several, else None for all, and notes."""
    if not place.is_file():
        tables = _tables(place)
        if not tables:
            raise SSLToolError(f"{place} has no tables; name a .csv, .tsv or .parquet file, or put train.csv into it")
        files, notes = files_of(split, tables, place)
        return files, None, notes
    found = _splits(place)
    if found is not None:
        column, words = found
        word = word_for(split, set(words))
        if word is None:
            raise SSLToolError(
                f"{place} has no {split} split: its column {column} has {first_names(sorted(set(words)))}; write the "
                "split of each row there"
            )
        instead = [f"val is the rows of {word}, {INSTEAD.format('split')}"] if split == "val" and word in TEST else []
        note = f"{split} is the rows with {word} in the column {column}"
        return [place], [row for row, one in enumerate(words) if one == word], instead or [note]
    if split != "train":
        suffix = place.suffix
        raise SSLToolError(
            f"{place} has no {split} split; put train{suffix} and {split}{suffix} into a folder, or add a column "
            f"{SPLIT}"
        )
    return [place], None, []


def _splits(file: Path) -> tuple[str, list[str]] | None:
    """The column of splits, and the name of the split of each row, in lower case; None without such a column.

    Raises:
        SSLToolError: if some rows have the name of a split, and others something else.
    """
    column = next((name for name in _names(file) if name.lower() == SPLIT), None)
    if column is None:
        return None
    words = [str("" if value is None else value).strip().lower() for value in _cells(file, [column])[0]]
    if ALL_NAMES.isdisjoint(words):
        return None
    other = next((row for row, word in enumerate(words) if word not in ALL_NAMES), None)
    if other is not None:
        raise SSLToolError(
            f"{file}, row {other + 1}: the column {column} has {words[other]!r}, and other rows the name of a split; "
            "write train, val or test, or give the column another name"
        )
    return column, words


def _tables(folder: Path) -> list[Path]:
    return files_with_suffix(folder, *SUFFIXES)


def _read(file: Path, settings: DataSettings, rows: Sequence[int] | None) -> Columns:
    """The ``rows`` of a table, or all."""
    header = _names(file)
    image = columns.image_column(settings.image_column, header, file)
    label = columns.label_column(settings.label_column, header, file, image)
    wanted = [image] if label is None else [image, label]
    cells = _cells(file, wanted)
    numbers = range(len(cells[0])) if rows is None else rows
    cells = [[column[row] for row in numbers] for column in cells]
    paths = [path or "" for path in cells[0]]
    names = [path or f"{file.name}, row {row + 1}" for path, row in zip(paths, numbers, strict=True)]
    for path, row in zip(paths, numbers, strict=True):
        if not isinstance(path, str) or not (path or settings.skip_corrupt):
            advice = "write a path" if path else "write it, skip it with --skip-corrupt"
            raise SSLToolError(
                f"{file}, row {row + 1}: the path in the column {image} is {path!r}; {advice}, or name the column of "
                "paths with --image-column"
            )
    others = [name for name in header if name not in wanted and (rows is None or name.lower() != SPLIT)]
    return Columns(paths, names, None if label is None else cells[1], columns.chosen([image], label, others))


def _cells(file: Path, wanted: list[str]) -> list[list[Any]]:
    """The values of the columns ``wanted``."""
    if file.suffix.lower() != ".parquet":
        header, *rows = _rows(file)
        return [[row[at] for row in rows] for at in map(header.index, wanted)]
    _, parquet = pyarrow(f"{file}, a Parquet table,")
    try:
        table = parquet.read_table(file, columns=wanted)
        return [table.column(name).to_pylist() for name in wanted]
    except Exception as error:
        raise SSLToolError(f"{file} is not a readable Parquet file ({first_line(error)}); copy it again") from error


def _names(file: Path) -> list[str]:
    """The names of the columns.

    Raises:
        SSLToolError: if there are none, or two are the same.
    """
    names = list(schema_of(file).names) if file.suffix.lower() == ".parquet" else next(_rows(file), [])
    if not names:
        raise SSLToolError(f"{file} is empty; write the names of its columns into its first line, such as path,label")
    repeated = next((name for at, name in enumerate(names) if name and name in names[:at]), None)
    if repeated is not None:
        raise SSLToolError(f"{file} has several columns {repeated}; give each column a name of its own")
    return names


def _paths(file: Path, names: list[str]) -> Iterator[str]:
    column = columns.image_column(None, names, file)
    if file.suffix.lower() == ".parquet":
        _, parquet = pyarrow("a Parquet table")
        batches = parquet.ParquetFile(file).iter_batches(1, columns=[column])
        return (str(batch.column(0)[0].as_py()) for batch in batches)
    rows = _rows(file)
    next(rows)
    return (row[names.index(column)] for row in rows)


def _rows(file: Path) -> Iterator[list[str]]:
    """The rows of a .csv or .tsv file, the names of the columns first.

    Raises:
        SSLToolError: if it is no such table, or a row has another number of cells.
    """
    text = decode(read_bytes(file), file)
    first = text.partition("\n")[0]
    separator = "\t" if file.suffix.lower() == ".tsv" else max(SEPARATORS, key=first.count)
    width = 0
    try:
        for number, row in enumerate(csv.reader(LINE.split(text), delimiter=separator, strict=True), 1):
            width = width or len(row)
            if row and len(row) != width:
                raise SSLToolError(f"{file}: line {number} has {len(row)} cells and the first {width}; write it again")
            if row:
                yield row
    except csv.Error as error:
        raise SSLToolError(f"{file} is not a readable table ({first_line(error)}); write it again") from error
