"""WebDataset shards as a stream: their images are read once, in order, and are not listed first.

``ShardStream`` reads the headers of a shard when its first image is needed, and keeps those of the latest shards only.
So it takes the memory of a few shards, whatever their number.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssltool.config import DataSettings
from ssltool.data.computed_orders import Consecutive
from ssltool.data.detection import layout_of, location, named_errors, parse_type
from ssltool.data.image_files import SAMPLE_HEADERS, surveyed
from ssltool.data.images import ImageSet
from ssltool.data.layouts import webdataset
from ssltool.data.members import Members
from ssltool.data.pixels import PixelRules
from ssltool.data.sources import Source
from ssltool.errors import SSLToolError
from ssltool.files.reading import read_json
from ssltool.files.schema import conform, integer, mapping

KEPT_SHARDS = 2
"""Shards whose headers are kept: a batch may end in the next shard."""

SIZES = "sizes.json"
"""File beside the shards with the number of images of each, as webdataset's programs write it."""


class ShardStream(Source):
    """The first ``n`` images of ``shards``, in the order of the shards and of their members.

    Args:
        image_column: the extension of the images, if it is given.
        counts: the number of images of shards, by path, as far as they are known. They are compared with the shards.
    """

    in_order = True
    opened_by_each_rank = True

    def __init__(self, shards: Sequence[str], n: int, image_column: str | None, counts: Mapping[str, int]) -> None:
        self.shards, self.n, self.image_column = tuple(shards), n, image_column
        self.counts = dict(counts)
        self._starts = [0]  # of the shards whose place in the stream is known
        self._kept: OrderedDict[int, Members] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": OrderedDict()}

    def __len__(self) -> int:
        return self.n

    def name(self, row: int) -> str:
        members, at = self._place(row)
        return members.name(at)

    def read(self, row: int) -> bytes:
        members, at = self._place(row)
        return members.read(at)

    def ends(self, row: int, part: int) -> tuple[int, bytes]:
        members, at = self._place(row)
        return members.ends(at, part)

    def select(self, rows: np.ndarray) -> Source:
        return _Selected(self, rows)

    def count_until(self, row: int) -> dict[str, int]:
        """The number of images of each shard that begins before ``row``."""
        while self._starts[-1] < row and len(self._starts) <= len(self.shards):
            self._add_shard()
        begun = bisect.bisect_left(self._starts, row)
        return {name: self.counts[name] for name in self.shards[:begun] if name in self.counts}

    def _place(self, row: int) -> tuple[Members, int]:
        """The members of the shard of ``row``, and its number among them."""
        while row >= self._starts[-1]:
            self._add_shard()
        number = bisect.bisect_right(self._starts, row) - 1
        return self._members(number), row - self._starts[number]

    def _add_shard(self) -> None:
        """Finds where the next shard ends in the stream."""
        number = len(self._starts) - 1
        if number == len(self.shards):
            raise SSLToolError(
                f"the {number:,} shards end after {self._starts[-1]:,} images, and the run reads {self.n:,}; add "
                "shards, or start a run with fewer --epochs or --steps-per-epoch"
            )
        if self.shards[number] not in self.counts:
            self._members(number)
        self._starts.append(self._starts[-1] + self.counts[self.shards[number]])

    def _members(self, number: int) -> Members:
        if number not in self._kept:
            shard = self.shards[number]
            members = webdataset.images_of_shard(shard, self.image_column)
            known = self.counts.setdefault(shard, len(members))
            if known != len(members):
                raise SSLToolError(
                    f"{shard} has {len(members):,} images, and had {known:,} when they were counted; restore it, or "
                    f"correct {SIZES}"
                )
            self._kept[number] = members
            while len(self._kept) > KEPT_SHARDS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]


class _Selected(Source):
    """The images of a stream at ``rows``."""

    in_order = True
    opened_by_each_rank = True

    def __init__(self, stream: ShardStream, rows: np.ndarray) -> None:
        self.stream, self.rows = stream, rows

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        return self.stream.name(int(self.rows[row]))

    def read(self, row: int) -> bytes:
        return self.stream.read(int(self.rows[row]))

    def ends(self, row: int, part: int) -> tuple[int, bytes]:
        return self.stream.ends(int(self.rows[row]), part)

    def select(self, rows: np.ndarray) -> Source:
        return _Selected(self.stream, self.rows[rows])


@named_errors()
def open_stream(settings: DataSettings, n: int, counts: Path | None = None) -> ImageSet:
    """The first ``n`` images of the shards that the settings name.

    ``counts`` is a file that ``ShardStream.count_until`` was written to, which need not exist.

    Raises:
        SSLToolError: if DATA is of another layout, a shard cannot be read, or there are too few images.
    """
    name = layout_of(settings)
    if name != "webdataset":
        raise SSLToolError(f"--stream reads WebDataset shards as DATA; found {name}; leave it out")
    if parse_type(settings.dataset_type)[1] not in (None, "train"):
        raise SSLToolError(f"--stream reads the shards of the train split, not {settings.dataset_type}; leave one out")
    shards, notes = webdataset.shards_of(location(str(settings.data), name), "train")
    paths = [str(shard) for shard in shards]
    sizes = shards[0].parent / SIZES
    known = {str(sizes.parent / shard): count for shard, count in _read_counts(sizes).items()}
    if counts is not None:
        known |= _read_counts(counts)
    stream = ShardStream(paths, n, settings.image_column, {path: known[path] for path in paths if path in known})
    if stream.counts.keys() >= set(paths) and sum(stream.counts.values()) < n:
        raise SSLToolError(
            f"{sizes} counts {sum(stream.counts.values()):,} images, and the run reads {n:,}; lower --epochs or "
            "--steps-per-epoch, or add shards"
        )
    identity = "\0".join(f"{path.name} {path.stat().st_size}" for path in shards)
    images = ImageSet(
        name,
        "train",
        np.lib.stride_tricks.as_strided(np.array([-1]), (n,), (0,)),  # n labels in the memory of one
        Consecutive(n),  # type: ignore[arg-type]
        paths=stream,
        why_unlabelled="--stream reads no labels; leave it out",
        fingerprint=hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()[:16],
        rules=PixelRules.of(settings),
    )
    first, lines = surveyed(images.select(np.arange(min(n, SAMPLE_HEADERS))))
    images = dataclasses.replace(images, size=first.size, rules=first.rules)
    return images.with_notes(*notes, *lines, f"a stream of {len(paths):,} shards, each image is read once")


def _read_counts(path: Path) -> dict[str, int]:
    """The number of images of each shard in a file; empty if there is no such file."""
    if not path.is_file():
        return {}
    counts: dict[str, int] = conform(
        read_json(path), mapping(other=integer(0), what="the number of images of each shard"), path
    )
    return counts
