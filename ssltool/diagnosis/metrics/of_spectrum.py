"""Metrics of a spectrum: functions of the singular values ``s`` (min(N, d),), in any order.

Unless stated otherwise, they are the singular values of the centred N x d matrix of representations. lambda = s^2 is
proportional to the eigenvalues of the covariance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssltool.errors import SSLToolError

RANKME_EPS = 1e-7

FIRST_RANK, LAST_RANK = 11, 100
"""Range of ranks that ``alpha`` is fitted to. It excludes the few largest values, and noise."""

DEAD_RATIO = 1e-3
"""A direction is dead if its singular value is below this fraction of the largest."""

CODING_EPS2 = 0.5
"""The squared distortion of ``coding_rate``."""

MIN_FITTED_RANKS = 10
"""Smallest number of values for the fit of a power law."""


def auc(s: Tensor) -> float:
    """Area under the cumulative explained variance, Eq. 2 of arXiv:2209.15007: mean_j (sum_{i<=j} s_i / sum s).

    Range [(d + 1) / (2 d), 1] for d values: slightly above 0.5 for a flat spectrum, 1 for complete collapse (rank 1, or
    equal rows). ``measure`` passes the values of the directions that the layer can have (``possible_directions``).
    """
    s = _values(s)
    total = s.sum()
    if total == 0:
        return 1.0
    return float((s.cumsum(0) / total).mean())


def effective_rank(s: Tensor) -> float:
    """exp of the entropy of s / sum s (Roy and Vetterli 2007).

    Range [1, d]: higher is healthier; 0 if all rows are equal.
    """
    s = _values(s)
    total = s.sum()
    if total == 0:
        return 0.0
    return float(torch.exp(torch.special.entr(s / total).sum()))


def rankme(s: Tensor) -> float:
    """exp of the entropy of s / sum s + 1e-7, s of the *uncentred* matrix (Garrido et al., arXiv:2210.02885, Eq. 1).

    Range [1, d]: higher is healthier. Unlike ``effective_rank`` it counts the mean as a direction. 1 for zeros.
    """
    s = _values(s)
    total = s.sum()
    if total == 0:
        return 1.0
    p = s / total + RANKME_EPS
    return float(torch.exp(-(p * p.log()).sum()))


def renyi_rank(s: Tensor, order: float) -> float:
    """exp of the Renyi entropy of ``order`` of lambda / sum lambda: (sum share^order)^(1 / (1 - order)).

    Range [1, d]: higher is healthier; 0 if all rows are equal. The rank falls with the order, because a larger order
    gives the large eigenvalues more weight. Order 1 is the limit, exp of the Shannon entropy; infinity is 1 / the
    largest share. ``effective_rank`` is not on this curve: it is of order 1, but of the shares of the singular values.

    Raises:
        SSLToolError: for an order that is not above 0.
    """
    if not order > 0:
        raise SSLToolError(f"the order of a Renyi entropy must be above 0; found {order}")
    share = _shares(s)
    return 0.0 if share is None else math.exp(_renyi_entropy(share[share > 0], order))


def _renyi_entropy(share: Tensor, order: float) -> float:
    """The Renyi entropy in nats of positive shares in descending order."""
    if order == math.inf:
        return -math.log(float(share[0]))
    if order == 1:
        return float(torch.special.entr(share).sum())
    logs = share.log()
    if abs(order - 1) < 0.5:  # the sum is near 1, and its logarithm near 0
        return float(torch.log1p((share * torch.expm1((order - 1) * logs)).sum())) / (1 - order)
    return float(torch.logsumexp(order * logs, dim=0)) / (1 - order)


def renyi_rank_half(s: Tensor) -> float:
    """``renyi_rank`` of order 1/2, (sum s)^2 / sum s^2.

    Range [1, d]: higher is healthier; 0 if all rows are equal. The square of the ratio of the nuclear norm to the
    Frobenius norm.
    """
    return renyi_rank(s, 0.5)


def matrix_entropy(s: Tensor) -> float:
    """Von Neumann entropy of the covariance divided by its trace, in nats: the entropy of lambda / sum lambda.

    Range [0, log d]: higher is healthier; 0 for one direction, or if all rows are equal. The regulariser of Kim et al.
    (VNE, CVPR 2023, arXiv:2304.01434) is this entropy of L2-normalised rows, not centred.
    """
    share = _shares(s)
    return 0.0 if share is None else _renyi_entropy(share, 1)


def entropy_rank(s: Tensor) -> float:
    """``renyi_rank`` of order 1: exp of ``matrix_entropy``.

    Range [1, d]: higher is healthier; 0 if all rows are equal.
    """
    return renyi_rank(s, 1)


def participation_ratio(s: Tensor) -> float:
    """(sum lambda)^2 / sum lambda^2: ``renyi_rank`` of order 2.

    Range [1, d]: higher is healthier; 0 if all rows are equal. Large eigenvalues have more weight than in
    ``effective_rank``.
    """
    return renyi_rank(s, 2)


def stable_rank(s: Tensor) -> float:
    """sum lambda / lambda_1, called NESum by He and Ozay (ICML 2022): ``renyi_rank`` of order infinity.

    Range [1, d]: higher is healthier; 0 if all rows are equal. Compares the sum of all eigenvalues with the largest.
    """
    return renyi_rank(s, math.inf)


def total_variance(s: Tensor, *, n: int) -> float:
    """Trace of the covariance: the sum of the variances of all dimensions, sum s^2 / (n - 1) for ``n`` rows.

    At least 0, which it is if all rows are equal. It grows with the square of the scale: compare it with that of the
    same network before training.
    """
    return float(_values(s).square().sum()) / max(1, n - 1)


def coding_rate(s: Tensor, *, n: int, d: int, eps2: float = CODING_EPS2) -> float:
    """Coding rate 1/2 logdet(I + d / (n eps^2) X^T X) in nats, ``s`` of the *uncentred* n x d matrix (Yu et al., MCR2,
    arXiv:2006.08558).

    At least 0, which is collapse onto the origin; higher is healthier. It depends on the scale. MCR2 and SimDINO
    (arXiv:2502.10385) take rows of length 1, which ``--normalize`` gives; the rate is then at most
    d / 2 log(1 + 1 / eps^2), and 1/2 log(1 + d / eps^2) for equal rows. ``eps2`` is eps^2, 0.5 as
    in the code of both, which names it eps.
    """
    return 0.5 * float(torch.log1p(d / (n * eps2) * _values(s).square()).sum())


class PowerLaw(float):
    """A fitted exponent, with the range of ranks ``first`` to ``last`` (from 1) and the weighted ``r2`` of the fit."""

    first: int
    last: int
    r2: float

    def __new__(cls, exponent: float, first: int, last: int, r2: float) -> PowerLaw:
        self = super().__new__(cls, exponent)
        self.first, self.last, self.r2 = first, last, r2
        return self

    @property
    def details(self) -> dict[str, object]:
        """Additional results in ``collapse --json``; their keys start with the name of the metric."""
        return {"ranks": [self.first, self.last], "r2": self.r2}


def alpha(s: Tensor, *, first: int = FIRST_RANK, last: int = LAST_RANK, d: int | None = None) -> PowerLaw:
    """Exponent of the power law lambda_j ~ j^-alpha (Agrawal et al., NeurIPS 2022, arXiv:2202.05808).

    Weighted least squares in log-log space, with weights 1 / j, over the ranks ``first`` to ``last``, or to the last
    value above rounding noise (``numerical_rank``). About 1 is what the authors find in networks that transfer well; a
    larger exponent means faster decay. NaN for fewer than ten values.

    Raises:
        SSLToolError: unless 1 <= first < last.
    """
    if not 1 <= first < last:
        raise SSLToolError(f"alpha requires 1 <= first < last; found ranks {first} to {last}")
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
    straight = spread <= (1e-12 * float(s[0].log().abs() + 1)) ** 2  # a flat spectrum up to rounding
    r2 = 1.0 if straight else 1.0 - float((w * (y - slope * x).square()).sum()) / spread
    return PowerLaw(-float(slope), first, last, r2)


def dead_directions(s: Tensor) -> float:
    """Fraction of the values below 0.001 s_1: directions with almost no variance.

    Range [0, 1]: 0 is healthy; 1 if all rows are equal. Not from a paper; see docs/collapse.md. ``measure`` passes the
    values of the directions that the layer can have (``spectrum.possible_directions``).
    """
    s = _values(s)
    return float((s < DEAD_RATIO * s[0]).double().mean()) if s[0] > 0 else 1.0


def numerical_rank(s: Tensor, *, dtype: torch.dtype = torch.float32, d: int | None = None) -> int:
    """Number of values above d eps s_1, with eps of the ``dtype`` in which the representations were computed.

    Range [0, d]. ``d`` is the width, by default the number of values.
    """
    s = _values(s)
    return int((s > (d or len(s)) * torch.finfo(dtype).eps * s[0]).sum())


def condition_number(s: Tensor, *, dtype: torch.dtype = torch.float32, d: int | None = None) -> float:
    """s_1 divided by the smallest value that ``numerical_rank`` counts.

    At least 1, which is a flat spectrum. Values below rounding noise are ignored. NaN if all rows are equal.
    """
    s = _values(s)
    rank = numerical_rank(s, dtype=dtype, d=d)
    return float(s[0] / s[rank - 1]) if rank else math.nan


def _shares(s: Tensor) -> Tensor | None:
    """lambda / sum lambda in descending order, or None if all are 0."""
    s = _values(s)
    if s[0] == 0:
        return None
    squares = (s / s[0]).square()  # divided by the largest to avoid under- and overflow
    return squares / squares.sum()


def _values(s: Tensor) -> Tensor:
    if s.dim() != 1 or not len(s):
        raise SSLToolError(f"a spectrum must be a 1-d tensor of singular values; found shape {tuple(s.shape)}")
    s = s.double().cpu().sort(descending=True).values
    if not bool(torch.isfinite(s).all()) or s[-1] < 0:
        wrong = s[~torch.isfinite(s) | (s < 0)][0]
        raise SSLToolError(f"singular values must be finite and at least 0; found {float(wrong)}")
    return s
