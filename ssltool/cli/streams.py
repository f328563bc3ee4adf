"""Text in any locale: arguments and paths are UTF-8, and stdout and stderr accept any text, and survive being closed or
on a full disk."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import sys
from typing import Any, TextIO

from ssltool.errors import SSLToolError

UNENCODABLE = "ssltool.unencodable"
"""The error handler of both streams: the bytes of a file name that is not text stay as they are, and characters that
the encoding does not have are written as escapes."""

UTF8_MODE = "PYTHONUTF8"
"""The environment variable of Python's UTF-8 mode."""


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


def require_utf8() -> None:
    """Starts Python again in its UTF-8 mode if the locale is ASCII, where arguments and file names would not be text.

    Only a new process can decode them otherwise. It has the same id, streams and arguments, and no module of torch was
    imported before. Processes that it starts inherit the mode.
    """
    ascii_only = codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
    if ascii_only and sys.executable and os.environ.get(UTF8_MODE) != "1":  # else -E or -X utf8=0 hides the variable
        os.environ[UTF8_MODE] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


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
