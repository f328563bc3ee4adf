"""What the readers of raw dataset files share: uint8 images (N, C, H, W) and int64 labels (N,)."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from ssltool.errors import SSLToolError, first_line
from ssltool.files.reading import MAX_RATIO, open_file, size_limit

Arrays = tuple[np.ndarray, np.ndarray]


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
    """An array of unsigned bytes in the IDX format of MNIST, gzipped or not.

    ``ndim`` is the number of its dimensions; such an array has elements.

    Raises:
        SSLToolError: if the file cannot be read, or does not hold such an array, of the size that its header declares.
    """
    with open_file(path) as file:
        held = os.fstat(file.fileno()).st_size
        try:
            stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
            head = stream.read(4)
            if head[:3] != b"\0\0\x08" or len(head) < 4 or (ndim is not None and head[3] != ndim):
                dimensions = "" if ndim is None else f" with {ndim} dimensions"
                raise ValueError(f"no IDX header of unsigned bytes{dimensions}")
            shape = tuple(np.frombuffer(stream.read(4 * head[3]), ">u4", head[3]).tolist())
            size = math.prod(shape)
            if size > held * (MAX_RATIO if size > size_limit() else 1100) or (ndim and not size):  # gzip: 1032 at most
                raise ValueError(f"its header declares the shape {shape}, and the file has {held:,} bytes")
            data = stream.read(size + 1)
            if len(data) != size:
                more = "more" if len(data) > size else f"only {len(data):,}"
                raise ValueError(f"its header declares the shape {shape}, and {more} bytes follow")
            return np.frombuffer(data, np.uint8).reshape(shape)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise broken(path, error) from error
