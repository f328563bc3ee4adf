"""WebDataset: tar shards whose samples are consecutive members with one key, such as ``0001.jpg`` and ``0001.cls``.

DATA is a shard, a folder of shards, or a pattern such as ``shards-{000000..000099}.tar``. The headers of the shards are
read once in each command, and the places of the images are kept in memory, so that any image can be read at any time.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm.auto import tqdm

from ssltool.config import DataSettings
from ssltool.data.archives import is_archive, members_of
from ssltool.data.images import ImageSet
from ssltool.data.layouts.class_folders import contains_images
from ssltool.data.listing import WITHOUT_IMAGE, files_with_suffix, subfolders
from ssltool.data.members import RANGE, Members, Place
from ssltool.data.splits import ALL_NAMES, files_of, is_there
from ssltool.data.table_columns import chosen, labels_of
from ssltool.errors import SSLToolError, first_line, first_names
from ssltool.training.progress import has_bars, is_quiet

IMAGE = {*(name[1:] for name in IMG_EXTENSIONS), "avif", "gif", "img", "jp2", "jxl", "pbm", "pnm"}
"""The last parts of the extensions of images."""

LABELS = ("cls", "json", "txt")
"""Extensions beside those of images by which an archive is recognised."""

MOST_LABEL_BYTES = 2**20
"""Bytes of the longest label or .json that is read."""

FIRST_MEMBERS = 64
"""Members by which a shard is recognised."""

BRACES = re.compile(r"\{([^{}]*)\}")

Parts: TypeAlias = dict[str, tuple[str, Place]]
"""The members of a sample: the name and the place of each extension."""


@dataclass
class Samples:
    """The images of some shards: the number of the shard, the name, the place and the label of each. ``extensions`` are
    those of all members, in the order in which they were found."""

    shards: list[str]
    numbers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    without: list[str] = field(default_factory=list)
    extensions: dict[str, None] = field(default_factory=dict)


def named(data: str) -> bool:
    """Whether DATA is a pattern with braces of tar files."""
    return bool(BRACES.search(data)) and data.endswith(".tar") and not os.path.lexists(data)


def recognise(place: Path) -> bool:
    """Whether it is a tar of samples with labels, or a folder of tars with images and without other images."""
    if place.is_dir():
        shards = _tars(place)
        is_one = bool(shards) and not contains_images(place) and is_archive(shards[0])
        return is_one and any(_images(parts) or _has_class(parts) for _, parts in _first(shards[0]))
    if place.suffix.lower() != ".tar" or not is_archive(place):
        return False
    return any(
        _has_class(parts) or (_images(parts) and not parts.keys().isdisjoint(LABELS)) for _, parts in _first(place)
    )


def has_split(place: Path, split: str) -> bool:
    """Whether there are shards of the split."""
    return is_there(shards_of, place, split)


def read(place: Path, split: str, settings: DataSettings) -> ImageSet:
    """The images of the shards of a split, in the order of the shards and of their members.

    Raises:
        SSLToolError: naming the shard, if it cannot be read, or a sample has several images.
    """
    shards, notes = shards_of(place, split)
    samples = _read(shards, settings)
    if not samples.names:
        raise SSLToolError(
            f"{shards[0]} has no sample with an image; its extensions are "
            f"{first_names([*samples.extensions]) or 'none'}; name that of the images with --image-column"
        )
    several = len(shards) > 1
    base = place if place.is_dir() else shards[0].parent
    prefix = [f"{os.path.relpath(shard, base)}/" if several else "" for shard in shards]
    source = Members.of(samples.shards, samples.numbers, samples.names, samples.places)
    files = tuple(prefix[number] + name for number, name in zip(samples.numbers, samples.names, strict=True))
    rows, left_out = np.arange(len(files)), {WITHOUT_IMAGE: tuple(samples.without)} if samples.without else {}
    images = ImageSet("webdataset", split, np.full(len(files), -1), rows, paths=source, files=files, left_out=left_out)
    images = images.with_notes(*notes, _chosen(samples, settings.label_column))
    if all(label is None for label in samples.labels):
        what = settings.label_column or "cls"
        known = [*samples.extensions, *_fields(shards[0])]
        if what not in known and settings.label_column is not None:
            raise SSLToolError(
                f"{place}, {split}: no sample has a member or a field {what}, which --label-column names; there are "
                f"{first_names(known, 10)}"
            )
        return images.without_labels(
            f"no sample has a label in {what}; --label-column names an extension, or a field of the .json"
        )
    trained = None
    if split != "train" and has_split(place, "train"):
        trained = _read(shards_of(place, "train")[0], settings).labels
    return images.with_labels(*labels_of(samples.labels, trained, f"{place}, {split} images"))


# Shards


def shards_of(place: Path, split: str) -> tuple[list[Path], list[str]]:
    """The shards of a split, and notes."""
    if place.is_dir():
        found = _tars(place)
        if not found:
            raise SSLToolError(f"{place} has no shards; name a folder of .tar files")
        return files_of(split, found, place)
    if split != "train":
        raise SSLToolError(f"{place} has no {split} split; put the shards of train and {split} into one folder")
    shards = [Path(name) for name in _expanded(str(place))]
    missing = [str(shard) for shard in shards if not shard.is_file()]
    if missing:
        raise SSLToolError(f"no such shard: {first_names(missing, 3)}; correct the pattern {place}, or copy them again")
    return shards, []


def _tars(folder: Path) -> list[Path]:
    """The tar files in a folder, or else in its subfolders that have the name of a split."""
    splits = [folder / name for name in subfolders(folder) if name.lower() in ALL_NAMES]
    below = (path for split in splits for path in files_with_suffix(split, ".tar"))
    return files_with_suffix(folder, ".tar") or list(below)


def _expanded(pattern: str) -> list[str]:
    """The names that a pattern stands for: ``{a,b}`` is a and b, ``{08..10}`` 08, 09 and 10."""
    found = BRACES.search(pattern)
    if found is None:
        return [pattern]
    bounds = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    values = found[1].split(",")
    if bounds is not None:
        first, last = bounds[1], bounds[2]
        if not 0 <= int(last) - int(first) < 10**6:
            raise SSLToolError(f"{{{found[1]}}} must count up to a larger number; correct the pattern {pattern}")
        width = len(first) if first[0] == "0" else 0
        values = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    return [name for value in values for name in _expanded(pattern[: found.start()] + value + pattern[found.end() :])]


# Samples


def images_of_shard(shard: str, image_column: str | None) -> Members:
    """The images of one shard, each the member ``image_column`` of its sample.

    Raises:
        SSLToolError: if the shard cannot be read, or a sample has no image or several.
    """
    _require_tar(Path(shard))
    found = []
    for key, parts in _samples(Path(shard)):
        image = _image(parts, image_column, f"{shard}, sample {key}")
        if image is None:
            raise SSLToolError(
                f"{shard}, sample {key}, has no image; remove it, or name the extension with --image-column"
            )
        found.append(image)
    return Members.of([shard], [0] * len(found), [name for name, _ in found], [place for _, place in found])


def _require_tar(shard: Path) -> None:
    if not is_archive(shard):
        raise SSLToolError(f"{shard} is not a tar archive; copy it again")


def _read(shards: Sequence[Path], settings: DataSettings) -> Samples:
    samples = Samples([str(shard) for shard in shards])
    hidden = is_quiet() or not has_bars()
    for number, shard in enumerate(tqdm(shards, desc="indexing shards", disable=hidden, leave=False)):
        _require_tar(shard)
        with open(shard, "rb") as stream:
            for key, parts in _samples(shard):
                samples.extensions.update(dict.fromkeys(parts))
                image = _image(parts, settings.image_column, f"{shard}, sample {key}")
                if image is None:
                    samples.without.append(f"{shard.name}/{key}")
                    continue
                samples.numbers.append(number)
                samples.names.append(image[0])
                samples.places.append(image[1])
                samples.labels.append(_label(stream.fileno(), parts, settings.label_column, f"{shard}, sample {key}"))
    return samples


def _chosen(samples: Samples, label: str | None) -> str:
    """The note that says which extensions are read."""
    images = dict.fromkeys(_split(name)[1] for name in samples.names)
    found = (label or "cls").lower()
    labels = found if found in samples.extensions else None
    if labels is None and label is not None:
        labels = f"{label} of json"
        found = "json"
    return chosen([*images], labels, [name for name in samples.extensions if name not in {*images, found}])


def _fields(shard: Path) -> list[str]:
    """The fields of the first .json of a shard."""
    with open(shard, "rb") as stream:
        for key, parts in _first(shard):
            if "json" in parts:
                record = _record(stream.fileno(), parts["json"][1], f"{shard}, sample {key}")
                return list(record) if isinstance(record, dict) else []
    return []


def _first(shard: Path) -> list[tuple[str, Parts]]:
    return list(_samples(shard, FIRST_MEMBERS))


def _samples(shard: Path, most: int | None = None) -> Iterator[tuple[str, Parts]]:
    """The key and the members of each sample: consecutive members whose names are equal up to the first dot.

    Raises:
        SSLToolError: if the shard is damaged.
    """
    try:
        members = (
            (*_split(name), name, place)
            for name, place in itertools.islice(members_of(str(shard)), most)
            if isinstance(place, tuple) and place[0] == RANGE and os.path.basename(name)[:1] != "."
        )
        for key, group in itertools.groupby(members, lambda member: member[0]):
            yield key, {extension: (name, place) for _, extension, name, place in group}
    except (SSLToolError, GeneratorExit):
        raise
    except Exception as error:  # damaged archives make tarfile raise nearly anything
        raise SSLToolError(f"{shard} is not a readable tar ({first_line(error)}); copy it again") from error


def _split(name: str) -> tuple[str, str]:
    """The key and the extension of a member, in lower case: ``a/1.seg.png`` is ``a/1`` and ``seg.png``."""
    folder, last = os.path.split(name.removeprefix("./"))
    key, _, extension = last.partition(".")
    return os.path.join(folder, key), extension.lower()


def _images(parts: Parts) -> list[str]:
    return [extension for extension in parts if extension.rpartition(".")[2] in IMAGE]


def _has_class(parts: Parts) -> bool:
    """Whether a sample is one by its label alone: a .cls beside another member, which may have any extension."""
    return "cls" in parts and len(parts) > 1


def _image(parts: Parts, given: str | None, sample: str) -> tuple[str, Place] | None:
    if given is not None:
        return parts.get(given.lower())
    found = _images(parts)
    if len(found) > 1:
        raise SSLToolError(f"{sample} has several images: {', '.join(found)}; name the extension with --image-column")
    return parts[found[0]] if found else None


def _label(stream: int, parts: Parts, given: str | None, sample: str) -> Any:
    """The label of a sample, None if it has none: the member with the extension, or the field of the .json."""
    extension = (given or "cls").lower()
    if extension in parts:
        return _text(stream, parts[extension][1], sample)
    if given is None or "json" not in parts:
        return None
    record = _record(stream, parts["json"][1], sample)
    return record.get(given) if isinstance(record, dict) else None


def _record(stream: int, place: Place, sample: str) -> Any:
    try:
        return json.loads(_text(stream, place, sample))
    except (ValueError, RecursionError) as error:
        raise SSLToolError(f"{sample}: its .json cannot be read ({first_line(error)}); write it again") from error


def _text(stream: int, place: Place, sample: str) -> str:
    _, start, _, size, _ = place
    if size > MOST_LABEL_BYTES:
        raise SSLToolError(f"{sample}: its label has {size:,} bytes; name that of a class with --label-column")
    try:
        return os.pread(stream, size, start).decode().strip()
    except UnicodeDecodeError as error:
        raise SSLToolError(
            f"{sample}: its label is not UTF-8 text; write it again, or name another one with --label-column"
        ) from error
