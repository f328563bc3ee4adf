"""Partially written rows, from which a stage that was stopped or killed resumes.

A hidden file beside the target begins with one line of JSON, which holds everything that the rows depend on. The raw
rows follow, appended batch by batch. Their number follows from the size of the file, so it is right whenever the
process ends. The finished file is memory-mapped, so memory holds one batch and never all rows.
"""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssltool.data.images import ImageSet
from ssltool.data.manifest import Manifest
from ssltool.errors import SSLToolError
from ssltool.files.reading import parse_json
from ssltool.files.writing import to_json, writing
from ssltool.settings import Record

OF_IMAGES = {"images", "fingerprint", "found", "index", "labels", "classes"}
"""Facts that follow from the files of the images. The rows depend on their contents alone."""

ALIGNED = 64
"""The length of the first line is a multiple of this many bytes, so that mapped rows are aligned."""

LONGEST_VALUE = 60
"""Longest value of a fact that a message shows, in characters."""

LONGEST_LINE = 2**24
"""Longest first line in bytes; a file with a longer one was not written by this class."""


class PartialFile:
    """The first rows, each of ``shape``, of the ``total`` rows of ``target``, in batches of ``batch``.

    Opening it keeps the ``done`` rows, whole batches, that an earlier process with the same ``facts`` has written. If
    the facts have changed it starts with no rows, ``changed`` has their names, and ``why`` says what they were. A
    second hidden file, the manifest, has the paths and hashes of the ``images``.

    Raises:
        SSLToolError: if the file cannot be written, or another process is writing it; or if the files of the images
            have changed and nothing else.
    """

    def __init__(
        self,
        target: Path,
        facts: Record,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        total: int,
        batch: int,
        images: ImageSet | None = None,
    ) -> None:
        self.path = target.with_name(f".{target.name}.unfinished")
        self._manifest = target.with_name(f"{self.path.name}.images")
        self.shape, self.dtype = shape, dtype
        line = to_json(facts).encode()
        line += b" " * (-(len(line) + 1) % ALIGNED) + b"\n"
        self._start, self._row = len(line), math.prod(shape) * dtype.itemsize
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.exists() and not self.path.is_file():  # opening a pipe would wait for a writer
                raise SSLToolError(f"{self.path} is no regular file; remove it, or choose another place with --out")
            self.path.touch()
            self._stream = io.FileIO(self.path, "r+")
        self._lock()
        with writing(self.path):
            found = self._stream.read(LONGEST_LINE).partition(b"\n")[0] + b"\n"
        differences = {} if found in (b"\n", line) else _differences(found, facts)
        self.changed, self.why = list(differences), ", ".join(differences.values())
        if images is not None and self.changed and self._has_same_images(images):
            self.changed, line, self._start = [], found, len(found)
        self._line = line
        with writing(self.path):
            self.done = 0
            if found == line:
                rows = (os.fstat(self._stream.fileno()).st_size - self._start) // self._row
                self.done = total if rows >= total else rows // batch * batch
            else:
                self._stream.truncate(0)  # first, so that no old rows follow the new line
                self._stream.seek(0)
                if images is not None:
                    Manifest.of(images).save(self._manifest)
                self._write(line)
            self._stream.seek(self._stream.truncate(self._start + self.done * self._row))

    def append(self, rows: Tensor) -> None:
        """Writes the next rows (n, ...), on the CPU.

        Raises:
            SSLToolError: if the disk is full, and the rows before these are kept; or if another process has started the
                file over.
        """
        self._check_own()
        with writing(self.path):
            self._write(rows.to(self.dtype).contiguous().view(torch.uint8).numpy().reshape(-1).data)
        self.done += len(rows)

    def rows(self) -> Tensor:
        """The rows so far, (done, ...), memory-mapped.

        Raises:
            SSLToolError: if another process has started the file over.
        """
        self._check_own()
        length = self.done * self._row
        mapped = np.memmap(
            self._stream, np.uint8, "c", self._start, (length,)
        )  # "c": torch warns about read-only arrays
        return torch.from_numpy(mapped).view(self.dtype).view(self.done, *self.shape)

    def close(self) -> None:
        """Closes the file and releases its lock; another process may resume from it."""
        self._stream.close()

    def remove(self) -> None:
        """Deletes the file, once its rows are in the target."""
        self.path.unlink(missing_ok=True)
        self._manifest.unlink(missing_ok=True)
        self.close()

    def _has_same_images(self, images: ImageSet) -> bool:
        """Whether nothing has changed but other files in the folder of ``images``.

        Raises:
            SSLToolError: naming the first difference, if files of the ``images`` have changed.
        """
        if not OF_IMAGES.issuperset(self.changed) or not self._manifest.is_file():
            return False
        difference = Manifest.load(self._manifest).difference(images)
        if difference is not None and "fingerprint" in self.changed:
            self.close()
            raise SSLToolError(
                f"{self.path} has rows of other images: {difference}; restore them, or delete the file to start over"
            )
        return difference is None

    def _write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[self._stream.write(left) :]

    def _check_own(self) -> None:
        """Without locks, another process may have started the file over for other rows. Equal facts give equal rows at
        the same places."""
        if os.pread(self._stream.fileno(), len(self._line), 0) != self._line:
            raise SSLToolError(
                f"another process has started {self.path} over with other settings; wait for it, or choose another "
                "place with --out"
            )

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise SSLToolError(
                f"another process is writing {self.path}; wait for it, or choose another place with --out"
            ) from error
        except OSError:  # a file system without locks; ``_check_own`` detects other rows
            pass


def _differences(line: bytes, facts: Record) -> dict[str, str]:
    """The facts that differ from those in ``line``, each in words with both values; all of them if it is no JSON
    object."""
    try:
        found = parse_json(line.decode("utf-8", "replace"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        return dict.fromkeys(facts, "its first line is damaged")
    now = json.loads(to_json(facts))
    names = sorted(name for name in {*found, *now} if found.get(name) != now.get(name))
    return {name: _difference(name, found.get(name), now.get(name)) for name in names}


def _difference(name: str, before: object, now: object) -> str:
    """A fact with its values, if these are short and no hashes."""
    is_short = all(len(str(value)) <= LONGEST_VALUE and not isinstance(value, (dict, list)) for value in (before, now))
    return f"{name} was {before} and is {now}" if is_short else name
