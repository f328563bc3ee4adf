"""The ``.wandb`` file of a run of Weights & Biases, as it lies in ``wandb/offline-run-*/``.

It is a log in LevelDB's format (github.com/google/leveldb, ``doc/log_format.md``) with a header of its own
(``wandb/sdk/internal/datastore.py``). Each record is a message ``Record`` of ``wandb_internal.proto``: its history (2)
has items (1) with a key (1 or, nested, 2) and a value in JSON (16).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from ssltool.errors import SSLToolError
from ssltool.files.reading import parse_json
from ssltool.stages.diagnose.log_formats.log_columns import read_columns
from ssltool.stages.diagnose.log_formats.log_file import LogFile, Row, number
from ssltool.stages.diagnose.log_formats.protobuf import Truncated, fields, text
from ssltool.stages.diagnose.series import Series

IDENT = b":W&B\xe1\xbe"
HEADER = 7
BLOCK = 32768
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
EXPORT = (
    "export the history to a table: wandb sync FOLDER, then wandb.Api().run(PATH).history().to_csv('log.csv') in Python"
)


def read(log: LogFile, loss: str | None) -> Series | None:
    """The series of such a file; None if the file is none.

    Raises:
        SSLToolError: if it has another version, or no history; the message says how to export it.
    """
    if not log.data.startswith(IDENT):
        return None
    if log.data[6:HEADER] != b"\0":
        raise SSLToolError(f"{log.path} has a newer format of wandb than ssltool reads; {EXPORT}")
    rows, complete = [], True
    try:
        for record in records(log.data):
            rows += [row for row in map(_history, _messages(record, 2)) if row]
    except Truncated:
        complete = False
    if not rows:
        raise SSLToolError(f"{log.path} has no history that ssltool can read; {EXPORT}")
    notes = [] if complete else ["the end of the file is cut off and left out"]
    return read_columns(log.path, "a .wandb file of Weights & Biases", rows, loss=loss, notes=notes)


def records(data: bytes) -> Iterator[bytes]:
    """The data of each record, whose parts are joined.

    Raises:
        Truncated: after the last complete record, if another one was begun.
    """
    at, parts = HEADER, b""
    while at < len(data):
        left = BLOCK - at % BLOCK
        if left < HEADER:  # a header that does not fit into a block is not begun there
            at += left
            continue
        if at + HEADER > len(data):
            raise Truncated
        _, size, kind = struct.unpack("<IHB", data[at : at + HEADER])
        at += HEADER
        if at + size > len(data) or kind not in (FULL, FIRST, MIDDLE, LAST):
            raise Truncated
        part, at = data[at : at + size], at + size
        parts = part if kind in (FULL, FIRST) else parts + part
        if kind in (FULL, LAST):
            yield parts
    if at < len(data):
        raise Truncated


def _messages(message: bytes, wanted: int) -> Iterator[bytes]:
    return (value for found, value in fields(message) if found == wanted and isinstance(value, bytes))


def _history(history: bytes) -> Row:
    """The numbers of one call of ``wandb.log``."""
    row: Row = {}
    for item in _messages(history, 1):
        keys, value = [], None
        for found, content in fields(item):
            if found in (1, 2):
                keys.append(text(content))
            elif found == 16:
                value = _number(text(content))
        name = ".".join(key for key in keys if key)
        if name and value is not None:
            row[name] = value
    return row


def _number(json: str) -> float | None:
    try:
        return number(parse_json(json))
    except ValueError:
        return None
