"""What the readers of raw dataset files share: uint8 images (N, C, H, W) and int64 labels (N,)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

from ssltool.errors import SSLToolError, first_line

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


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes in the IDX format of MNIST, gzipped or not."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if data[:3] != b"\0\0\x08":
            raise ValueError("no IDX header of unsigned bytes")
        ndim = data[3]
        shape = np.frombuffer(data, ">i4", ndim, offset=4)
        return np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(shape)
    except (OSError, EOFError, zlib.error, ValueError, IndexError) as error:
        raise broken(path, error) from error
