"""Columns with a value for each row of representations, beside rows that are too many for memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssltool.files.writing import writing

BLOCK = 64
"""Images whose values are computed at a time."""


def column(values: Callable[[slice], Tensor], images: int, folder: Path | None) -> Tensor:
    """The concatenation of ``values(some)``, 1-d tensors of one type, over slices of the ``images``.

    Args:
        values: the values of the rows of some images.
        images: the number of images, at least 1.
        folder: where an unnamed file is created that holds the values, memory-mapped; None for memory.

    Raises:
        SSLToolError: if the file cannot be written.
    """
    blocks = (values(slice(at, at + BLOCK)) for at in range(0, images, BLOCK))
    return torch.cat(list(blocks)) if folder is None else _on_disk(blocks, folder)


def _on_disk(blocks: Iterator[Tensor], folder: Path) -> Tensor:
    with writing(folder), tempfile.TemporaryFile(dir=folder) as stream:
        for block in blocks:
            dtype = block.dtype
            stream.write(block.contiguous().numpy().data)
        stream.flush()
        # Written before it is mapped: a full disk is an error of the write, but a signal of a mapped page.
        return torch.from_numpy(np.memmap(stream, np.uint8, "r+")).view(dtype)
