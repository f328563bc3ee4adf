"""Spherical k-means: clusters of directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssltool.errors import SSLToolError
from ssltool.training.precision import without_autocast

ROWS_PER_BLOCK = 65536
"""Number of rows compared with the centroids at a time."""

SAME_DIRECTION = 1e-12
"""Unit rows whose squared distance is at most this are one direction: float32 hardly tells them apart."""


@torch.no_grad()
@without_autocast
def spherical_kmeans(
    rows: Tensor,
    count: int,
    iterations: int = 10,
    generator: torch.Generator | None = None,
    centroids: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Spherical k-means of unit ``rows`` (N, D): ``count`` unit centroids (K, D), and each row's cluster index (N,).

    The initial ``centroids`` are by default ``count`` rows, sampled by a CPU generator. A centroid without rows, or
    whose rows sum to 0, is not updated.

    Raises:
        SSLToolError: if there are fewer rows than clusters.
    """
    if len(rows) < count:
        raise SSLToolError(
            f"k-means needs at least as many rows as clusters; found {len(rows)} rows and {count} clusters"
        )
    if centroids is None:
        centroids = rows[torch.randperm(len(rows), generator=generator)[:count].to(rows.device)]
    for _ in range(iterations):
        nearest = _nearest(rows, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, rows)
        length = sums.norm(dim=1, keepdim=True)
        centroids = torch.where(length > 0, F.normalize(sums, dim=1), centroids)
    return centroids, _nearest(rows, centroids)


@torch.no_grad()
@without_autocast
def distant_rows(rows: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Initial centroids (K, D) for k-means of unit ``rows`` (N, D), by k-means++ (Arthur and Vassilvitskii 2007).

    Each next centroid is a row, drawn with a probability that is proportional to its squared distance to the nearest
    centroid so far. K is ``count``, or the number of different directions if that is lower.
    """
    squares = rows.square().sum(dim=1)
    nearest, chosen = torch.full_like(squares, torch.inf), list[int]()
    shares = torch.ones_like(squares)
    while len(chosen) < min(count, len(rows)) and bool(shares.sum() > 0):
        drawn = torch.rand((), generator=generator, dtype=torch.float64).to(shares) * shares.sum()
        chosen.append(min(int((shares.cumsum(dim=0) <= drawn).sum()), int(shares.nonzero()[-1])))
        new = rows[chosen[-1]]
        nearest = torch.minimum(nearest, squares + squares[chosen[-1]] - 2 * rows @ new)
        shares = torch.where(nearest > SAME_DIRECTION, nearest, torch.zeros_like(nearest))
    return rows[chosen]


def _nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    return torch.cat([(block @ centroids.mT).argmax(dim=1) for block in rows.split(ROWS_PER_BLOCK)])
