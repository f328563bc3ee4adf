"""The file format of nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ssltool.files.schema import entry, integer, mapping, nested, optional, real, tensor, text
from ssltool.files.stored import Stored

META = {"k": integer(1), "accuracy": optional(real(0, 1)), "metric": text(200)}


@dataclass
class Neighbours(Stored):
    """The nearest rows of a bank to each query, nearest first.

    Attributes:
        indices: (N, k) int64, rows of the bank's file; -1 where there are fewer than k.
        distances: (N, k) float32, 1 - cosine or Euclidean according to ``meta["metric"]``; inf where there are fewer.
        index: (N,) int64, the numbers of the queries' images in their dataset.
        bank_index: (N, k) int64, the numbers of the neighbours' images in their dataset.
        meta: where the rows come from.
    """

    FORMAT: ClassVar[str] = "ssltool/neighbours/1"

    indices: Tensor = entry(tensor("N", "k", kinds="integer", filled=True))
    distances: Tensor = entry(tensor("N", "k", kinds="floating"))
    index: Tensor = entry(tensor("N", kinds="integer"))
    bank_index: Tensor = entry(tensor("N", "k", kinds="integer"))
    meta: dict[str, Any] = entry(mapping(optional=META, other=nested()), default_factory=dict)
