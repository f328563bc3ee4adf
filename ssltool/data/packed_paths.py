"""Many paths in one buffer."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np


class PackedPaths:
    """The paths, read by their row. Worker processes share the two arrays; a tuple of strings would be copied into each
    (copy-on-write, as reading a string counts a reference), and a NumPy array of strings makes all as long as the
    longest."""

    def __init__(self, paths: Iterable[str]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._ends = np.cumsum([0, *map(len, encoded)])
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> str:
        return os.fsdecode(self._bytes[self._ends[row] : self._ends[row + 1]].tobytes())
