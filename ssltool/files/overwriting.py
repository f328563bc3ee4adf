"""Outputs that would replace an input, or each other."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping

from ssltool.errors import SSLToolError, UsageError

BESIDE = ("targets", "index", "paths", "digests", "row", "column", "kind")
"""Arrays beside ``NAME.npy``: ``NAME_targets.npy`` etc."""


def names_beside(path: str) -> list[str]:
    """The files that are read with ``NAME.npy`` if they exist: ``NAME.json``, ``NAME_targets.npy`` etc."""
    name = path.removesuffix(".npy")
    return [] if name == path else [f"{name}.json", *(f"{name}_{end}.npy" for end in BESIDE)]


def refuse_overwriting(outputs: Mapping[str, str], inputs: Iterable[str]) -> None:
    """Refuses outputs that are also an input, or read with one.

    Args:
        outputs: paths by what messages call them, such as ``--out``.
        inputs: paths, or patterns of paths; those that are no files are no inputs.

    Raises:
        SSLToolError: for the first such output.
        UsageError: for two outputs with the same path.
    """
    paths = {name: os.path.realpath(path) for name, path in outputs.items() if _is_replaced(path)}
    names = {path: name for name, path in reversed(paths.items())}
    for name, path in paths.items():
        if names[path] != name:
            raise UsageError(f"{names[path]} and {name} are both {outputs[name]}; give two names")
    read: dict[str, str] = {}
    for path in (path for name in inputs for path in (name, *(glob.glob(name) if glob.has_magic(name) else ()))):
        for one in (path, *names_beside(path)):
            read.setdefault(os.path.realpath(one), path)
    for name, path in paths.items():
        if path in read and os.path.isfile(path):
            owner = read[path]
            what = "is also an input" if os.path.realpath(owner) == path else f"is read with {owner}"
            raise SSLToolError(f"{name} {outputs[name]} {what}; give another name")


def _is_replaced(path: str) -> bool:
    """Whether writing replaces the file, unlike a device or a pipe."""
    return os.path.isfile(path) or not os.path.exists(path)
