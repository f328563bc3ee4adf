"""The file of cluster assignments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ssltool.files import Stored
from ssltool.files.schema import entry, mapping, nested, tensor
from ssltool.settings import Record


@dataclass
class Clusters(Stored):
    """The cluster of each image.

    Attributes:
        assignments: cluster index (N,), int64.
        confidence: probability of that cluster (N,), float32; NaN for k-means.
        targets: labels (N,), int64; -1 for unlabelled images.
        index: number of each image in its dataset (N,), int64.
        meta: the step, its settings, and the agreement with the classes.
    """

    FORMAT: ClassVar[str] = "ssltool/clusters/1"

    assignments: Tensor = entry(tensor("N", kinds="integer"))
    confidence: Tensor = entry(tensor("N", kinds="floating"))
    targets: Tensor = entry(tensor("N", kinds="integer"))
    index: Tensor = entry(tensor("N", kinds="integer"))
    meta: Record = entry(mapping(other=nested()), default_factory=dict)
