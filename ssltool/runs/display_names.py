"""Short names of files and runs, for legends and tables."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path


def display_names(paths: Sequence[str]) -> list[str]:
    """A short name for each path, different from all others.

    A name is made of the parts of its path that differ between the paths, without ``.pt``. Where these do not tell two
    paths apart, it is the path without ``.pt``, and then the whole path. A path that is given again gets a number:
    ``train (2)``.
    """
    distinct = list(dict.fromkeys(map(_normalised, paths)))
    candidates = list(map(_candidates, distinct, _differing_parts(distinct)))
    chosen = [0] * len(distinct)
    names = [options[0] for options in candidates]
    while len(set(names)) < len(names):
        count = Counter(names)
        chosen = [min(i + (count[name] > 1), 2) for i, name in zip(chosen, names, strict=True)]
        names = [options[i] for i, options in zip(chosen, candidates, strict=True)]
    name_of = dict(zip(distinct, names, strict=True))
    return _numbered([name_of[_normalised(path)] for path in paths])


def _normalised(path: str) -> Path:
    return Path(path) if Path(path).name not in ("", "..") else Path(os.path.abspath(path))


def _candidates(path: Path, differing: Sequence[str]) -> tuple[str, str, str]:
    """Names of a path, from the shortest to the path itself."""
    stem = _parts(path)[-1]
    return str(Path(*differing)) if differing else stem, str(path.with_name(stem)) if path.name else stem, str(path)


def _parts(path: Path) -> list[str]:
    return [*path.parts[:-1], path.name.removesuffix(".pt") or path.name or str(path)]


def _differing_parts(paths: Sequence[Path]) -> list[list[str]]:
    """The parts of each path in which the paths differ, aligned at their ends."""
    parts = [_parts(path) for path in paths]
    width = max(map(len, parts), default=0)
    padded = [[""] * (width - len(p)) + p for p in parts]
    differing = [i for i in range(width) if len({p[i] for p in padded}) > 1]
    return [[p[i] for i in differing if p[i]] for p in padded]


def _numbered(names: Sequence[str]) -> list[str]:
    """``names``, with a number appended to each repetition."""
    distinct: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        unused = (other for other in numbered if other not in distinct and other not in names)
        distinct.append(next(unused) if name in distinct else name)
    return distinct
