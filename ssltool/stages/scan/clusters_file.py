"""The file of cluster assignments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from ssltool.files import Record, Stored


@dataclass
class Clusters(Stored):
    """Which cluster each image is in: ``assignments`` (N,) int64, ``confidence`` (N,) float32, its probability, NaN
    where there is none, ``targets`` (N,) int64 with -1 where unlabelled, ``index`` (N,) int64, the image's number in
    its dataset, and ``meta``, how they were made and how well they agree with the classes.
    """

    FORMAT: ClassVar[str] = "ssltool/clusters/1"

    assignments: Tensor
    confidence: Tensor
    targets: Tensor
    index: Tensor
    meta: Record = field(default_factory=dict)
