"""The file of nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ssltool.files import Stored


@dataclass
class Neighbours(Stored):
    """The nearest rows of a bank to each query, nearest first: ``indices`` (N, k) int64, rows of the bank's file, and
    ``distances`` (N, k) float32, 1 - cosine or Euclidean as ``meta["metric"]`` says; -1 and inf where there are fewer
    than k. ``index`` (N,) int64 are the queries' and ``bank_index`` (N, k) the neighbours' numbers in their datasets.
    """

    FORMAT: ClassVar[str] = "ssltool/neighbours/1"

    indices: Tensor
    distances: Tensor
    index: Tensor
    bank_index: Tensor
    meta: dict[str, Any] = field(default_factory=dict)
