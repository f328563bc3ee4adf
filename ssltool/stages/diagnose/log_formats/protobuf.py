"""Reads fields of protobuf messages, of which only the numbers of the fields need to be known.

The encoding is documented at protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10


class Truncated(Exception):
    """The data ends within a field, or is no message."""


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The number and the value of each field: an unsigned integer, or the bytes of anything else.

    Raises:
        Truncated: if ``data`` is no message.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == VARINT:
            value, at = _varint(data, at)
        else:
            size = {FIXED64: 8, FIXED32: 4}.get(kind)
            if kind == BYTES:
                size, at = _varint(data, at)
            if size is None or at + size > len(data):
                raise Truncated
            value, at = data[at : at + size], at + size
        yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(LONGEST_VARINT):
        if at + shift >= len(data):
            break
        byte = data[at + shift]
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise Truncated


def signed(value: int | bytes) -> int:
    """An ``int64`` field; 0 for one of another type."""
    if not isinstance(value, int):
        return 0
    return value - 2**64 if value >= 2**63 else value


def real(value: int | bytes) -> float | None:
    """A ``float`` or ``double`` field; None for one of another type."""
    if isinstance(value, bytes) and len(value) in (4, 8):
        return float(struct.unpack("<f" if len(value) == 4 else "<d", value)[0])
    return None


def text(value: int | bytes) -> str:
    """A ``string`` field."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
