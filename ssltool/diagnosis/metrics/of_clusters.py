"""Metrics of clusters: how many of them are used, and how easily the nearest rows show the cluster of a row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool import seeds
from ssltool.diagnosis.metrics.of_rows import unit_length
from ssltool.diagnosis.metrics.shared import Detailed, from_centre
from ssltool.errors import SSLToolError
from ssltool.reprs.nonfinite import refuse_nonfinite
from ssltool.reprs.spherical_kmeans import distant_rows, spherical_kmeans

ITERATIONS = 20
"""Iterations of k-means."""

MOST = 100
"""Default number of clusters, if there are enough rows."""

ROWS_PER_CLUSTER = 10
"""Rows per cluster on average that the default number of clusters leaves."""

QUERIES = 1024
"""Number of rows compared with earlier rows at a time."""


@dataclass(frozen=True)
class Clusters:
    """Rows and their clusters.

    Attributes:
        rows: L2-normalised rows (N, d), float64.
        shares: assignments (N, K): the share of each row in each cluster, each row sums to 1; None if each row belongs
            to one cluster.
        assigned: the cluster (N,) of each row, in 0 .. K - 1; that with the largest share.
        count: K.
        seed: seed of the random order of ``cluster_learnability``.
    """

    rows: Tensor
    assigned: Tensor
    count: int
    shares: Tensor | None = None
    seed: int = 0

    @classmethod
    def of(cls, x: Tensor | Clusters, count: int | None = None, seed: int = 0) -> Clusters:
        """Clusters of the directions of ``x`` (N, d) by spherical k-means, which starts with k-means++; or ``x`` itself
        if it is such clusters.

        ``count`` is K, by default 100, or a tenth of the rows if that is less, but at least 2. They depend neither on
        the order of the rows nor on rotations.

        Raises:
            SSLToolError: for fewer rows than clusters, or values that are not finite.
        """
        if isinstance(x, Clusters):
            return x
        refuse_nonfinite(x)
        count = min(len(x), default_count(len(x))) if count is None else count
        if not 1 <= count <= len(x):
            raise SSLToolError(f"{len(x):,} rows cannot have {count:,} clusters; choose 1 to {len(x):,}")
        unit = unit_length(x)
        order = from_centre(unit)
        start = distant_rows(unit[order], count, seeds.generator(seed, seeds.Stream.CLUSTERS))
        _, found = spherical_kmeans(unit[order], len(start), ITERATIONS, centroids=start)
        return cls(unit, torch.empty_like(found).index_copy_(0, order, found), count, seed=seed)

    @classmethod
    def of_prototypes(cls, x: Tensor, prototypes: Tensor, temperature: float | None = None) -> Clusters:
        """The rows ``x`` (N, d), each in the cluster of the ``prototypes`` (K, d) with the largest cosine.

        With a ``temperature``, the shares are the softmax of the cosines divided by it.

        Raises:
            SSLToolError: for different widths, or values that are not finite.
        """
        if x.dim() != 2 or prototypes.dim() != 2 or x.shape[1] != prototypes.shape[1]:
            raise SSLToolError(f"rows {tuple(x.shape)} and prototypes {tuple(prototypes.shape)} differ in width")
        refuse_nonfinite(x)
        refuse_nonfinite(prototypes)
        unit = unit_length(x)
        cosines = unit @ unit_length(prototypes).to(unit).T
        shares = None if temperature is None else (cosines / temperature).softmax(dim=1)
        return cls(unit, cosines.argmax(dim=1), len(prototypes), shares)

    def sizes(self) -> Tensor:
        """The number of rows (K,) in each cluster."""
        return torch.bincount(self.assigned, minlength=self.count)


def default_count(rows: int) -> int:
    """The default number of clusters of so many ``rows``."""
    return max(2, min(MOST, rows // ROWS_PER_CLUSTER))


def cluster_usage(x: Tensor | Clusters) -> Detailed:
    """exp of the entropy of the mean assignment, divided by the number K of clusters: the share of the clusters that is
    in use (perplexity; cluster collapse in Sansone et al., ICML 2025, arXiv:2410.04959).

    Range [0, 1]: 1 if all clusters have equal shares, 1/K if all rows are in one. Clusters are those of spherical
    k-means, or of prototypes. k-means itself divides large clusters, so it shows cluster collapse only where rows have
    fewer directions than clusters; prototypes show it fully. For soft assignments, the detail ``row_entropy`` is the
    mean entropy of the shares of one row, in nats: log K if the assignments are uniform.
    """
    clusters = Clusters.of(x)
    shares = clusters.shares
    mean = clusters.sizes().double() / len(clusters.rows) if shares is None else shares.mean(dim=0)
    value = float(torch.special.entr(mean).sum().exp()) / clusters.count
    details = {} if shares is None else {"row_entropy": float(torch.special.entr(shares).sum(dim=1).mean())}
    return Detailed(value, clusters=clusters.count, **details)


def empty_clusters(x: Tensor | Clusters) -> float:
    """Share of the clusters to which no row belongs (arXiv:2410.04959, as ``cluster_usage``).

    Range [0, 1): 0 is healthy.
    """
    clusters = Clusters.of(x)
    return float((clusters.sizes() == 0).double().mean())


def cluster_learnability(x: Tensor | Clusters) -> float:
    """Accuracy of predicting the cluster of each row as that of the nearest of the rows before it, in random order (Lu
    et al., arXiv:2206.01251): the accuracy of an online nearest-neighbour classifier, averaged over its training.

    Range [0, 1]: higher is more learnable. It is also 1 for complete collapse, where all rows have one cluster, so the
    paper adds the intrinsic dimension: ``clid``. Nearest is by cosine. The number of neighbours and of clusters are
    this project's. NaN for a single row. O(N^2 d) time.
    """
    clusters = Clusters.of(x)
    n = len(clusters.rows)
    if n < 2:
        return math.nan
    order = torch.randperm(n, generator=seeds.generator(clusters.seed, seeds.Stream.METRICS))
    order = from_centre(clusters.rows)[order.to(clusters.rows.device)]
    rows, labels = clusters.rows[order], clusters.assigned[order]
    right = -1  # the first row, which is compared with itself
    for start in range(0, n, QUERIES):
        block = slice(start, min(n, start + QUERIES))
        cosines = rows[block] @ rows[: block.stop].T
        later = torch.ones_like(cosines, dtype=torch.bool).triu(start)
        nearest = cosines.masked_fill_(later, -math.inf).argmax(dim=1)
        right += int((labels[nearest] == labels[block]).sum())
    return right / (n - 1)
