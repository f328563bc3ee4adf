"""Members of zip and tar archives, each of which is read from its place without the others."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO, TypeAlias

import numpy as np

from ssltool.data.sources import LARGEST, Source, ends_of
from ssltool.files.reading import MAX_RATIO, size_limit

RANGE, STORED, DEFLATED, UNREADABLE = range(4)
"""How a member is stored: its bytes begin at its place; a zip header precedes them; they are also compressed; or in a
way that is not read."""

MEMBER = np.dtype(
    [
        ("archive", "<i4"),
        ("kind", "u1"),
        ("start", "<i8"),
        ("stored", "<i8"),
        ("size", "<i8"),
        ("crc", "<u4"),
        ("name", "<i8"),
        ("name_end", "<i8"),
    ]
)
"""Where a member is: the number of its archive, its place and its size there, its size when it is read, its checksum in
a zip archive, and where its name is among the names."""

ZIP_SIGNATURE = b"PK\x03\x04"
ZIP_HEADER = struct.Struct("<4s22xHH")
"""The beginning of a member of a zip archive: its signature, and the lengths of the name and the extra field."""

Place: TypeAlias = tuple[int, int, int, int, int]
"""The kind, start, stored size, size and checksum of a member."""


class Members(Source):
    """Members of archives. Each is read from its place; a zip member is compared with its checksum."""

    def __init__(self, archives: Sequence[str], members: np.ndarray, names: np.ndarray) -> None:
        self.archives, self.members, self.names = tuple(archives), members, names

    @classmethod
    def of(
        cls, archives: Sequence[str], numbers: Sequence[int], names: Sequence[str], places: Sequence[Place]
    ) -> Members:
        """The members with these ``names`` and ``places``, each in the archive of its number."""
        encoded = [name.encode(errors="surrogatepass") for name in names]
        ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        members = np.zeros(len(encoded), MEMBER)
        members["archive"], members["name_end"] = numbers, ends
        members["name"][1:] = ends[:-1]
        columns = np.array(places, np.int64).reshape(-1, 5).T
        for column, values in zip(("kind", "start", "stored", "size", "crc"), columns, strict=True):
            members[column] = values
        return cls(archives, members, np.frombuffer(b"".join(encoded), np.uint8))

    def __len__(self) -> int:
        return len(self.members)

    def select(self, rows: np.ndarray) -> Members:
        """The members at ``rows``, in that order."""
        return Members(self.archives, self.members[rows], self.names)

    def member_name(self, row: int) -> str:
        """The name of a member in its archive."""
        start, end = self.members["name"][row], self.members["name_end"][row]
        return self.names[start:end].tobytes().decode(errors="surrogatepass")

    def name(self, row: int) -> str:
        """The path of the archive and the name of the member in it."""
        return f"{self.archives[self.members['archive'][row]]}/{self.member_name(row)}"

    def read(self, row: int) -> bytes:
        """The bytes of a member; raises as ``Source.read``."""
        _, kind, start, stored, size, crc, *_ = self.members[row].tolist()
        if kind == UNREADABLE:
            raise ValueError("it is encrypted, sparse, or not compressed with deflate; pack it again")
        if max(stored, size) > LARGEST or (kind == DEFLATED and size > max(MAX_RATIO * stored, size_limit())):
            raise ValueError(f"it declares {size:,} bytes in an archive where it takes {stored:,}")
        with self._open(row) as stream:
            data = _exactly(stream, _first_byte(stream, kind, start), stored)
        if kind == DEFLATED:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
        if len(data) != size or (kind != RANGE and zlib.crc32(data) != crc):
            raise ValueError("it differs from its size or checksum in the archive")
        return data

    def ends(self, row: int, part: int) -> tuple[int, bytes]:
        """The size and the ends of a member; a compressed one is decompressed for it."""
        _, kind, start, _, size, *_ = self.members[row].tolist()
        if kind not in (RANGE, STORED):
            data = self.read(row)
            return len(data), ends_of(data, part)
        with self._open(row) as stream:
            first = _first_byte(stream, kind, start)
            data = _exactly(stream, first, min(size, part))
            if size > part:
                last = max(part, size - part)
                data += _exactly(stream, first + last, size - last)
        return size, data

    def _open(self, row: int) -> BinaryIO:
        return open(self.archives[self.members["archive"][row]], "rb", buffering=0)  # type: ignore[return-value]


def _exactly(stream: BinaryIO, start: int, size: int) -> bytes:
    data = os.pread(stream.fileno(), size, start)
    if len(data) != size:
        raise ValueError("the archive ends within it")
    return data


def _first_byte(stream: BinaryIO, kind: int, start: int) -> int:
    if kind == RANGE:
        return start
    signature, name, extra = ZIP_HEADER.unpack(_exactly(stream, start, ZIP_HEADER.size))
    if signature != ZIP_SIGNATURE:
        raise ValueError("the archive has no header in its place")
    return start + ZIP_HEADER.size + int(name) + int(extra)
