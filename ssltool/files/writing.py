"""Writes files atomically: to a temporary file in the same folder, which is flushed to disk and then renamed.

A reader never sees a partly written file, and if the disk is full the previous file is kept.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ssltool.errors import SSLToolError, first_line

FilePath = str | os.PathLike[str]


@contextlib.contextmanager
def writing(path: FilePath) -> Iterator[None]:
    """Raises ``SSLToolError`` with the reason if writing ``path`` fails in the ``with`` block."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's zip writer raises RuntimeError if a write fails; other RuntimeErrors, as from a GPU, are re-raised.
        if isinstance(error, RuntimeError) and not any(part in str(error) for part in ("inline_container", "Writer")):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        kept = "; the existing file is kept" if Path(path).exists() else ""
        raise SSLToolError(f"cannot write {path}: {reason}{kept}; free space or choose another location") from error


def write_atomically(path: FilePath, write: Callable[[IO[bytes]], object]) -> None:
    """Replaces ``path`` atomically by what ``write`` writes to the binary stream that it is called with.

    Raises:
        SSLToolError: if the file cannot be written (disk full, no permission); ``path`` is then unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it does not exist if it was renamed or its folder could not be created
            temporary.unlink()


def write_json(path: FilePath, document: Any) -> None:
    """Writes ``document`` as indented JSON, atomically."""
    text = to_json(document, indent=2) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()))


def file_hash(path: FilePath) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(stream)


def matching(path: FilePath) -> FilePath | list[str]:
    """The files that ``path`` names.

    This is ``path`` itself if it exists; the sorted matches if it is a pattern such as ``train_*.pt``; and otherwise
    the files of all ranks, if several ranks wrote it.

    Raises:
        SSLToolError: if a pattern matches nothing.
    """
    path = Path(path)
    if path.exists():
        return path
    if not glob.has_magic(str(path)):
        of_ranks = path.parent.glob(f"{glob.escape(path.stem)}.rank*of*{path.suffix}")
        return sorted(str(file) for file in of_ranks if re.fullmatch(r".*\.rank\d+of\d+", file.stem)) or path
    found = sorted(glob.glob(str(path)))
    if not found:
        raise SSLToolError(f"no file matches {path}")
    return found


def _sha(stream: IO[bytes]) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def finite(value: Any) -> Any:
    """``value`` with None in place of NaN and infinity, which JSON does not support."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_json(document: Any, *, indent: int | None = None) -> str:
    """``document`` as JSON; NaN and infinity become null."""
    return json.dumps(finite(document), indent=indent, allow_nan=False)
