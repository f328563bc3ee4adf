"""What the readers of raw dataset files share: uint8 images (N, C, H, W) and int64 labels (N,)."""

from __future__ import annotations

import gzip
import lzma
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np

from ssltool.errors import SSLToolError, first_line
from ssltool.files.reading import MAX_RATIO, open_file, size_limit

Arrays = tuple[np.ndarray, np.ndarray]

COMPRESSED: dict[str, tuple[Callable[[IO[bytes]], IO[bytes]], int]] = {
    ".gz": (gzip.open, 1100),  # type: ignore[dict-item]
    ".xz": (lzma.open, 10_000),
}
"""By the end of a compressed IDX file's name: what opens it, and how many times longer its content may be. gzip
compresses to a 1,032nd at most, xz to about a 7,000th."""


def broken(path: Path, error: Exception | None = None) -> SSLToolError:
    """The error for a data file whose contents do not match its name."""
    reason = f" ({first_line(error)})" if error else ""
    return SSLToolError(f"{path} is not a readable file of its dataset{reason}; download or copy it again")


def find(folder: Path, *candidates: str) -> Path:
    """The first of the ``candidates``, relative paths, that exists under ``folder``.

    Raises:
        SSLToolError: if none does.
    """
    for candidate in candidates:
        if (folder / candidate).exists():
            return folder / candidate
    raise SSLToolError(f"{folder} holds none of {', '.join(candidates)}; check the folder, or add --download")


def read_idx(path: Path, ndim: int | None = None) -> np.ndarray:
    """An array of unsigned bytes in the IDX format of MNIST, compressed by gzip or xz or not.

    ``ndim`` is the number of its dimensions; such an array has elements.

    Raises:
        SSLToolError: if the file cannot be read, or does not hold such an array, of the size that its header declares.
    """
    with open_file(path) as file:
        held = os.fstat(file.fileno()).st_size
        try:
            opened, most = COMPRESSED.get(path.suffix, (lambda stream: stream, 1))
            stream = opened(file)
            head = stream.read(4)
            if head[:3] != b"\0\0\x08" or len(head) < 4 or (ndim is not None and head[3] != ndim):
                dimensions = "" if ndim is None else f" with {ndim} dimensions"
                raise ValueError(f"no IDX header of unsigned bytes{dimensions}")
            shape = tuple(np.frombuffer(stream.read(4 * head[3]), ">u4", head[3]).tolist())
            size = math.prod(shape)
            ratio = MAX_RATIO if size > size_limit() else most
            if size > held * ratio or (ndim and not size):
                raise ValueError(f"its header declares the shape {shape}, and the file has {held:,} bytes")
            data = stream.read(size + 1)
            if len(data) != size:
                more = "more" if len(data) > size else f"only {len(data):,}"
                raise ValueError(f"its header declares the shape {shape}, and {more} bytes follow")
            return np.frombuffer(data, np.uint8).reshape(shape)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise broken(path, error) from error
