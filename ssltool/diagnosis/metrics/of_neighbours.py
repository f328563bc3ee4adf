"""Metrics of nearest neighbours: local and global intrinsic dimension, and hubness. Each takes rows ``x`` (N, d) or
their ``Neighbours``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.diagnosis.metrics.shared import Detailed, checked_rows

NEAREST = 20
"""Number of neighbours of ``local_dimension``, the default of its source's code for the similar maximum likelihood."""

HUB_NEAREST = 10
"""Number of neighbours of ``hubness``, as in its source."""

SPARE = 8
"""Additional candidates, so that rounding in the matrix product hides no neighbour."""

QUERIES = 512
"""Number of rows compared with all rows at a time."""

EXACT = 1 << 22
"""Number of values for which differences of rows are computed at a time."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest other rows of each of n different rows; duplicates count once.

    Attributes:
        distances: Euclidean distances (n, k), float64, nearest first; k is at most n - 1.
        numbers: the numbers (n, k) of the nearest rows.
    """

    distances: Tensor
    numbers: Tensor

    def __len__(self) -> int:
        return len(self.distances)

    @classmethod
    def of(cls, x: Tensor | Neighbours, k: int = NEAREST) -> Neighbours:
        """The ``k`` nearest rows of each row of ``x`` (N, d), or ``x`` itself if it is such neighbours. O(N^2 d) time.

        Candidates come from a matrix product, their distances from the differences of the rows. So rows nearer than
        1e-7 of the spread of all rows may be taken for one another, but no distance is imprecise.

        Raises:
            SSLToolError: unless ``x`` is a matrix of finite values.
        """
        if isinstance(x, Neighbours):
            return x
        rows = torch.unique(checked_rows(x), dim=0)
        n = len(rows)
        k = min(k, n - 1)
        norms = rows.square().sum(dim=1)
        distances, numbers = rows.new_empty(n, k), torch.empty(n, k, dtype=torch.long, device=rows.device)
        for start in range(0, n if k else 0, QUERIES):
            some = slice(start, start + QUERIES)
            product = norms - 2 * rows[some] @ rows.T  # the squared distances less the norms of these rows
            product.diagonal(start).fill_(math.inf)
            near = product.topk(min(n - 1, k + SPARE), largest=False).indices.sort(dim=1).values
            exact, order = _distances(rows[some], rows, near).sort(dim=1, stable=True)
            distances[some], numbers[some] = exact[:, :k], near.gather(1, order[:, :k])
        return cls(distances, numbers)


def _distances(queries: Tensor, x: Tensor, near: Tensor) -> Tensor:
    """The distances (q, k) of ``queries`` (q, d) to the rows ``near`` (q, k) of ``x``, from their differences."""
    step = max(1, EXACT // (near.shape[1] * x.shape[1]))
    parts = zip(queries.split(step), near.split(step), strict=True)
    return torch.cat([torch.linalg.vector_norm(some[:, None] - x[rows], dim=2) for some, rows in parts])


def local_dimension(x: Tensor | Neighbours) -> Detailed:
    """Geometric mean over the rows of the local intrinsic dimension by the method of moments, m / (a - m), m the mean
    distance to the k - 1 nearest rows and a that to the k-th (Huang et al., LDReg, ICLR 2024, arXiv:2401.10474).

    At least 0: low means local collapse, that the neighbourhoods of rows lie in few dimensions. k is 20, or the number
    of other rows if that is lower. Duplicate rows count once. Rows whose k nearest are all equally far, such as a
    distant outlier, have no finite dimension: the detail ``infinite`` is their number, and the mean is that of the
    others; infinite if there are none. NaN for fewer than three distinct rows. The paper estimates it within batches;
    both N and k change the value. O(N^2 d) time.
    """
    near = Neighbours.of(x)
    if len(near) < 3:
        return Detailed(math.nan, infinite=0)
    mean, last = near.distances[:, :-1].mean(dim=1), near.distances[:, -1]
    known = last - mean > 8 * torch.finfo(last.dtype).eps * last
    infinite = int((~known).sum())
    if infinite == len(near):
        return Detailed(math.inf, infinite=infinite)
    return Detailed(float((mean / (last - mean))[known].log().mean().exp()), infinite=infinite)


def hubness(x: Tensor | Neighbours) -> float:
    """Skewness of the number of rows that have a row among their 10 nearest neighbours (Radovanovic et al., JMLR 2010).

    Range [-sqrt(N), sqrt(N)], usually positive: 0 if all rows are neighbours of equally many others, large if a few
    hubs are neighbours of most. It grows with the intrinsic dimension, and with N. With 10 or fewer other rows, all of
    them are neighbours, and it is 0. Duplicate rows count once. NaN for fewer than three distinct rows. O(N^2 d) time.
    """
    near = Neighbours.of(x, HUB_NEAREST)
    if len(near) < 3:
        return math.nan
    counts = torch.bincount(near.numbers[:, :HUB_NEAREST].flatten(), minlength=len(near)).double()
    deviations = counts - counts.mean()
    variance = float(deviations.square().mean())
    return float(deviations.pow(3).mean()) / variance**1.5 if variance > 0 else 0.0
