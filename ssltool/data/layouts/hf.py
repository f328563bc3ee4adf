"""Datasets of the library ``datasets``: ``hf:NAME``, a folder of ``save_to_disk``, Parquet files that hold images.

The images stay in the library's Arrow files, which are mapped into memory. It converts Parquet into such files once, in
its cache. Nothing of a dataset is executed: versions of the library that run scripts of datasets are refused.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from ssltool.config import DataSettings
from ssltool.data.images import ImageSet
from ssltool.data.layouts.class_folders import contains_images
from ssltool.data.layouts.table import holds_bytes, holds_images
from ssltool.data.listing import files_with_suffix
from ssltool.data.sources import LARGEST, Source, ends_of
from ssltool.data.splits import INSTEAD, NAMES, TEST, files_of, is_there, word_for
from ssltool.data.table_columns import ADVICE, Labels, chosen, image_column, label_column, labels_of, numbered
from ssltool.errors import SSLToolError, first_line, first_names
from ssltool.files.text import composed
from ssltool.training.progress import has_bars, is_quiet

PREFIX = "hf:"

OLDEST = 3
"""The first major version of ``datasets`` that runs no code of a dataset unless asked to."""

NAMES_AT_ONCE = 10_000
"""Rows whose names are read together."""


class Rows(Source):
    """Images in a column of a ``datasets.Dataset`` in Arrow format; ``rows`` are their places in it, and ``title`` is
    what messages call the dataset."""

    opened_by_each_rank = True  # a pickled dataset is the paths of the cache of this machine

    def __init__(self, dataset: Any, column: str, rows: np.ndarray, title: str) -> None:
        self.dataset, self.column, self.rows, self.title = dataset, column, rows, title

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, rows: np.ndarray) -> Rows:
        """The images at ``rows``, in that order."""
        return Rows(self.dataset, self.column, self.rows[rows], self.title)

    def name(self, row: int) -> str:
        """The dataset and the number of the image in it."""
        return f"{self.title}, image {self.rows[row]}"

    def read(self, row: int) -> bytes:
        """The bytes of an image; raises as ``Source.read``."""
        return bytes(self._bytes(row))

    def ends(self, row: int, part: int) -> tuple[int, bytes]:
        """The size and the ends of an image."""
        data = self._bytes(row)
        return len(data), ends_of(data, part)

    def _bytes(self, row: int) -> memoryview | bytes:
        cells = self.dataset[int(self.rows[row])].column(self.column).chunk(0)
        if hasattr(cells, "field"):
            value, path = cells.field("bytes")[0], cells.field("path")[0].as_py()
        else:
            value, path = cells[0], None
        if not value.is_valid:
            if not path:
                raise ValueError("it is empty")
            return _file(path)
        data = memoryview(value.as_buffer())
        if len(data) > LARGEST:
            raise ValueError(f"it has {len(data):,} bytes, more than {LARGEST:,}")
        return data


def _file(path: str) -> bytes:
    """The bytes of a regular file to which a row refers."""
    if not os.path.isfile(path):
        raise FileNotFoundError(2, f"no such file: {path}")
    if os.path.getsize(path) > LARGEST:
        raise ValueError(f"{path} has more than {LARGEST:,} bytes")
    with open(path, "rb") as stream:
        return stream.read()


def named(data: str) -> bool:
    """Whether DATA is ``hf:NAME`` or ``hf:NAME:SPLIT``."""
    return data.startswith(PREFIX)


def recognise(place: Path) -> bool:
    """Whether it is a Parquet file with the bytes of images, or a folder of such files."""
    if place.is_file():
        return place.suffix.lower() == ".parquet" and holds_images(place)
    files = _parquet_files(place)
    try:
        return bool(files) and holds_images(files[0])
    except SSLToolError:
        if contains_images(place):  # it is a file beside them, or pyarrow is missing
            return False
        raise


def has_split(place: Path, split: str) -> bool:
    """Whether the dataset has the split."""
    return is_there(_of_split, place, split)


def read(place: Path, split: str, settings: DataSettings) -> ImageSet:
    """The images of a split, in the order of its rows.

    Raises:
        SSLToolError: if the library is missing, the dataset cannot be loaded, or it has no such split or column.
    """
    dataset, notes = _of_split(place, split)
    title = f"{place}, {split}"
    column = _image_column(dataset, settings, title)
    images = dataset.select_columns([column]).with_format("arrow")
    if not len(images):
        raise SSLToolError(f"{title} has no rows; name another dataset")
    rows, source = np.arange(len(images)), Rows(images, column, np.arange(len(images)), str(place))
    found = ImageSet("hf", split, np.full(len(rows), -1), rows, paths=source, files=_names(images, column))
    names = list(dataset.column_names)
    label = label_column(settings.label_column, names, title, column)
    found = found.with_notes(*notes, chosen([column], label, [name for name in names if name not in (column, label)]))
    if label is None:
        return found.without_labels(f"{title} has no column of labels among {first_names(names)}; {ADVICE}")
    return found.with_labels(*_labels(place, dataset, label, split, title))


# The dataset


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SSLToolError("datasets of Hugging Face need the package datasets: pip install 'ssltool[hf]'") from error
    if int(datasets.__version__.partition(".")[0]) < OLDEST:
        raise SSLToolError(
            f"datasets {datasets.__version__} may run code of a dataset: pip install -U 'datasets>={OLDEST}'"
        )
    datasets.logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # without network, it prints each attempt
    if is_quiet() or not has_bars():
        datasets.disable_progress_bars()
    return datasets


def _of_split(place: Path, split: str) -> tuple[Any, list[str]]:
    """The rows of a split, and notes."""
    data = str(place)
    library = _library()
    try:
        if place.is_file() or (files := _parquet_files(place)):
            files, notes = ([place], []) if place.is_file() else files_of(split, files, place)
            if place.is_file() and split != "train":
                raise SSLToolError(f"{place} has no {split} split; put train.parquet and {split}.parquet into a folder")
            return library.load_dataset("parquet", data_files=list(map(str, files)), split="train"), notes
        if not named(data):
            return _chosen(library.load_from_disk(data), split, place)
        name, _, given = data.removeprefix(PREFIX).partition(":")
        if given and split != "train":
            raise SSLToolError(f"{data} names one split, which is read as train; leave :{given} out")
        if given in NAMES:
            return _chosen(library.load_dataset(name), given, place)
        return _chosen(library.load_dataset(name, split=given or None), split, place)
    except SSLToolError:
        raise
    except Exception as error:  # the library raises nearly anything
        line = first_line(error)
        advice = "check its name and the network, or name a folder of save_to_disk"
        if "split" in line.lower():
            advice = "correct the split, or leave it out"
        raise SSLToolError(f"{data} cannot be loaded ({line}); {advice}") from error


def _chosen(found: Any, split: str, place: Path) -> tuple[Any, list[str]]:
    """The split of a dataset that may have several."""
    if not isinstance(found, Mapping):
        if split != "train":
            raise SSLToolError(f"{place} has no {split} split; save a DatasetDict with train and {split}")
        return found, []
    word = word_for(split, found)
    if word is None:
        raise SSLToolError(f"{place} has no {split} split; its splits are {first_names(list(found))}")
    instead = split == "val" and word in TEST
    return found[word], [f"val is read from the split {word}, {INSTEAD.format('split')}"] if instead else []


def _parquet_files(folder: Path) -> list[Path]:
    return files_with_suffix(folder, ".parquet") if folder.is_dir() else []


# Its columns


def _image_column(dataset: Any, settings: DataSettings, title: str) -> str:
    kinds = dict(zip(dataset.data.schema.names, dataset.data.schema.types, strict=True))
    holding = [name for name in dataset.column_names if holds_bytes(kinds[name])]
    if settings.image_column is None and len(holding) == 1:
        return str(holding[0])
    column = image_column(settings.image_column, holding or dataset.column_names, title)
    if column not in holding:
        raise SSLToolError(f"{title}: the column {column} holds no images but {kinds[column]}; name another")
    return column


def _names(images: Any, column: str) -> tuple[str, ...] | None:
    """The names of the files that the images were, if all have one of their own; else None."""
    names: list[str | None] = []
    for start in range(0, len(images), NAMES_AT_ONCE):
        for cells in images[start : start + NAMES_AT_ONCE].column(column).chunks:
            if not hasattr(cells, "field"):
                return None
            names += cells.field("path").to_pylist()
    known = [name for name in names if name]
    if any(PurePath(name).is_absolute() for name in known):
        known = [PurePath(name).name for name in known]
    return tuple(known) if len(set(known)) == len(names) else None


def _labels(place: Path, dataset: Any, column: str, split: str, title: str) -> Labels:
    """The labels of a column; the train split numbers the classes, whatever numbers this one has for their names."""
    values, names = _classes(dataset, column)
    trained: list[Any] | None = None
    known: tuple[str, ...] | None = None
    if split != "train" and has_split(place, "train"):
        train = _of_split(place, "train")[0]
        if column in train.column_names:
            trained, known = _classes(train, column)
    if names is None and known is None:
        return labels_of(values, trained, title)
    if names is None and not any(isinstance(value, str) for value in values):  # numbers of the classes of train
        numbers, classes = labels_of(values, None, title)
        if len(classes) > len(known or ()):
            raise SSLToolError(
                f"{title}: a label is {len(classes) - 1}, and the train split has {len(known or ())} classes"
            )
        return numbers, known or ()
    if names is not None:
        values = [None if value is None or value < 0 else names[value] for value in values]
    if known is None and trained is not None:
        return labels_of(values, trained, title)
    return numbered([composed(value or "") for value in values], known or names or ())


def _classes(dataset: Any, column: str) -> tuple[list[Any], tuple[str, ...] | None]:
    """The values of a column, and the names of the classes that they number; None if they are no such numbers."""
    names = getattr(dataset.features[column], "names", None)
    return list(dataset[column]), None if names is None else tuple(map(composed, names))
