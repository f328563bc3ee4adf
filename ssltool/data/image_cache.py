"""The file of a cache: the decoded images of one split, with the shorter side reduced, in one memory-mapped file.

The design is that of the raw mode of FFCV (arXiv:2306.12517): a head, a table with the place and the size of each
image, labels, hashes and names, then the pixels of one image after the other. The head is a line of JSON. Nothing is
executed when a file is read.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ssltool.config import SPLITS, DataSettings
from ssltool.data.pixels import PixelRules
from ssltool.errors import SSLToolError
from ssltool.files.reading import open_file, parse_json
from ssltool.files.schema import boolean, choice, conform, integer, listing, mapping, optional, text
from ssltool.files.writing import FilePath, to_json
from ssltool.settings import Settings

FORMAT = "ssltool/image-cache/1"

ENTRY = np.dtype([("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])
"""Where the pixels of an image begin in the file, (H, W, 3) uint8. All 0 if they are not written yet."""

CORRUPT = -1
"""The offset of an image that cannot be decoded."""

LONGEST_HEAD = 2**24
"""Bytes of the longest head."""

ALIGNED = 64
"""The table begins at a multiple of this many bytes."""

REMEDY = "delete it; ssltool cache writes it again"

_RULES = mapping(
    {
        "value_range": optional(listing(text(100), what="a list of numbers")),
        "background": text(100),
        "raw_pixels": boolean(),
        "cache_size": integer(1, 2**16),
    }
)

_HEAD = mapping(
    {
        "format": choice(FORMAT),
        "layout": text(200),
        "split": choice(*SPLITS),
        "images": integer(1, 2**40),
        "names": integer(0, 2**50),
        "fingerprint": text(200),
        "labels": text(200),
        "classes": listing(text(), what="a list of names"),
        "why_unlabelled": text(),
        "given": _RULES,
        "rules": _RULES,
        "notes": listing(text(), what="a list of notes"),
    }
)


@dataclass(frozen=True)
class Sections:
    """Where the parts of a file are, in bytes from its beginning, by the length of its head and the head itself."""

    table: int
    labels: int
    digests: int
    names: int
    pixels: int

    @classmethod
    def of(cls, length: int, head: Settings) -> Sections:
        """The parts of a file with ``head``, a line of ``length`` bytes."""
        count = int(head["images"])
        labels = length + ENTRY.itemsize * count
        digests = labels + 8 * count
        names = digests + 8 * count
        return cls(length, labels, digests, names, names + int(head["names"]))


def line_of(head: Settings) -> bytes:
    """The head as the first line of a file."""
    line = to_json(head).encode()
    return line + b" " * (-(len(line) + 1) % ALIGNED) + b"\n"


@dataclass(frozen=True)
class CachedImages:
    """N images in a cache, as numbers: worker processes map the file themselves and share its pages.

    Attributes:
        path: the file.
        entries: (N,) ``ENTRY``.
    """

    path: str
    entries: np.ndarray

    def select(self, rows: np.ndarray) -> CachedImages:
        """The images at ``rows``, in that order."""
        return CachedImages(self.path, self.entries[rows])

    @property
    def corrupt(self) -> np.ndarray:
        """(N,) bool, whether an image could not be decoded."""
        found: np.ndarray = self.entries["offset"] == CORRUPT
        return found

    @property
    def size(self) -> tuple[int, int] | None:
        """The (width, height) of all images; None if they differ."""
        sizes = [self.entries[name] for name in ("width", "height")]
        same = len(self.entries) > 0 and all((each == each[0]).all() for each in sizes)
        return (int(sizes[0][0]), int(sizes[1][0])) if same else None

    def pixels(self, row: int) -> np.ndarray:
        """The image in ``row``, (H, W, 3) uint8, a view of the file that cannot be written."""
        offset, height, width = self.entries[row].item()
        return self._mapped[offset : offset + 3 * height * width].reshape(height, width, 3)

    @functools.cached_property
    def _mapped(self) -> np.ndarray:
        try:
            return np.asarray(np.memmap(self.path, np.uint8, "r"))
        except (OSError, ValueError) as error:
            raise SSLToolError(f"the cache {self.path} cannot be read any more: {error}; write it again") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "entries": self.entries}


@dataclass(frozen=True)
class CacheFile:
    """A complete cache of one split: its head, images, labels (N,) int64, content hashes (N,) int64, and the names of
    the files, None of images without names."""

    path: str
    head: Settings
    images: CachedImages
    labels: np.ndarray
    digests: np.ndarray
    files: tuple[str, ...] | None

    @property
    def rules(self) -> PixelRules:
        """How its images were decoded."""
        return rules_from(self.head["rules"])

    @classmethod
    def open(cls, path: FilePath) -> CacheFile:
        """Opens the file and compares what it declares with its size.

        Raises:
            SSLToolError: if it is no such file, or damaged.
        """
        with open_file(path) as stream:
            head, sections = _read_head(path, stream.readline(LONGEST_HEAD))
            held = os.fstat(stream.fileno()).st_size
            if sections.pixels > held:
                raise _damaged(path, f"it declares {head['images']:,} images and has {held:,} bytes")
            # Mapped once: this process reads only the pages that it uses, and the workers share them.
            whole = np.asarray(np.memmap(stream, np.uint8, "r"))
        entries = whole[sections.table : sections.labels].view(ENTRY).copy()
        labels, digests = (
            whole[start : start + 8 * len(entries)].view("<i8").astype(np.int64)
            for start in (sections.labels, sections.digests)
        )
        text = whole[sections.names : sections.pixels].tobytes().decode(errors="surrogateescape")
        names = tuple(text.split("\0")) if text else None
        _check_entries(path, entries, sections.pixels, held)
        if (names is not None and len(names) != len(entries)) or labels.min() < -1:
            raise _damaged(path, "its names or labels are not those of its images")
        images = CachedImages(str(path), entries)
        images.__dict__["_mapped"] = whole
        return cls(str(path), head, images, labels, digests, names)


def _read_head(path: FilePath, line: bytes) -> tuple[Settings, Sections]:
    try:
        head = parse_json(line.decode())
    except ValueError as error:
        raise _damaged(path, "it does not begin as one") from error
    head = conform(head, _HEAD, path, remedy=REMEDY)
    return head, Sections.of(len(line), head)


def _check_entries(path: FilePath, entries: np.ndarray, first: int, held: int) -> None:
    """Refuses entries that lead out of the pixels, which are from byte ``first`` to ``held``."""
    offset, height, width = (entries[name].astype(np.int64) for name in ("offset", "height", "width"))
    fits = (offset >= first) & (height > 0) & (width > 0) & (height < 2**20) & (width < 2**20)
    fits &= offset <= held - 3 * height * width
    wrong = np.flatnonzero(~fits & (offset != CORRUPT))
    if len(wrong):
        raise _damaged(path, f"image {wrong[0]} lies outside it")


def _damaged(path: FilePath, why: str) -> SSLToolError:
    return SSLToolError(f"{path} is no complete cache of images: {why}; {REMEDY}")


def settings_of(rules: PixelRules, size: int) -> Settings:
    """``rules`` of a cache of this ``size``, as its head has them."""
    settings = rules.settings() | {"cache_size": size}
    values = ["auto"] if rules.auto else settings["value_range"]
    return settings | {"value_range": None if values is None else list(values)}


def rules_from(settings: Settings) -> PixelRules:
    """The rules that ``settings_of`` gave."""
    values = settings["value_range"]
    return PixelRules.of(DataSettings(**settings | {"value_range": None if values is None else tuple(values)}))
