"""Metrics of a spectrum: pure functions of singular values ``s``, (min(N, d),), in any order.

They are those of the centred N x d matrix of representations unless a docstring says otherwise; lambda = s^2 is
proportional to the eigenvalues of the covariance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssltool.errors import SSLToolError

RANKME_EPS = 1e-7

FIRST_RANK, LAST_RANK = 11, 100
"""Ranks between which ``alpha`` is fitted: below are the few large values, above the noise."""

DEAD_RATIO = 1e-3
"""A direction in which rows differ by less than this share of the largest is dead."""

MIN_FITTED_RANKS = 10
"""A power law through fewer values than this would say nothing."""


def auc(s: Tensor) -> float:
    """Area under the cumulative explained variance, Eq. 2 of arXiv:2209.15007: mean_j (sum_{i<=j} s_i / sum s).

    Range [(d + 1) / (2 d), 1] for d values: just above 0.5 is a flat spectrum, 1 complete collapse (rank 1, or all
    rows the same).
    """
    s = _values(s)
    total = s.sum()
    if total == 0:
        return 1.0
    return float((s.cumsum(0) / total).mean())


def effective_rank(s: Tensor) -> float:
    """exp of the entropy of s / sum s (Roy and Vetterli 2007).

    Range [1, d]: higher is healthier; 0 where all rows are the same.
    """
    s = _values(s)
    total = s.sum()
    if total == 0:
        return 0.0
    return float(torch.exp(torch.special.entr(s / total).sum()))


def rankme_of_spectrum(s: Tensor) -> float:
    """``rankme`` from the singular values of the uncentred matrix, where one has them already."""
    s = _values(s)
    total = s.sum()
    if total == 0:
        return 1.0
    p = s / total + RANKME_EPS
    return float(torch.exp(-(p * p.log()).sum()))


def participation_ratio(s: Tensor) -> float:
    """(sum lambda)^2 / sum lambda^2.

    Range [1, d]: higher is healthier; 0 where all rows are the same. Large eigenvalues weigh more than in
    ``effective_rank``.
    """
    share = _shares(s)
    return 0.0 if share is None else float(1.0 / share.square().sum())


def stable_rank(s: Tensor) -> float:
    """sum lambda / lambda_1, called NESum by He and Ozay (ICML 2022).

    Range [1, d]: higher is healthier; 0 where all rows are the same. Only the largest eigenvalue stands against the
    rest.
    """
    share = _shares(s)
    return 0.0 if share is None else float(1.0 / share[0])


class PowerLaw(float):
    """An exponent, with the ranks ``first`` to ``last`` (from 1) that it was fitted to and the weighted ``r2``."""

    first: int
    last: int
    r2: float

    def __new__(cls, exponent: float, first: int, last: int, r2: float) -> PowerLaw:
        self = super().__new__(cls, exponent)
        self.first, self.last, self.r2 = first, last, r2
        return self


def alpha(s: Tensor, *, first: int = FIRST_RANK, last: int = LAST_RANK, d: int | None = None) -> PowerLaw:
    """Exponent of the power law lambda_j ~ j^-alpha (Agrawal et al., NeurIPS 2022, arXiv:2202.05808).

    Least squares in log-log with weights 1 / j over the ranks ``first`` to ``last``, or to the last value above
    rounding (``numerical_rank``). About 1 is what the authors find in networks that transfer well; larger is a
    spectrum that falls faster, smaller a flatter one. NaN where fewer than ten values are left to fit.

    Raises:
        SSLToolError: unless 1 <= first < last.
    """
    if not 1 <= first < last:
        raise SSLToolError(f"alpha is fitted to ranks {first} to {last}; the first must be below the last")
    s = _values(s)
    last = min(last, numerical_rank(s, d=d))
    if last - first + 1 < MIN_FITTED_RANKS:
        return PowerLaw(math.nan, first, last, math.nan)
    ranks = torch.arange(first, last + 1, dtype=torch.float64)
    x, y, w = ranks.log(), 2 * s[first - 1 : last].log(), 1 / ranks
    w = w / w.sum()
    x, y = x - (w * x).sum(), y - (w * y).sum()
    slope = (w * x * y).sum() / (w * x * x).sum()
    spread = float((w * y * y).sum())
    straight = spread <= (1e-12 * float(s[0].log().abs() + 1)) ** 2  # a flat spectrum, but for rounding
    r2 = 1.0 if straight else 1.0 - float((w * (y - slope * x).square()).sum()) / spread
    return PowerLaw(-float(slope), first, last, r2)


def dead_directions(s: Tensor) -> float:
    """Share of the values below 0.001 s_1: directions in which the rows hardly differ.

    Range [0, 1]: 0 is healthy; 1 where all rows are the same. Not from a paper: docs/collapse.md says what it sees.
    """
    s = _values(s)
    return float((s < DEAD_RATIO * s[0]).double().mean()) if s[0] > 0 else 1.0


def numerical_rank(s: Tensor, *, dtype: torch.dtype = torch.float32, d: int | None = None) -> int:
    """How many values are above d eps s_1, eps of the ``dtype`` the representations were computed in.

    Range [0, d]. ``d`` is the width, by default the number of values.
    """
    s = _values(s)
    return int((s > (d or len(s)) * torch.finfo(dtype).eps * s[0]).sum())


def condition_number(s: Tensor, *, dtype: torch.dtype = torch.float32, d: int | None = None) -> float:
    """s_1 over the smallest value that ``numerical_rank`` keeps.

    At least 1, which is a flat spectrum; what falls below rounding does not count. NaN where all rows are the same.
    """
    s = _values(s)
    rank = numerical_rank(s, dtype=dtype, d=d)
    return float(s[0] / s[rank - 1]) if rank else math.nan


def _shares(s: Tensor) -> Tensor | None:
    """lambda / sum lambda, largest first, or None where all are 0."""
    s = _values(s)
    if s[0] == 0:
        return None
    squares = (s / s[0]).square()  # by the largest, so that nothing under- or overflows
    return squares / squares.sum()


def _values(s: Tensor) -> Tensor:
    if s.dim() != 1 or not len(s):
        raise SSLToolError(f"a spectrum is one row of singular values; found shape {tuple(s.shape)}")
    s = s.double().cpu().sort(descending=True).values
    if not bool(torch.isfinite(s).all()) or s[-1] < 0:
        wrong = s[~torch.isfinite(s) | (s < 0)][0]
        raise SSLToolError(f"a spectrum is made of finite values of at least 0; found {float(wrong)}")
    return s
