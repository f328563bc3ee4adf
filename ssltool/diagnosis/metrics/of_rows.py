"""Metrics of the directions of representations ``x`` (N, d): rows are L2-normalised.

``Directions`` accumulates the sums that the metrics need, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ssltool.diagnosis.metrics.of_spectrum import rankme_of_spectrum
from ssltool.diagnosis.spectrum import blocks_of, check_finite, singular_values
from ssltool.errors import SSLToolError
from ssltool.training.precision import widest_float


def rankme(x: Tensor | Iterable[Tensor]) -> float:
    """exp of the entropy of s / sum s + 1e-7, s of the *uncentred* matrix (Garrido et al., arXiv:2210.02885, Eq. 1).

    Range [1, d]: higher is healthier. Unlike ``effective_rank`` it counts the mean as a direction. 1 for zeros.
    """
    return rankme_of_spectrum(singular_values(x, center=False))


def feature_std(x: Tensor | Iterable[Tensor]) -> float:
    """Mean over dimensions of the standard deviation of L2-normalised rows, times sqrt(d) (SimSiam, Fig. 2).

    Range [0, about 1]: 1 for uniformly distributed directions, 0 for complete collapse. Collapse to
    a subspace can go undetected.
    """
    return float(Directions.of(x).feature_std())


def feature_std_tensor(x: Tensor) -> Tensor:
    """``feature_std`` as a scalar tensor on the device of ``x``, without synchronisation."""
    return Directions.of(x, check=False).feature_std()


def mean_cosine(x: Tensor | Iterable[Tensor]) -> float:
    """Mean cosine over all pairs of different rows, (norm(sum of unit rows)^2 - N) / (N (N - 1)); exact in O(N d).

    Range [-1 / (N - 1), 1]: 0 for uniformly distributed directions, 1 for complete collapse. Above 0 after a ReLU.

    Raises:
        SSLToolError: for fewer than two rows.
    """
    return Directions.of(x).mean_cosine()


def self_cluster(x: Tensor | Iterable[Tensor]) -> float:
    """(Q - E) / (N^2 - E) with Q the sum of squared cosines over all pairs and E = N + N (N - 1) / d its expectation
    for uniformly distributed directions (Tsitsulin et al., arXiv:2305.16562).

    0 for directions distributed uniformly, 1 for complete collapse; slightly below 0 if rows repel each other.

    Raises:
        SSLToolError: for fewer than two rows.
    """
    return Directions.of(x, gram=True).self_cluster()


class Directions:
    """Running sums of L2-normalised rows: their sum (d,), sum of squares (d,) and, with ``gram``, d x d Gram matrix.

    The sums are on the device of the rows, in float64, or float32 on MPS.
    """

    def __init__(self, *, gram: bool = False) -> None:
        self.rows: float = 0
        self._total: Tensor | None = None
        self._squares: Tensor | None = None
        self._gram: Tensor | None = None
        self._wants_gram = gram

    @classmethod
    def of(cls, x: Tensor | Iterable[Tensor], *, gram: bool = False, check: bool = True) -> Directions:
        """The sums over all rows of ``x``, a matrix or an iterable of row blocks.

        Raises:
            SSLToolError: if there are no rows, they are not (N, d), or, if ``check``, values are not finite.
        """
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
        self._total = self._total + weighted.sum(dim=0)
        self._squares = self._squares + (weighted * unit).sum(dim=0)
        if self._gram is not None:
            self._gram = self._gram + weighted.T @ unit

    def feature_std(self) -> Tensor:
        """``feature_std`` of all rows, a scalar tensor."""
        total, squares = self._sums()
        variance = squares / self.rows - (total / self.rows).square()
        return variance.clamp(min=0.0).sqrt().mean() * len(total) ** 0.5

    def mean_cosine(self) -> float:
        """``mean_cosine`` of all rows."""
        total, squares = self._sums(at_least=2)
        pairs = self.rows * (self.rows - 1)
        return float((total.square().sum() - squares.sum()) / pairs)

    def self_cluster(self) -> float:
        """``self_cluster`` of all rows; requires ``gram``."""
        total, _ = self._sums(at_least=2)
        if self._gram is None:
            raise RuntimeError("self_cluster requires Directions(gram=True)")
        n, d = self.rows, len(total)
        expected = n + n * (n - 1) / d
        if expected == n * n:  # d = 1: all directions are equal up to sign
            return 1.0
        return (float(self._gram.square().sum()) - expected) / (n * n - expected)

    def _sums(self, at_least: int = 1) -> tuple[Tensor, Tensor]:
        if self._total is None or self._squares is None or self.rows < at_least:
            raise SSLToolError(f"this metric requires at least {at_least} rows; found {self.rows:g}")
        return self._total, self._squares


def uniformity(x: Tensor, *, t: float = 2.0) -> float:
    """log of the mean over pairs of different rows of exp(-t dist^2), of L2-normalised rows (Wang and Isola,
    arXiv:2005.10242).

    Range [-4 t, 0]: lower is more uniform, about -2 t for uniform directions in a wide space; 0 is complete collapse.
    Exact, in blocks: O(N^2 d) time.

    Raises:
        SSLToolError: for fewer than two rows.
    """
    _at_least(x, 2)
    unit = unit_length(x)
    norms = unit.square().sum(dim=1)  # 1, or 0 for rows of zeros
    n, total = len(unit), 0.0
    for block, norm in zip(unit.split(_PAIR_BLOCK), norms.split(_PAIR_BLOCK), strict=True):
        distance = (norm[:, None] + norms - 2 * block @ unit.T).clamp_(min=0.0)
        total += float(torch.exp(-t * distance).sum())
    mean = (total - n) / (n * (n - 1))
    return math.log(mean) if mean > 0 else -math.inf


def twonn(x: Tensor) -> float:
    """Intrinsic dimension from the distances to the two nearest neighbours, N / sum log(r2 / r1) (Facco et al. 2017).

    At least 0: the dimension of the manifold on which the rows lie; low means collapsed. Duplicate rows count once. NaN
    for fewer than three distinct rows. O(N^2 d) time.
    """
    _at_least(x, 1)
    x = torch.unique(x.to(widest_float(x.device)), dim=0)
    n = len(x)
    if n < 3:
        return math.nan
    x = x - x.mean(dim=0)
    norms = x.square().sum(dim=1)
    total = 0.0
    for start in range(0, n, _PAIR_BLOCK):
        rows = slice(start, start + _PAIR_BLOCK)
        distance = norms[rows, None] + norms - 2 * x[rows] @ x.T
        near = distance.topk(min(n, 8), largest=False).indices  # candidates, ranked by exact distances
        exact = (x[rows, None] - x[near]).square().sum(dim=2)
        own = near == torch.arange(start, start + len(near), device=x.device)[:, None]
        nearest = exact.masked_fill(own, math.inf).sort(dim=1).values
        total += 0.5 * float((nearest[:, 1] / nearest[:, 0]).log().sum())
    return n / total if total > 0 else math.inf


_PAIR_BLOCK = 1024
"""Number of rows compared with all rows at a time."""


def unit_length(x: Tensor) -> Tensor:
    """L2-normalises the rows of ``x`` (..., d) at any scale, in float64 (float32 on MPS). Rows of zeros stay zero."""
    x = x.to(widest_float(x.device))
    x = x / x.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)


def _at_least(x: Tensor, rows: int) -> None:
    if x.dim() != 2 or len(x) < rows:
        raise SSLToolError(f"representations must be (N, d) with at least {rows} rows; found shape {tuple(x.shape)}")
    check_finite(x)
