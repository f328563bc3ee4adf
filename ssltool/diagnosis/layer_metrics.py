"""The metrics of a look at the outputs (N, d) of a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ssltool.diagnosis.alarms import DEAD_KEY
from ssltool.diagnosis.kinds import SCALE
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics import MAIN
from ssltool.diagnosis.metrics.of_clusters import Clusters
from ssltool.diagnosis.row_blocks import Rows
from ssltool.diagnosis.verdict import NEEDED
from ssltool.reprs.neighbours.search import neighbours
from ssltool.reprs.neighbours.vote import predicted_classes

MEASURED = tuple(dict.fromkeys((*MAIN, *NEEDED, *SCALE)))
"""The metrics of each layer, which one pass over the rows gives."""

KNN_NEIGHBOURS = 20
"""Maximum number of neighbours that vote on the class of an image."""


def measured_layer(
    x: Tensor, bound: int | None = None, names: Sequence[str] = MEASURED, labels: Tensor | None = None
) -> tuple[dict[str, float], Tensor | None]:
    """The metrics ``names`` and the number of dead dimensions of outputs (N, d) whose rank is at most ``bound``, and
    their singular values; NaN and None if they are not finite."""
    if not bool(torch.isfinite(x).all()):
        return dict.fromkeys((*names, DEAD_KEY), math.nan), None
    x = x.cpu() if x.device.type == "mps" else x  # Apple's GPUs have no float64
    known = None if labels is None else [labels.to(x.device)]
    measured = measure(Rows([x], device=x.device, labels=known), names, bound=bound)
    kept = {name: value for name, value in measured.numbers.items() if name in (*names, "clusters_used")}
    return kept | {DEAD_KEY: len(measured.dead)}, measured.s


def prototype_usage(x: Tensor, prototypes: Tensor) -> dict[str, float]:
    """How many of the prototypes (K, d) are the nearest of some output (N, d): ``clusters_used``, exp of the entropy of
    their shares, ``cluster_usage``, that as a share of the min(K, N) that there can be, and ``empty_clusters``, the
    share of these without a row. NaN if outputs are not finite."""
    if not bool(torch.isfinite(x).all() and torch.isfinite(prototypes).all()):
        return dict.fromkeys(("cluster_usage", "empty_clusters", "clusters_used"), math.nan)
    sizes = Clusters.of_prototypes(x.cpu(), prototypes.cpu()).sizes()
    most, used = min(len(sizes), len(x)), float(torch.special.entr(sizes.double() / len(x)).sum().exp())
    empty = 1 - int((sizes > 0).sum()) / most
    return {"cluster_usage": used / most, "empty_clusters": empty, "clusters_used": used}


def knn_accuracy(x: Tensor, labels: Tensor) -> dict[str, float]:
    """``knn``: leave-one-out kNN accuracy of the labelled rows (N, d). Empty for fewer than two classes, NaN if rows
    are not finite."""
    labelled = labels >= 0
    known, classes = labels[labelled].unique(return_inverse=True)
    if len(known) < 2:
        return {}
    rows, ids = x[labelled.to(x.device)], torch.arange(len(classes))
    if not bool(torch.isfinite(rows).all()):
        return {"knn": math.nan}
    k = min(KNN_NEIGHBOURS, len(rows) - 1)
    similarity, nearest = neighbours(rows, rows, k=k, skip=(ids, ids), device=x.device)
    predicted = predicted_classes(similarity, classes[nearest], len(known))[:, -1]
    return {"knn": float((predicted == classes).double().mean())}
