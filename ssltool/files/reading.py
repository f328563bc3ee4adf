"""Opens files to read; one line tells a missing file, a folder, a missing permission and other causes apart."""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ssltool.errors import SSLToolError, UsageError, first_line
from ssltool.files.writing import FilePath
from ssltool.settings import SIZE_LIMIT

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""How UTF-16 text begins."""

DEFAULT_LIMIT = 64
"""Default limit in MB. The paths of the 1.28 million images of ImageNet are 53 MB."""

MAX_RATIO = 64
"""How many times larger than itself a compressed file may become above the limit. Images rarely become 10 times
larger, zeros 1000 times."""


FIRST_BYTES = {
    b"\x93NUMPY": "a NumPy array",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"GIF8": "a GIF image",
    b"RIFF": "a RIFF file, such as a WebP image",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"PAR1": "a parquet table",
    b"\x89HDF": "an HDF5 file",
    b"%PDF": "a PDF document",
    b"\x7fELF": "a program",
    b"version https://git-lfs": "a pointer of Git LFS (run git lfs pull)",
}
"""How files of other kinds begin."""

TERMINAL = "\x1b\b"
"""Control characters of colours and progress bars in the output of programs."""

UNKNOWN = "data of an unknown kind"


def kind_of_content(head: bytes) -> str:
    """What a file holds by its first bytes, 512 or all of them: "a JPEG image", "text", "data of an unknown kind"."""
    kind = next((name for start, name in FIRST_BYTES.items() if head.startswith(start)), None)
    return kind or ("text" if _is_text(head) else UNKNOWN)


def _is_text(head: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # leaves out a character that is cut off at the end
    text = decoder.decode(head, final=len(head) < 512)
    return (
        all(letter.isprintable() or letter.isspace() or letter in TERMINAL for letter in text) and "\ufffd" not in text
    )


def size_limit() -> int:
    """The limit in bytes for what is parsed as a whole: the objects in a ``.pt`` file, without its tensors, and text.

    Raises:
        UsageError: if the environment variable is not a number of MB.
    """
    text = os.environ.get(SIZE_LIMIT, str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdecimal()) or not 1 <= len(text) <= 9 or not int(text):
        raise UsageError(f"{SIZE_LIMIT} is {text[:40]!r}; it must be a number of MB, at least 1")
    return int(text) * 2**20


def too_large(path: object, what: str, size: int) -> SSLToolError:
    """The error for a file with ``size`` bytes of ``what``, which is above the limit."""
    needed = -(-size // 2**20)
    return SSLToolError(
        f"{path} holds {needed:,} MB of {what}; the limit is {size_limit() // 2**20:,} MB. "
        f"If you trust the file, raise it with --size-limit {needed}"
    )


@contextmanager
def _told_apart(path: object, what: str) -> Iterator[None]:
    """Turns the errors of the system for ``path``, which ought to be ``what``, into one line each."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if not str(path):  # an unset variable of the shell, often
            raise SSLToolError(f"the name of a {what} is empty; name one that exists") from error
        raise SSLToolError(f"no such {what}: {path}") from error
    except PermissionError as error:
        raise SSLToolError(f"no permission to read {path}; change its mode or its folder's, or the user") from error
    except (OSError, ValueError) as error:  # a loop of links, a name that is too long, or with a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise SSLToolError(f"cannot read {path}: {reason}") from error


def require(path: str | os.PathLike[str], what: str = "file") -> None:
    """Checks that ``path`` exists; ``what`` it is supposed to be is for the message.

    Raises:
        SSLToolError: if it does not, or if that cannot be found out.
    """
    with _told_apart(path, what):
        os.stat(path)


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """Opens a regular file to read.

    Raises:
        SSLToolError: if there is no such file, it is a folder or a device, or it may not be read.
    """
    with _told_apart(path, "file"):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise SSLToolError(f"{path} is a folder; name a file")
        if not stat.S_ISREG(mode):
            raise SSLToolError(f"{path} is not a regular file but a pipe, socket or device; name a file")
        return open(path, "rb")


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that is parsed as a whole.

    Raises:
        SSLToolError: as ``open_file``, or if the file is larger than the limit.
    """
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > size_limit():
            raise too_large(path, "text", size)
        try:
            return stream.read()
        except OSError as error:
            raise SSLToolError(f"cannot read {path}: {error.strerror}") from error


def decode(data: bytes, path: object) -> str:
    """UTF-8 text, with or without a byte order mark.

    Raises:
        SSLToolError: if ``data``, which comes from ``path``, is other text or no text.
    """
    if data[:2] in UTF_16:
        raise SSLToolError(f"{path} is UTF-16 text; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SSLToolError(f"{path} is not UTF-8 text (byte {error.start:,}); save it as UTF-8") from error


def parse_json(text: str) -> Any:
    """The value of a JSON ``text``.

    Raises:
        ValueError: if it is not JSON, or too deeply nested; the message is one line.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except ValueError as error:
        raise ValueError(first_line(error)) from error


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value in a JSON file.

    Raises:
        SSLToolError: as ``read_bytes`` and ``decode``, or if the file is not JSON.
    """
    text = decode(read_bytes(path), path)
    try:
        return parse_json(text)
    except ValueError as error:
        found = "it is empty" if not text.strip() else str(error)
        raise SSLToolError(f"{path} is not a readable JSON file ({found}); copy it again") from error


def file_hash(path: FilePath) -> str:
    """The SHA-256 of a file's bytes, in hex; raises as ``open_file``."""
    with open_file(path) as stream:
        return _sha(stream)


def matching(path: FilePath) -> FilePath | list[str]:
    """The files that ``path`` names.

    This is ``path`` itself if it exists; the sorted matches if it is a pattern such as ``train_*.pt``; and otherwise
    the files of all ranks, if several ranks wrote it.

    Raises:
        SSLToolError: if a pattern matches nothing.
    """
    path = Path(path)
    if os.path.exists(path):  # unlike Path.exists, False where it may not be known
        return path
    if not glob.has_magic(str(path)):
        stem = glob.escape(str(path.with_suffix("")))
        of_ranks = glob.glob(f"{stem}.rank*of*{path.suffix}")  # unlike Path.glob, also where the folder is closed
        return sorted(file for file in of_ranks if re.fullmatch(r".*\.rank\d+of\d+", Path(file).stem)) or path
    found = sorted(glob.glob(str(path)))
    if not found:
        raise SSLToolError(f"no file matches {path}")
    return found


def _sha(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
