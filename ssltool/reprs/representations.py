"""The file format of representations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.files import FilePath, Stored, first_keys, load_dict
from ssltool.reprs.nonfinite import finite_rows, refuse_nonfinite_rows
from ssltool.settings import Record


@dataclass
class Representations(Stored):
    """Representations of images with their labels.

    Attributes:
        representations: (N, D) float32 or bfloat16, one row per image, or (N, Q, D) for Q views of each image. If
            ``meta["places"]`` is P, each image has P consecutive rows.
        targets: (N,) int64, the labels; -1 if unlabelled.
        index: (N,) int64, the numbers of the images in their dataset.
        meta: the checkpoint, network and dataset that the rows come from.
    """

    FORMAT: ClassVar[str] = "ssltool/representations/1"

    representations: Tensor
    targets: Tensor
    index: Tensor
    meta: Record = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.representations)

    @classmethod
    def load(cls, path_or_paths: FilePath | Sequence[FilePath]) -> Representations:
        """Reads one file (memory-mapped), or several and concatenates them in the order given.

        Files of the paper can be read too: their targets become integers, and ``index`` counts from 0.

        Raises:
            SSLToolError: if a file is unreadable, holds no representations or several rows per image, has different
                numbers of rows and targets, or NaN or infinite values, or if the files have different widths.
        """
        if isinstance(path_or_paths, (str, os.PathLike)):
            return cls._load_one(path_or_paths)
        parts = [cls._load_one(path) for path in path_or_paths]
        if not parts:
            raise SSLToolError("no representation files were given; name at least one")
        widths = [part.representations.shape[1] for part in parts]
        if len(set(widths)) > 1:
            found = ", ".join(f"{path}: {width}" for path, width in zip(path_or_paths, widths, strict=True))
            raise SSLToolError(f"representations of different widths cannot be concatenated ({found})")
        return cls(
            torch.cat([part.representations for part in parts]),
            torch.cat([part.targets for part in parts]),
            torch.cat([part.index for part in parts]),
            parts[0].meta,
        )

    @classmethod
    def _load_one(cls, path: FilePath) -> Representations:
        stored = cls.mapped(path)
        stored.representations = stored.representations.float()
        return stored

    @classmethod
    def mapped(cls, path: FilePath) -> Representations:
        """Reads one file with one row per image, memory-mapped, in its own precision; raises as ``load``."""
        stored = cls.stored(path)
        if stored.representations.dim() == 3:
            views = stored.representations.shape[1]
            raise SSLToolError(f"{path} holds {views} views of each image; save one row per image, without --views")
        if places := stored.meta.get("places"):
            raise SSLToolError(f"{path} holds {places} places of each image; save one row per image, their mean")
        refuse_nonfinite_rows(finite_rows(stored.representations), str(path))
        return stored

    @classmethod
    def stored(cls, path: FilePath) -> Representations:
        """Reads one file, memory-mapped, in its own precision, (N, D) or (N, Q, D), without checking the values.

        Raises:
            SSLToolError: if it is unreadable, holds no representations, or has different numbers of rows and targets.
        """
        contents = load_dict(path, mmap=True)
        rows = contents.get("representations")
        if not isinstance(rows, Tensor) or rows.dim() < 2 or not rows.is_floating_point():
            raise SSLToolError(f"{path} holds no representations; its keys are {first_keys(contents)}")
        many = rows.reshape(-1, rows.shape[-1])
        if rows.dim() > 3 or len(contents.get("targets", many)) == len(many):  # rows of any shape, such as patches
            rows = many
        n = len(rows)
        targets = torch.as_tensor(contents.get("targets", torch.full((n,), -1))).to(torch.int64)
        index = torch.as_tensor(contents.get("index", torch.arange(n))).to(torch.int64)
        if len(targets) != n or len(index) != n:
            raise SSLToolError(
                f"{path}: {n} representations, {len(targets)} targets and {len(index)} indices do not match"
            )
        return cls(rows, targets, index, contents.get("meta", {}))
