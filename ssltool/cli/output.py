"""Results on stdout: a small table, or one JSON document. Messages are on stderr."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import click

from ssltool.errors import SSLToolError
from ssltool.settings import Record

UNENCODABLE = "ssltool.unencodable"
"""The error handler of both streams: the bytes of a file name that is not text stay as they are, and characters that
the encoding does not have are written as escapes."""


class _Results(io.FileIO):
    """stdout. The first failure to write is an error of one line, and what follows is dropped.

    A closed pipe is left to click, which exits without a message.
    """

    failed = False

    def write(self, data: Any, /) -> int:
        if self.failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except OSError as error:
            self.failed = True
            if error.errno == errno.EPIPE:
                raise
            raise SSLToolError(
                f"cannot write the results to stdout: {error.strerror}; free space, or redirect it"
            ) from error


class _Messages(io.FileIO):
    """stderr. What cannot be written is dropped, because a message is not worth a run."""

    def write(self, data: Any, /) -> int:
        with contextlib.suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


def prepare_streams() -> None:
    """Makes stdout and stderr accept any text in any locale, and survive being closed or on a full disk."""
    codecs.register_error(UNENCODABLE, _encode_rest)
    for name, number, kind in (("stdout", 1, _Results), ("stderr", 2, _Messages)):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell; the next file would get its number
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open until the process ends
        elif stream is getattr(sys, f"__{name}__"):  # not replaced by a notebook or a test
            setattr(sys, name, _reopened(stream, kind(number, "w", closefd=False)))


def _reopened(stream: TextIO, raw: io.FileIO) -> TextIO:
    # A terminal in an ASCII locale shows UTF-8 nearly always, and click writes UTF-8 there as well.
    ascii_only = codecs.lookup(stream.encoding).name == "ascii"
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding="utf-8" if ascii_only else stream.encoding,
        errors=UNENCODABLE,
        line_buffering=raw.name == 2 or raw.isatty(),
    )


def _encode_rest(error: UnicodeError) -> tuple[bytes, int]:
    """The bytes of the characters that an encoding lacks, and where to continue."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    rest = error.object[error.start : error.end]
    return b"".join(_raw_byte(c) or c.encode("ascii", "backslashreplace") for c in rest), error.end


def _raw_byte(character: str) -> bytes:
    """The byte of a file name that Python decoded to ``character`` because it is not text; empty for text."""
    return bytes([ord(character) & 0xFF]) if "\udc80" <= character <= "\udcff" else b""


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Columns of minimum width; numbers right-aligned, text left-aligned; a dash for None and NaN."""
    cells = [[cell(value) for value in row] for row in ([list(header)] if header else []) + [list(r) for r in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    right = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(widths))]
    lines = []
    for row in cells:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value as text: floats with four significant digits, a dash for None and NaN."""
    if value is None or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def emit(document: Record, text: str, as_json: bool) -> None:
    """Prints ``document`` as JSON, or ``text``."""
    from ssltool.files import to_json

    click.echo(to_json(document) if as_json else text)
