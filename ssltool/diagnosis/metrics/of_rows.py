"""Metrics of the rows of representations ``x`` (N, d): of their directions (L2-normalised rows), or of all pairs.

Metrics of directions are computed from running sums, ``Directions``: ``x`` may be a matrix, an iterable of blocks of
rows, or the sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ssltool.diagnosis.metrics.of_neighbours import Neighbours
from ssltool.diagnosis.metrics.shared import finite_rows
from ssltool.diagnosis.spectrum import blocks_of
from ssltool.errors import SSLToolError
from ssltool.training.precision import widest_float

Blocks = Tensor | Iterable[Tensor]
"""A matrix (N, d), or an iterable of blocks of its rows."""


def feature_std(x: Blocks | Directions) -> float:
    """Mean over dimensions of the standard deviation of L2-normalised rows, times sqrt(d) (SimSiam, Fig. 2).

    Range [0, about 1]: 1 for uniformly distributed directions, 0 for complete collapse. Collapse to
    a subspace can go undetected.
    """
    return float(_feature_std(Directions.of(x)))


def feature_std_tensor(x: Tensor) -> Tensor:
    """``feature_std`` as a scalar tensor on the device of ``x``, without synchronisation."""
    return _feature_std(Directions.of(x, check=False))


def _feature_std(sums: Directions) -> Tensor:
    variance = sums.squares / sums.rows - (sums.total / sums.rows).square()
    return variance.clamp(min=0.0).sqrt().mean() * len(sums.total) ** 0.5


def mean_cosine(x: Blocks | Directions) -> float:
    """Mean cosine over all pairs of different rows, (norm(sum of unit rows)^2 - N) / (N (N - 1)); exact in O(N d).

    Range [-1 / (N - 1), 1]: 0 for uniformly distributed directions, 1 for complete collapse. Above 0 after a ReLU.
    A row of zeros has no direction, and the cosine 0 with every row.

    Raises:
        SSLToolError: for fewer than two rows.
    """
    sums = _with_pairs(Directions.of(x))
    pairs = sums.rows * (sums.rows - 1)
    return float((sums.total.square().sum() - sums.squares.sum()) / pairs)


def self_cluster(x: Blocks | Directions) -> float:
    """(Q - E) / (N^2 - E) with Q the sum of squared cosines over all pairs and E = N + N (N - 1) / d its expectation
    for uniformly distributed directions (Tsitsulin et al., arXiv:2305.16562).

    Range [-1, 1]: 0 for uniformly distributed directions, slightly below 0 if rows repel each other, 1 for complete
    collapse.

    Raises:
        SSLToolError: for fewer than two rows.
    """
    sums = _with_pairs(Directions.of(x, gram=True))
    n, d = sums.rows, len(sums.total)
    expected = n + n * (n - 1) / d
    if expected == n * n:  # d = 1: every direction is the same up to its sign
        return 1.0
    return (float(sums.gram.square().sum()) - expected) / (n * n - expected)


def w2_uniformity(x: Blocks | Directions) -> float:
    """Wasserstein-2 distance of the L2-normalised rows to N(0, I / d), both taken as Gaussians (Fang et al., ICLR 2024,
    arXiv:2403.00642): sqrt(norm(mu)^2 + 1 + tr S - 2 / sqrt(d) tr S^(1/2)), with mu their mean and S their covariance.

    Range [0, sqrt(2)]: 0 for uniformly distributed directions, sqrt(2) for complete collapse, and
    sqrt(2 - 2 sqrt(k / d)) for directions spread evenly over k of d dimensions. The authors report the negative
    distance. S has N in the denominator, as in their code, which adds 1e-8 to its eigenvalues; here eigenvalues below
    rounding are 0.
    """
    sums = Directions.of(x, gram=True)
    n, d = sums.rows, len(sums.total)
    mean = sums.total / n
    values = torch.linalg.eigvalsh(sums.gram / n - mean.outer(mean)).clamp(min=0.0)
    values = torch.where(values > d * torch.finfo(values.dtype).eps, values, 0.0)
    squared = mean.square().sum() + 1 + values.sum() - 2 / math.sqrt(d) * values.sqrt().sum()
    return math.sqrt(max(0.0, float(squared)))


def mean_norm(x: Blocks | Directions) -> float:
    """Mean Euclidean length of the rows, which are not normalised.

    At least 0, which is collapse onto the origin. Lengths of a healthy network differ by architecture and method:
    compare it with that of the same network before training.
    """
    sums = Directions.of(x)
    return sums.lengths / sums.rows


def _with_pairs(sums: Directions) -> Directions:
    if sums.rows < 2:
        raise SSLToolError(f"this metric requires at least 2 rows; found {sums.rows:g}")
    return sums


class Directions:
    """Running sums over ``rows`` L2-normalised rows: ``total``, ``squares`` and, on request, ``gram``; and ``lengths``,
    the sum of the rows' lengths before that.

    The sums are on the device of the rows, in float64, or float32 on MPS.
    """

    def __init__(self, *, gram: bool = False) -> None:
        self.rows: float = 0
        self.lengths: float = 0
        self._total: Tensor | None = None
        self._squares: Tensor | None = None
        self._gram: Tensor | None = None
        self._wants_gram = gram

    @classmethod
    def of(cls, x: Blocks | Directions, *, gram: bool = False, check: bool = True) -> Directions:
        """The sums over all rows of ``x``, or ``x`` itself if it is such sums.

        Raises:
            SSLToolError: if there are no rows, they are not (N, d), or, if ``check``, values are not finite.
        """
        if isinstance(x, Directions):
            return x
        result = cls(gram=gram)
        for block in blocks_of(x, check=check):
            result.update(block)
        if not result.rows:
            raise SSLToolError("there are no representations; this metric requires at least one row")
        return result

    def update(self, block: Tensor, weights: Tensor | None = None) -> None:
        """Adds rows (n, d), each with an optional weight (n,), its number of occurrences."""
        unit = unit_length(block)
        if self._total is None or self._squares is None:
            self._total = torch.zeros_like(unit[0])
            self._squares = torch.zeros_like(unit[0])
            self._gram = unit.new_zeros(unit.shape[1], unit.shape[1]) if self._wants_gram else None
        weighted = unit if weights is None else unit * weights.to(unit)[:, None]
        self.rows += len(unit) if weights is None else float(weights.sum())
        lengths = torch.linalg.vector_norm(block.to(unit), dim=1)
        self.lengths += float((lengths if weights is None else lengths * weights.to(unit)).sum())
        self._total = self._total + weighted.sum(dim=0)
        self._squares = self._squares + (weighted * unit).sum(dim=0)
        if self._gram is not None:
            self._gram = self._gram + weighted.T @ unit

    def merge(self, other: Directions) -> None:
        """Adds all rows of other sums, of the same width and with a Gram matrix if these have one."""
        if other._total is None or other._squares is None:
            return
        if self._total is None or self._squares is None:
            self._total, self._squares, self._gram = other._total, other._squares, other._gram
        else:
            self._total, self._squares = self._total + other._total, self._squares + other._squares
            if self._gram is not None and other._gram is not None:
                self._gram = self._gram + other._gram
        self.rows += other.rows
        self.lengths += other.lengths

    @property
    def total(self) -> Tensor:
        """The sum of the rows (d,)."""
        return _defined(self._total)

    @property
    def squares(self) -> Tensor:
        """The sum of the element-wise squares of the rows (d,)."""
        return _defined(self._squares)

    @property
    def gram(self) -> Tensor:
        """The sum of the outer products of the rows (d, d)."""
        if not self._wants_gram:
            raise SSLToolError("these directions have no Gram matrix; set needs_gram in the entry of the metric")
        return _defined(self._gram)


def _defined(value: Tensor | None) -> Tensor:
    if value is None:
        raise SSLToolError("there are no representations, so their directions are undefined")
    return value


def uniformity(x: Tensor, *, t: float = 2.0) -> float:
    """log of the mean over pairs of different rows of exp(-t dist^2), of L2-normalised rows (Wang and Isola,
    arXiv:2005.10242).

    Range [-4 t, 0]: lower is more uniform, about -2 t for uniform directions in a wide space; 0 is complete collapse.
    Exact, in blocks: O(N^2 d) time.

    Raises:
        SSLToolError: for fewer than two rows.
    """
    unit = unit_length(finite_rows(x, 2))
    norms = unit.square().sum(dim=1)  # 1, or 0 for rows of zeros
    n, total = len(unit), 0.0
    for block, norm in zip(unit.split(_PAIR_BLOCK), norms.split(_PAIR_BLOCK), strict=True):
        distance = (norm[:, None] + norms - 2 * block @ unit.T).clamp_(min=0.0)
        total += float(torch.exp(-t * distance).sum())
    mean = (total - n) / (n * (n - 1))
    return math.log(mean) if mean > 0 else -math.inf


def twonn(x: Tensor | Neighbours) -> float:
    """Intrinsic dimension from the distances to the two nearest neighbours, N / sum log(r2 / r1) (Facco et al. 2017).

    At least 0: the dimension of the manifold on which the rows lie; low means collapsed. Duplicate rows count once. NaN
    for fewer than three distinct rows. O(N^2 d) time.
    """
    near = Neighbours.of(x, 2)
    if len(near) < 3:
        return math.nan
    total = float((near.distances[:, 1] / near.distances[:, 0]).log().sum())
    return len(near) / total if total > 0 else math.inf


def coherence(x: Tensor) -> float:
    """(N / r) max_i norm(U_i)^2, U the left singular vectors (N, r) of ``x`` (N, d), not centred (Tsitsulin et al.,
    arXiv:2305.16562).

    Range [1, N / r]: 1 if all rows have the same weight in the space that they span, N / r if a row spans a direction
    that no other row has. It does not change if all rows are mapped by an invertible matrix, so it does not show
    collapse. r is the numerical rank; the authors' code uses min(N, d), which differs only for rows of lower rank. NaN
    if all rows are 0. O(N d^2) time.
    """
    x = finite_rows(x)
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    rank = int((s > max(x.shape) * torch.finfo(x.dtype).eps * s[0]).sum())
    return float(u[:, :rank].square().sum(dim=1).max()) * len(x) / rank if rank else math.nan


_PAIR_BLOCK = 1024
"""Number of rows compared with all rows at a time."""


def unit_length(x: Tensor) -> Tensor:
    """L2-normalises the rows of ``x`` (..., d) at any scale, in float64 (float32 on MPS). Rows of zeros stay zero."""
    x = x.to(widest_float(x.device))
    x = x / x.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)
