"""Rows on their way into a file: what a stage that is stopped half-way, or killed, leaves behind and goes on from.

A hidden file beside the target begins with one line of JSON, everything that the rows depend on; the rows follow as
they are, each batch appended when it is made. What is in the file is what has been done, so there is no count to keep
in step with it, whenever the process ends. Finished, it is mapped, so memory holds a batch and never all rows.
"""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.files import to_json, writing

ALIGNED = 64
"""Bytes of which the first line is a multiple, so that mapped rows begin where any number may."""

LONGEST_LINE = 2**24
"""Bytes within which the first line ends; without an end it is none of ours."""


class Unfinished:
    """The rows (N, ...) of ``shape`` each, bound for ``target``, of which there will be ``total``, in batches of
    ``batch``.

    Opening it takes over what an earlier process with the same ``facts`` has done: ``done`` rows, whole batches. Where
    the facts have changed it starts anew, and ``changed`` names them.

    Raises:
        SSLToolError: if the file cannot be written, or another process is writing it.
    """

    def __init__(
        self, target: Path, facts: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype, total: int, batch: int
    ) -> None:
        self.path = target.with_name(f".{target.name}.unfinished")
        self.shape, self.dtype = shape, dtype
        line = to_json(facts).encode()
        line += b" " * (-(len(line) + 1) % ALIGNED) + b"\n"
        self._start, self._row = len(line), math.prod(shape) * dtype.itemsize
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            self._stream = io.FileIO(self.path, "r+")
        self._lock()
        with writing(self.path):
            found = self._stream.read(LONGEST_LINE).partition(b"\n")[0] + b"\n"
            self.changed = [] if found in (b"\n", line) else _differences(found, facts)
            self.done = 0
            if found == line:
                rows = (os.fstat(self._stream.fileno()).st_size - self._start) // self._row
                self.done = total if rows >= total else rows // batch * batch
            else:
                self._stream.truncate(0)  # first, lest rows of other facts follow a new line
                self._stream.seek(0)
                self._write(line)
            self._stream.seek(self._stream.truncate(self._start + self.done * self._row))

    def append(self, rows: Tensor) -> None:
        """Takes in the next rows (n, ...), on the CPU.

        Raises:
            SSLToolError: if the disk is full; the rows before these are kept.
        """
        with writing(self.path):
            self._write(rows.to(self.dtype).contiguous().view(torch.uint8).numpy().reshape(-1).data)
        self.done += len(rows)

    def rows(self) -> Tensor:
        """All that is done, (done, ...), mapped."""
        length = self.done * self._row
        mapped = np.memmap(self._stream, np.uint8, "c", self._start, (length,))  # "c": torch dislikes what is read-only
        return torch.from_numpy(mapped).view(self.dtype).view(self.done, *self.shape)

    def close(self) -> None:
        """Lets go of the file; another process may go on with it."""
        self._stream.close()

    def remove(self) -> None:
        """Deletes the file when its rows are where they belong."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[self._stream.write(left) :]

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise SSLToolError(
                f"another process is writing {self.path}; wait for it, or choose another place with --out"
            ) from error
        except OSError:  # a file system without locks: then nothing keeps two processes apart
            pass


def _differences(line: bytes, facts: dict[str, Any]) -> list[str]:
    """Names of the facts that are not those in the line; all of them where it is no line of ours."""
    try:
        found = json.loads(line)
    except ValueError:
        return list(facts)
    now = json.loads(to_json(facts))
    return sorted(name for name in {*found, *now} if found.get(name) != now.get(name))
