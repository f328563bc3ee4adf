"""Bundled images that are decompressed once in a process. Most tests open them, and each time would do it anew."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ssltool.data import bundled
from ssltool.data.layouts import fashion_mnist


def read_once() -> Callable[..., np.ndarray]:
    """A function for the place of ``fashion_mnist.read_idx``, which keeps the arrays of the bundled files."""
    read_idx, once = fashion_mnist.read_idx, functools.cache(fashion_mnist.read_idx)

    def read(path: Path, ndim: int | None = None) -> np.ndarray:
        return (once if path.parent == bundled.FOLDER else read_idx)(path, ndim)

    return read
