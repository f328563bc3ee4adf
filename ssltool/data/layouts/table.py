"""A table of image files: a .csv, .tsv or .parquet file with a column of paths and, often, one of labels.

Paths are absolute, or relative to the folder of the table. A folder has a table for each split, such as ``train.csv``
and ``val.csv``.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssltool.config import DataSettings
from ssltool.data import table_columns as columns
from ssltool.data.images import ImageSet
from ssltool.data.listing import files_with_suffix
from ssltool.data.splits import files_of
from ssltool.errors import SSLToolError, first_line
from ssltool.files.parquet_files import pyarrow
from ssltool.files.reading import decode, open_file, read_bytes

SUFFIXES = (".csv", ".tsv", ".parquet")

SEPARATORS = ",;\t"
"""What separates the columns of a .csv file, of which its first line has the most."""


class Columns(NamedTuple):
    """The paths in a table, and its labels, None if it has no such column."""

    paths: list[str]
    labels: list[Any] | None


def recognise(place: Path) -> bool:
    """Whether it is a table of paths, or a folder with one for train whose first image exists."""
    if place.is_file():
        return place.suffix.lower() in SUFFIXES and not (place.suffix.lower() == ".parquet" and holds_images(place))
    tables = _tables(place)
    if not tables:
        return False
    try:
        first = _names(files_of("train", tables, place)[0][0])
        return (place / next(_paths(files_of("train", tables, place)[0][0], first))).is_file()
    except (SSLToolError, StopIteration):
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
    try:
        return split == "train" if place.is_file() else bool(files_of(split, _tables(place), place))
    except SSLToolError:
        return False


def read(place: Path, split: str, settings: DataSettings) -> ImageSet:
    """The image files in the tables of a split, in their order.

    Raises:
        SSLToolError: naming the table, if it cannot be read, or has no such split or column.
    """
    files, notes = _of_split(place, split)
    found = [_read(file, settings) for file in files]
    names = [path for one in found for path in one.paths]
    if not names:
        raise SSLToolError(f"{files[0]} has no rows; name a table of images")
    base = place if place.is_dir() else place.parent
    paths = tuple(os.path.join(base, name) for name in names)
    images = ImageSet("table", split, np.full(len(names), -1), np.arange(len(names)), paths=paths, files=tuple(names))
    images = images.with_notes(*notes)
    labels = _joined(found)
    if labels is None:
        return images.without_labels(f"{files[0].name} has no column of labels; {columns.ADVICE}")
    trained = None
    if split != "train" and has_split(place, "train"):
        trained = _joined([_read(file, settings) for file in _of_split(place, "train")[0]])
    return images.with_labels(*columns.labels_of(labels, trained, f"{files[0]}, {split} images"))


def _joined(found: Sequence[Columns]) -> list[Any] | None:
    labels = [label for one in found for label in one.labels or ()]
    return labels if all(one.labels is not None for one in found) else None


def _of_split(place: Path, split: str) -> tuple[list[Path], list[str]]:
    if not place.is_file():
        tables = _tables(place)
        if not tables:
            raise SSLToolError(f"{place} has no tables; name a .csv, .tsv or .parquet file, or put train.csv into it")
        return files_of(split, tables, place)
    if split != "train":
        raise SSLToolError(f"{place} has no {split} split; put train and {split}{place.suffix} into a folder")
    return [place], []


def _tables(folder: Path) -> list[Path]:
    return files_with_suffix(folder, *SUFFIXES)


def _read(file: Path, settings: DataSettings) -> Columns:
    names = _names(file)
    image = columns.image_column(settings.image_column, names, file)
    label = columns.label_column(settings.label_column, [name for name in names if name != image], file)
    if file.suffix.lower() == ".parquet":
        _, parquet = pyarrow(f"{file}, a Parquet table,")
        wanted = [image] if label is None else [image, label]
        try:
            table = parquet.read_table(file, columns=wanted)
        except Exception as error:
            raise SSLToolError(f"{file} is not a readable Parquet file ({first_line(error)}); copy it again") from error
        found = Columns(table.column(image).to_pylist(), None if label is None else table.column(label).to_pylist())
    else:
        rows = list(_rows(file))[1:]
        at, label_at = names.index(image), -1 if label is None else names.index(label)
        found = Columns([row[at] for row in rows], None if label is None else [row[label_at] for row in rows])
    for row, path in enumerate(found.paths, 1):
        if not isinstance(path, str) or not path:
            raise SSLToolError(
                f"{file}, row {row}: the path in the column {image} is {path!r}; name the column of paths with "
                "--image-column"
            )
    return found


def _names(file: Path) -> list[str]:
    if file.suffix.lower() == ".parquet":
        return list(schema_of(file).names)
    return next(_rows(file), [])


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
        for number, row in enumerate(csv.reader(text.splitlines(), delimiter=separator, strict=True), 1):
            width = width or len(row)
            if row and len(row) != width:
                raise SSLToolError(f"{file}: line {number} has {len(row)} cells and the first {width}; write it again")
            if row:
                yield row
    except csv.Error as error:
        raise SSLToolError(f"{file} is not a readable table ({first_line(error)}); write it again") from error
