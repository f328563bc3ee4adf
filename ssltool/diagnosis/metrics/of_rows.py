"""Metrics of representations ``x`` (N, d) that look at their directions: every row counts at length 1.

``Directions`` holds the sums they are made of, so that rows may pass by in blocks.
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

    Range [1, d]: higher is healthier. Unlike ``effective_rank`` it counts the mean as a direction. 1 where all is 0.
    """
    return rankme_of_spectrum(singular_values(x, center=False))


def feature_std(x: Tensor | Iterable[Tensor]) -> float:
    """Mean over dimensions of the standard deviation of L2-normalised rows, times sqrt(d) (SimSiam, Fig. 2).

    Range [0, about 1]: 1 for directions spread evenly, 0 for complete collapse. A collapse onto a subspace can pass it.
    """
    return float(Directions.of(x).feature_std())


def feature_std_tensor(x: Tensor) -> Tensor:
    """``feature_std`` as a scalar tensor on x's device, so that a training step need not wait for it."""
    return Directions.of(x, check=False).feature_std()


def mean_cosine(x: Tensor | Iterable[Tensor]) -> float:
    """Mean cosine over all pairs of different rows, (norm(sum of unit rows)^2 - N) / (N (N - 1)); exact in O(N d).

    Range [-1 / (N - 1), 1]: 0 for directions spread evenly, 1 for complete collapse. Outputs of a ReLU are above 0.

    Raises:
        SSLToolError: for fewer than two rows.
    """
    return Directions.of(x).mean_cosine()


def self_cluster(x: Tensor | Iterable[Tensor]) -> float:
    """(Q - E) / (N^2 - E) with Q the sum of squared cosines over all pairs and E = N + N (N - 1) / d its expectation
    for even directions (Tsitsulin et al., arXiv:2305.16562).

    0 for directions spread evenly, 1 for complete collapse; slightly below 0 where rows repel each other.

    Raises:
        SSLToolError: for fewer than two rows.
    """
    return Directions.of(x, gram=True).self_cluster()


class Directions:
    """Running sums over rows at length 1: their sum (d,), their squares' (d,) and, on request, their d x d Gram matrix.

    All are tensors in float64 on the rows' device, or float32 where that has none.
    """

    def __init__(self, *, gram: bool = False) -> None:
        self.rows: float = 0
        self._total: Tensor | None = None
        self._squares: Tensor | None = None
        self._gram: Tensor | None = None
        self._wants_gram = gram

    @classmethod
    def of(cls, x: Tensor | Iterable[Tensor], *, gram: bool = False, check: bool = True) -> Directions:
        """The sums over all rows of ``x``, a matrix or an iterable of blocks of rows.

        Raises:
            SSLToolError: if there are no rows, they are no (N, d) matrix, or, unless ``check`` is off, not finite.
        """
        result = cls(gram=gram)
        for block in blocks_of(x, check=check):
            result.update(block)
        if not result.rows:
            raise SSLToolError("there are no representations, so their directions are undefined")
        return result

    def update(self, block: Tensor, weights: Tensor | None = None) -> None:
        """Takes in rows (n, d), each as many times as its weight (n,) says."""
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
        """``feature_std`` of the rows so far, a scalar."""
        total, squares = self._sums()
        variance = squares / self.rows - (total / self.rows).square()
        return variance.clamp(min=0.0).sqrt().mean() * len(total) ** 0.5

    def mean_cosine(self) -> float:
        """``mean_cosine`` of the rows so far."""
        total, squares = self._sums(at_least=2)
        pairs = self.rows * (self.rows - 1)
        return float((total.square().sum() - squares.sum()) / pairs)

    def self_cluster(self) -> float:
        """``self_cluster`` of the rows so far; needs ``gram``."""
        total, _ = self._sums(at_least=2)
        if self._gram is None:
            raise RuntimeError("these Directions were made without gram")
        n, d = self.rows, len(total)
        expected = n + n * (n - 1) / d
        if expected == n * n:  # d = 1: every direction is the same up to its sign
            return 1.0
        return (float(self._gram.square().sum()) - expected) / (n * n - expected)

    def _sums(self, at_least: int = 1) -> tuple[Tensor, Tensor]:
        if self._total is None or self._squares is None or self.rows < at_least:
            raise SSLToolError(f"there are {self.rows:g} rows; this metric needs at least {at_least}")
        return self._total, self._squares


def uniformity(x: Tensor, *, t: float = 2.0) -> float:
    """log of the mean over pairs of different rows of exp(-t dist^2), rows at length 1 (Wang and Isola,
    arXiv:2005.10242).

    Range [-4 t, 0] : lower is more even, about -2 t for even directions in a wide space; 0 is complete collapse. Exact,
    in blocks: O(N^2 d) time.

    Raises:
        SSLToolError: for fewer than two rows.
    """
    _at_least(x, 2)
    unit = unit_length(x)
    norms = unit.square().sum(dim=1)  # 1, but for rows of zeros
    n, total = len(unit), 0.0
    for block, norm in zip(unit.split(_PAIR_BLOCK), norms.split(_PAIR_BLOCK), strict=True):
        distance = (norm[:, None] + norms - 2 * block @ unit.T).clamp_(min=0.0)
        total += float(torch.exp(-t * distance).sum())
    mean = (total - n) / (n * (n - 1))
    return math.log(mean) if mean > 0 else -math.inf


def twonn(x: Tensor) -> float:
    """Intrinsic dimension from each row's two nearest others, N / sum log(r2 / r1) (Facco et al. 2017).

    At least 0: the dimension of the surface on which the rows lie, however it is bent; low means collapsed. Repeated
    rows count once. NaN where fewer than three different rows are left. O(N^2 d) time.
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
        near = distance.topk(min(n, 8), largest=False).indices  # the exact distances decide among these
        exact = (x[rows, None] - x[near]).square().sum(dim=2)
        own = near == torch.arange(start, start + len(near), device=x.device)[:, None]
        nearest = exact.masked_fill(own, math.inf).sort(dim=1).values
        total += 0.5 * float((nearest[:, 1] / nearest[:, 0]).log().sum())
    return n / total if total > 0 else math.inf


_PAIR_BLOCK = 1024
"""Rows that are compared with all others at a time."""


def unit_length(x: Tensor) -> Tensor:
    """``x`` (..., d) with rows of length 1 whatever their scale, in the widest float; rows of zeros stay zeros."""
    x = x.to(widest_float(x.device))
    x = x / x.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=1e-12)


def _at_least(x: Tensor, rows: int) -> None:
    if x.dim() != 2 or len(x) < rows:
        raise SSLToolError(f"representations must be (N, d) with at least {rows} rows; found shape {tuple(x.shape)}")
    check_finite(x)
