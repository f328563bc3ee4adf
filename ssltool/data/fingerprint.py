"""The identity of images: a hash of the content of each one, and a fingerprint of the whole set.

Nothing is decoded. A file is identified by its size and its first and last 4 KB: files of a raw format have equal sizes
and equal first bytes, but hardly equal ends.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

from ssltool.data.sources import Encoded, Source
from ssltool.training.progress import has_bars, is_quiet

PART = 4096
"""Bytes at the beginning and at the end of a file that are read."""

TRIAL_FILES = 300
"""Files that are read one after the other; if they are slow, the others are read by several threads."""

SLOW_SECONDS = 1e-3
"""Mean seconds per file above which several threads read. On a fast disk a single thread is faster."""

THREADS = 32
"""Threads that wait for a slow file system."""

READ_AHEAD = 4096
"""Files that are handed to the threads at once."""

NO_FILE = b"no regular file"
"""Takes the place of the content of files that cannot be read."""


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)


UNREADABLE, EMPTY = _hash(NO_FILE), _hash(bytes(8))
"""The digests of files that cannot be read, and of empty ones."""


@dataclass(frozen=True)
class Identity:
    """The content hashes of N files, (N,) int64, and why some cannot be used: {row: reason}."""

    digests: np.ndarray
    empty: tuple[int, ...]
    unreadable: dict[int, str]


def of_files(paths: Sequence[str] | Source) -> Identity:
    """The identity of image files, or of the images of a source, which is that of files with their bytes. Files that
    are missing, unreadable or no regular file have the same digest."""
    digests = np.empty(len(paths), "<i8")
    empty, unreadable = [], dict[int, str]()
    with tqdm(total=len(paths), desc="checking images", disable=is_quiet() or not has_bars(), leave=False) as bar:
        for start, results in _read(paths):
            for row, (digest, size, error) in enumerate(results, start):
                digests[row] = digest
                if error is not None:
                    unreadable[row] = error
                elif not size:
                    empty.append(row)
            bar.update(len(results))
    return Identity(digests.astype(np.int64), tuple(empty), unreadable)


def of_arrays(images: np.ndarray) -> np.ndarray:
    """The content hash of each image of ``images`` (N, ...), (N,) int64."""
    rows = (hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8] for image in images)
    return np.frombuffer(b"".join(rows), "<i8").astype(np.int64)


def fingerprint(files: Sequence[str] | None, digests: np.ndarray) -> str:
    """16 hex digits that identify a set of images: their relative paths and contents, in order."""
    digest = hashlib.sha256(digests.astype("<i8").tobytes())
    if files is not None:
        digest.update("\0".join(files).encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


Read = tuple[int, int, str | None]
"""The digest of a file, its size, and why it cannot be read."""


def _read(paths: Sequence[str] | Source) -> Iterator[tuple[int, list[Read]]]:
    """Blocks of results, each with the row of its first file."""
    start = time.perf_counter()
    yield 0, list(map(_read_file, paths[:TRIAL_FILES]))
    slow = time.perf_counter() - start > SLOW_SECONDS * TRIAL_FILES
    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(TRIAL_FILES, len(paths), READ_AHEAD):
            block = paths[first : first + READ_AHEAD]
            yield first, list((pool.map if slow else map)(_read_file, block))


def _read_file(path: Encoded) -> Read:
    try:
        if not isinstance(path, str):
            size, ends = path.source.ends(path.row, PART)
            return _hash(size.to_bytes(8, "little") + ends), size, None
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        stream = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(stream)
            if not stat.S_ISREG(found.st_mode):
                return _hash(NO_FILE), 0, "not a regular file"
            content = os.pread(stream, PART, 0)
            if found.st_size > PART:
                content += os.pread(stream, PART, max(PART, found.st_size - PART))
        finally:
            os.close(stream)
    except (OSError, ValueError, zlib.error) as error:  # ValueError: a null byte in a path
        return _hash(NO_FILE), 0, error.strerror or str(error) if isinstance(error, OSError) else str(error)
    return _hash(found.st_size.to_bytes(8, "little") + content), found.st_size, None
