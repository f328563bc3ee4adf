"""Short, distinct names of files and runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def labels(paths: Sequence[str]) -> list[str]:
    """Short, distinct names of files for a legend: the parts of their paths in which they differ."""
    parts = [[*Path(path).parts[:-1], Path(path).name.removesuffix(".pt")] for path in paths]
    if len(parts) == 1:
        return [parts[0][-1]]
    width = max(map(len, parts))
    padded = [[""] * (width - len(p)) + p for p in parts]
    differing = [i for i in range(width) if len({p[i] for p in padded}) > 1]
    return ["/".join(p[i] for i in differing if p[i]) or p[-1] for p in padded]
