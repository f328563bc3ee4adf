"""Event files of TensorBoard: scalars, as PyTorch, Lightning and TensorFlow 2 write them.

A file is a sequence of records: the length (uint64), its checksum, the data and its checksum (each a masked CRC-32C).
The data is a message ``Event``: step (2) and summary (5), whose values (1) have a tag (1) and a simple value (2) or a
tensor (8). The numbers of the fields are those of tensorboard's ``event.proto``, ``summary.proto``, ``tensor.proto``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ssltool.stages.diagnose.log_formats.log_columns import read_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile, Row
from ssltool.stages.diagnose.log_formats.protobuf import Truncated, fields, real, signed, text
from ssltool.stages.diagnose.series import Series

HEADER, FOOTER = 12, 4
CASTAGNOLI = 0x82F63B78
FLOAT, DOUBLE = 1, 2


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of an event file; None if the file is none."""
    if not is_record(log.data):
        return None
    scalars: dict[int, Row] = {}
    complete = True
    try:
        for record in records(log.data):
            _add(record, scalars)
    except Truncated:
        complete = False
    notes = [] if complete else ["the end of the file is cut off and left out"]
    rows, at = list(scalars.values()), list(map(float, scalars))
    return read_columns(log.path, "an event file of TensorBoard", rows, loss=loss, at=at, unit="step", notes=notes)


def is_record(data: bytes) -> bool:
    """Whether ``data`` begins with the length of a record and the right checksum of it."""
    return len(data) >= HEADER and masked_crc(data[:8]) == struct.unpack("<I", data[8:HEADER])[0]


def records(data: bytes) -> Iterator[bytes]:
    """The data of each record. The checksums of the lengths are checked, not those of the data.

    Raises:
        Truncated: after the last complete record, if another one was begun.
    """
    at = 0
    while at < len(data):
        if not is_record(data[at : at + HEADER]):
            raise Truncated
        size = struct.unpack("<Q", data[at : at + 8])[0]
        end = at + HEADER + size
        if end + FOOTER > len(data):
            raise Truncated
        yield data[at + HEADER : end]
        at = end + FOOTER


def masked_crc(data: bytes) -> int:
    """TensorFlow's masked CRC-32C of ``data``."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (CASTAGNOLI if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _add(event: bytes, scalars: dict[int, Row]) -> None:
    """Adds the scalars of an event to those of its step."""
    step, found = 0, {}
    for number, value in fields(event):
        if number == 2:
            step = signed(value)
        elif number == 5 and isinstance(value, bytes):
            found.update(dict(_scalars(value)))
    if found:
        scalars.setdefault(step, {}).update(found)


def _scalars(summary: bytes) -> Iterator[tuple[str, float]]:
    for number, value in fields(summary):
        if number != 1 or not isinstance(value, bytes):
            continue
        tag, scalar = "", None
        for key, inner in fields(value):
            if key == 1:
                tag = text(inner)
            elif key == 2:
                scalar = real(inner)
            elif key == 8 and isinstance(inner, bytes):
                scalar = _of_tensor(inner)
        if scalar is not None:
            yield tag, scalar


def _of_tensor(tensor: bytes) -> float | None:
    """The value of a tensor of type float or double that has one element; None for another."""
    found = dict(fields(tensor))
    if found.get(1) not in (FLOAT, DOUBLE):
        return None
    for number in (4, 5, 6):  # the bytes of all elements; lists of floats, and of doubles
        value = found.get(number)
        if isinstance(value, bytes) and len(value) == (4 if found[1] == FLOAT else 8):
            return real(value)
    return None
