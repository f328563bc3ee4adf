"""The file of representations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.files import FilePath, Stored, first_keys, load_dict
from ssltool.reprs.nonfinite import finite_rows, refuse_nonfinite_rows


@dataclass
class Representations(Stored):
    """One row per image: ``representations`` (N, D) float32 or bfloat16, or (N, Q, D) of Q views, ``targets`` (N,)
    int64 with -1 where unlabelled, ``index`` (N,) int64, the image's number in its dataset, and ``meta``, where the
    rows come from. Where ``meta["places"]`` is P, an image has P rows, one after the other, each with its label and
    number.
    """

    FORMAT: ClassVar[str] = "ssltool/representations/1"

    representations: Tensor
    targets: Tensor
    index: Tensor
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.representations)

    @classmethod
    def load(cls, path_or_paths: FilePath | Sequence[FilePath]) -> Representations:
        """Reads one file (memory-mapped), or several as one, in the order given.

        The paper's files load too: their targets become integers, and rows are numbered from 0.

        Raises:
            SSLToolError: if a file is unreadable, holds no representations or several of each image, has rows
                and targets that do not match, NaN or infinite values, or if the files' widths differ.
        """
        if isinstance(path_or_paths, (str, os.PathLike)):
            return cls._load_one(path_or_paths)
        parts = [cls._load_one(path) for path in path_or_paths]
        if not parts:
            raise SSLToolError("no representation files were given; name at least one")
        widths = [part.representations.shape[1] for part in parts]
        if len(set(widths)) > 1:
            found = ", ".join(f"{path}: {width}" for path, width in zip(path_or_paths, widths, strict=True))
            raise SSLToolError(f"representations of different widths cannot be read as one ({found})")
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
        """One file of one row an image, memory-mapped and in its own precision; raises as ``load`` does."""
        stored = cls.stored(path)
        if stored.representations.dim() == 3:
            views = stored.representations.shape[1]
            raise SSLToolError(f"{path} holds {views} views of each image; save one row an image, without --views")
        if places := stored.meta.get("places"):
            raise SSLToolError(f"{path} holds {places} places of each image; save one row an image, the mean of them")
        refuse_nonfinite_rows(finite_rows(stored.representations), str(path))
        return stored

    @classmethod
    def stored(cls, path: FilePath) -> Representations:
        """One file as it is: memory-mapped, in its own precision, (N, D) or (N, Q, D), with whatever values.

        Raises:
            SSLToolError: if it is unreadable, holds no representations, or its rows and targets do not match.
        """
        contents = load_dict(path, mmap=True)
        rows = contents.get("representations")
        if not isinstance(rows, Tensor) or rows.dim() < 2 or not rows.is_floating_point():
            raise SSLToolError(f"{path} holds no representations; its keys are {first_keys(contents)}")
        many = rows.reshape(-1, rows.shape[-1])
        if rows.dim() > 3 or len(contents.get("targets", many)) == len(many):  # rows by any shape, of patches say
            rows = many
        n = len(rows)
        targets = torch.as_tensor(contents.get("targets", torch.full((n,), -1))).to(torch.int64)
        index = torch.as_tensor(contents.get("index", torch.arange(n))).to(torch.int64)
        if len(targets) != n or len(index) != n:
            raise SSLToolError(
                f"{path}: {n} representations, {len(targets)} targets and {len(index)} indices do not match"
            )
        return cls(rows, targets, index, contents.get("meta", {}))
