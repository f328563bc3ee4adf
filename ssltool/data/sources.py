"""Images that are not files of their own, such as the members of an archive, which are read by their row.

A source is a few arrays, so that worker processes share its memory. It keeps no file open: any process or thread may
read any row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple, TypeAlias, overload

import numpy as np

from ssltool.data.packed_paths import PackedPaths

LARGEST = 2**30
"""Bytes up to which an encoded image is read into memory."""


class Source(ABC):
    """N encoded images, which ``self[row]`` stands for; ``in_order`` if they are to be read in the order of rows.
    ``opened_by_each_rank`` if that takes no list of them, or another machine may have other files."""

    in_order: ClassVar[bool] = False
    opened_by_each_rank: ClassVar[bool] = False

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @abstractmethod
    def name(self, row: int) -> str:
        """What messages call the image of a row."""

    @abstractmethod
    def read(self, row: int) -> bytes:
        """The bytes of an image, as its file would hold them.

        Raises:
            OSError: if the file that holds it cannot be read.
            ValueError: if it is damaged, or larger than ``LARGEST``.
        """

    @abstractmethod
    def ends(self, row: int, part: int) -> tuple[int, bytes]:
        """The size of an image in bytes, and its first and last ``part`` bytes, or all that there are; raises as
        ``read``."""

    @abstractmethod
    def select(self, rows: np.ndarray) -> Source:
        """The images at ``rows``, in that order."""

    @overload
    def __getitem__(self, rows: int) -> SourceImage: ...

    @overload
    def __getitem__(self, rows: slice) -> Source: ...

    def __getitem__(self, rows: int | slice) -> SourceImage | Source:
        if isinstance(rows, slice):
            return self.select(np.arange(len(self))[rows])
        return SourceImage(self, range(len(self))[rows])

    def __iter__(self) -> Iterator[SourceImage]:
        return (SourceImage(self, row) for row in range(len(self)))


class SourceImage(NamedTuple):
    """An image of a source. As text it is what messages call it."""

    source: Source
    row: int

    def __str__(self) -> str:
        return self.source.name(self.row)

    def read(self) -> bytes:
        """Its bytes; raises as ``Source.read``."""
        return self.source.read(self.row)


Encoded: TypeAlias = str | SourceImage
"""An encoded image: the path of its file, or its place in a source."""


def shared(paths: Sequence[str] | Source) -> PackedPaths | Source:
    """``paths`` as a few buffers, whose memory worker processes share."""
    return paths if isinstance(paths, Source) else PackedPaths(paths)


def ends_of(data: memoryview | bytes, part: int) -> bytes:
    """The first and the last ``part`` bytes, or all that there are."""
    return bytes(data[:part]) + (bytes(data[max(part, len(data) - part) :]) if len(data) > part else b"")
