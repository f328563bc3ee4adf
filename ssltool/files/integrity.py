"""The hash in a ``.pt`` file: the SHA-256 of the zip archive that torch wrote, as the archive's comment.

torch compares no checksum when it loads a file, so a flipped bit or a page of zeros would become weights. Other readers
of zip archives ignore the comment, and files of earlier versions and other programs have none.
"""

from __future__ import annotations

import errno
import hashlib
import os
import zipfile
import zlib
from typing import IO, Any

from ssltool.errors import SSLToolError, first_line
from ssltool.files.reading import open_file
from ssltool.files.writing import FilePath

LABEL = b"ssltool sha256 "
"""How the comment begins; the hash in hex follows."""

LENGTH = len(LABEL) + 64
"""Length of the comment in bytes."""

NO_COMMENT = b"\0\0"
"""The end of an archive without a comment: the length of the comment, which the hash takes as 0."""

SIGNATURE, END_RECORD = b"PK\5\6", 22
"""How the last part of a zip archive begins, and its length in bytes without the comment."""


class DamagedFile(SSLToolError):
    """A file that is cut short or whose bytes have changed, so that an earlier copy may replace it."""


class HashingWriter:
    """A stream for ``torch.save`` that passes on to ``stream`` what is written, and hashes it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self._digest = stream, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Writes bytes and returns their number."""
        self._digest.update(data)
        return self.stream.write(data)

    def flush(self) -> None:
        """Flushes the stream."""
        self.stream.flush()

    def finish(self) -> None:
        """Adds the hash to the archive, which must be complete."""
        self.stream.seek(-len(NO_COMMENT), os.SEEK_END)
        self.stream.write(_comment(self._digest.hexdigest()))


def check_hash(stream: IO[bytes], path: object) -> bool:
    """Whether the open file ``path`` holds a hash, which is then the right one. Leaves ``stream`` at the beginning.

    Raises:
        DamagedFile: if it is another one.
    """
    try:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - LENGTH - len(NO_COMMENT)))
        end = stream.read()
        comment = end[len(NO_COMMENT) :]
        if not comment.startswith(LABEL):
            return False
        stream.seek(0)
        if end != _comment(_hash(stream, size - len(end))):
            raise DamagedFile(
                f"{path} is damaged: its bytes do not have the hash that it was saved with; copy it again"
            )
        return True
    except OSError as error:  # a defect of the disk
        raise DamagedFile(f"{path} cannot be read to its end: {error.strerror}; copy it again") from error
    finally:
        stream.seek(0)


def check_end(stream: IO[bytes], path: object) -> None:
    """Checks that the zip archive ``path``, if it was saved with a hash, still ends with one.

    Raises:
        DamagedFile: if not: it was cut short there, or overwritten.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - LENGTH - END_RECORD))
    _, signature, end = stream.read().rpartition(SIGNATURE)
    end = signature + end
    if signature and end[END_RECORD - 2 : END_RECORD] == LENGTH.to_bytes(2, "little"):
        comment = end[END_RECORD:]
        if len(comment) < LENGTH or not comment.startswith(LABEL):
            raise DamagedFile(f"{path} is cut short or damaged (the hash at its end is missing); copy it again")


def check_file(path: FilePath) -> bool:
    """Whether the file ``path`` holds a hash, which is then the right one; False for files of earlier versions and of
    other programs.

    Raises:
        DamagedFile: if it is another one.
        SSLToolError: if there is no such file or it may not be read.
    """
    with open_file(path) as stream:
        return check_hash(stream, path)


def check_written(stream: IO[bytes]) -> None:
    """Checks what was just written, by reading it back.

    Raises:
        OSError: if it does not hold its hash.
    """
    try:
        found = check_hash(stream, "")
    except DamagedFile:
        found = False
    if not found:
        raise OSError(errno.EIO, "what was read back is not what was written")


def check_parts(path: FilePath) -> None:
    """Compares the parts of a zip archive, also of one without a hash, with the checksums (CRC-32) in it.

    Raises:
        DamagedFile: if one differs.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise DamagedFile(f"{path} is damaged: {first_line(error)}; copy it again") from error
    if wrong is not None:
        raise DamagedFile(f"{path} is damaged: {wrong[:200]} does not have its checksum; copy it again")


def _comment(digest: str) -> bytes:
    """The end of the archive with the hash ``digest``: the length of the comment, and the comment."""
    return LENGTH.to_bytes(2, "little") + LABEL + digest.encode()


def _hash(stream: IO[bytes], size: int) -> str:
    """The hash, in hex, of an archive of which ``size`` bytes precede the length of its comment."""
    digest = hashlib.sha256()
    while size > 0 and (block := stream.read(min(size, 2**20))):
        digest.update(block)
        size -= len(block)
    digest.update(NO_COMMENT)
    return digest.hexdigest()
