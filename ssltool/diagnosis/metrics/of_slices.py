"""Metrics of slices: projections of the rows ``x`` (N, d) onto random directions, compared with a standard normal.

The directions depend on d only, so that values of one width can be compared. A statistic depends on N and d even for
rows of N(0, I): its z-score is its distance from the mean over such rows, in standard deviations over such rows.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.special import gammaln, ndtr, ndtri, spence
from scipy.stats import binom, norm
from torch import Tensor

from ssltool.diagnosis.metrics.shared import finite_rows
from ssltool.diagnosis.slices import epps_pulley, knots, squared_w2

SLICES = 256
"""Number of directions, as in the published minimal code of LeJEPA."""

MIN_STD = 1e-6
"""Smallest standard deviation that ``sliced_w2`` divides by, as in the code of VISReg."""

TERMS = 40
"""Terms of the power series of ``sigreg_null``, in which the argument of cosh is at most 18."""

NULL_STEP = 0.05
"""Step of the integral over the normal distribution, of which [0, 10] is integrated."""


def slice_directions(d: int, count: int = SLICES) -> Tensor:
    """``count`` random unit directions (d, count) float64, the same for the same d."""
    drawn = torch.from_numpy(np.random.RandomState(0).standard_normal((d, count)))
    return drawn / torch.linalg.vector_norm(drawn, dim=0)


def sigreg(x: Tensor) -> float:
    """SIGReg of LeJEPA (Balestriero and LeCun, arXiv:2511.08544): the mean over directions a of the Epps-Pulley
    statistic N int abs(phi(t) - exp(-t^2 / 2))^2 exp(-t^2 / 2) dt, with phi the empirical characteristic function of
    X a.

    At least 0: lower is nearer to N(0, I), for which it is about 1 at any N. The rows are not standardised: their mean
    and scale count. The integral is that of the published code: 17 knots on [0, 3], doubled. It grows in proportion to
    N for rows that are not standard normal. O(N d) time and memory for 256 directions.
    """
    z = finite_rows(x, 2)
    return float(epps_pulley(z @ slice_directions(z.shape[1]).to(z)).mean())


def sigreg_z(x: Tensor) -> float:
    """``sigreg`` as a z-score: (value - mean) / standard deviation over rows of N(0, I), of the same N and d.

    At least about -13: about 0 for standard normal rows, above 4 if they are not; with fewer than about ten dimensions
    it may exceed 4 by chance. Mean and standard deviation are exact (``sigreg_null``).
    """
    value = sigreg(x)
    mean, std = sigreg_null(*x.shape)
    return (value - mean) / std


@lru_cache(maxsize=64)
def sigreg_null(n: int, d: int) -> tuple[float, float]:
    """Mean and standard deviation of ``sigreg`` over ``n`` rows of N(0, I) in d dimensions, in closed form.

    For one direction, the statistic is the mean over all N^2 pairs of rows, times N, of a kernel h(x, y) with
    E h(x, Y) = 0. So its mean is E h(X, X). The covariance of two directions with cosine r is
    cov(h(U, U), h(V, V)) / N + 2 (N - 1) / N E h(U, U') h(V, V'), with U and V standard normal with correlation r. Both
    follow from the covariances of cos(t U) and cos(s V), exp(-(t^2 + s^2) / 2) (cosh(t s r) - 1), and of the sines,
    exp(-(t^2 + s^2) / 2) sinh(t s r), as power series in r^2.
    """
    t, weights = (of.numpy() for of in knots())
    phi = np.exp(-np.square(t) / 2)
    term = np.outer(weights * np.square(phi), weights * np.square(phi))
    products, directions = np.square(np.outer(t, t)), slice_directions(d).numpy()
    squares = np.square(directions.T @ directions)
    power, variance = np.ones_like(squares), 0.0
    for k in range(1, TERMS + 1):
        power, term = power * squares, term * products / (2 * k * (2 * k - 1))
        variance += float(power.mean() * term.sum()) * (4 + 2 * (n - 1) * (4**k - 2)) / n
    return float((weights * (1 - np.square(phi))).sum()), math.sqrt(variance)


def sliced_w2(x: Tensor) -> float:
    """Squared sliced Wasserstein-2 distance to the standard normal, the shape term of VISReg (arXiv:2606.02572): the
    mean over directions a and ranks i of (z_(i) - q_i)^2, with z_(1) <= ... <= z_(N) the sorted Z a and
    q_i = Phi^-1(i / (N + 1)).

    Range [0, 2]: lower is nearer to a normal distribution; the mean of q_i^2, nearly 1, for equal rows. Z are the rows,
    centred, each dimension divided by its standard deviation (N in the denominator), but by at least 1e-6, as in the
    published code. So the means and scales of the dimensions do not count, nor does a dimension that is nearly
    constant. O(N (d + log N)) time and O(N) memory for 256 directions.
    """
    z = finite_rows(x, 2)
    z = z - z.mean(dim=0)
    z = z / z.square().mean(dim=0).sqrt().clamp(min=MIN_STD)
    return float(squared_w2(z @ slice_directions(z.shape[1]).to(z)).mean())


def sliced_w2_z(x: Tensor) -> float:
    """``sliced_w2`` as a z-score: (value - mean) / standard deviation over rows of N(0, I), of the same N and d.

    At least about -40: about 0 for normal rows, above 4 if they are not; with fewer than about ten dimensions it may
    exceed 4 by chance. ``sliced_w2_null`` has the mean and the standard deviation.
    """
    value = sliced_w2(x)
    mean, std = sliced_w2_null(*x.shape)
    return (value - mean) / std


@lru_cache(maxsize=64)
def sliced_w2_null(n: int, d: int) -> tuple[float, float]:
    """Mean and standard deviation of ``sliced_w2`` over ``n`` rows of N(0, I) in d dimensions, without simulation.

    The statistic is 1 + mean q_i^2 - 2 mean q_i z_(i), on average. The order statistics' expectation is an integral
    over the binomial distribution of the rank; a standardised dimension is independent of its standard deviation, and a
    sum of such has a uniform direction, so the mean is exact up to O(1 / n^2). The standard deviation is that of large
    n, at most a sixth too small from about 20 rows. There, n times the statistic is a sum over k of H_k^2 / k, with H_k
    the normal coefficients of the Hermite polynomials, which have the correlation r^k in directions with cosine r.
    Standardising removes k = 1, and of k = 2 the part within dimensions.
    """
    q = ndtri(np.arange(1, n + 1) / (n + 1))
    z = np.arange(0, 10, NULL_STEP)
    of_rank = np.array([binom.pmf(np.arange(n), n - 1, ndtr(value)) @ q for value in z])
    ordered = 2 * NULL_STEP * float((z * norm.pdf(z)) @ of_rank)  # mean q_i E z_(i) of rows that are not standardised
    std = math.sqrt(2 / n) * math.exp(gammaln(n / 2) - gammaln((n - 1) / 2))
    directions = slice_directions(d).numpy()
    squares = np.square(directions)
    length = 1 - (1 - float(np.square(squares).sum(axis=0).mean())) / (4 * (n - 1))
    cosines = np.minimum(np.square(directions.T @ directions), 1)
    second = np.square(cosines - squares.T @ squares) / 2
    others = 2 * (spence(1 - cosines) - cosines - np.square(cosines) / 4)  # 2 sum_{k > 2} r^2k / k^2
    mean = 1 + float(np.square(q).mean()) - 2 * ordered / std * length
    return mean, math.sqrt(float((second + others).mean())) / n
