"""The file of cluster assignments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ssltool.files.schema import entry, integer, listing, mapping, nested, optional, real, tensor, text
from ssltool.files.stored import Stored
from ssltool.settings import Record

SCORES = {
    **dict.fromkeys(("clusters", "images"), integer(1)),
    **dict.fromkeys(("classes", "empty"), integer(0)),
    **dict.fromkeys(("accuracy", "majority", "nmi", "ari", "confident"), optional(real())),
    "sizes": listing(integer(0), minimum=1),
    "scored_on": text(200),
}
"""The scores of a step in ``meta``."""


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
    meta: Record = entry(mapping(optional=SCORES, other=nested()), default_factory=dict)
