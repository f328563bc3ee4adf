"""Statistics of slices against the standard normal distribution, for metrics and differentiable for losses.

A slice is the projection of rows onto a unit direction: column k of ``slices`` (N, K) has those onto direction k.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

KNOTS, LAST_KNOT = 17, 3.0
"""Knots of the trapezoidal rule on [0, 3]; the integrand is symmetric."""


def epps_pulley(slices: Tensor) -> Tensor:
    """The Epps-Pulley statistics (K,) of ``slices`` (N, K): N int abs(phi(t) - exp(-t^2 / 2))^2 exp(-t^2 / 2) dt, with
    phi the empirical characteristic function (Sec. 4.2 of arXiv:2511.08544).

    At least 0: 0 if phi is that of N(0, 1), about 1 for N rows drawn from it, and of order N for other rows. The
    integral is that of LeJEPA's released code: 17 knots on [0, 3], doubled.
    """
    t, weights = knots()
    step = torch.polar(torch.ones_like(slices), slices * float(t[1]))
    power, total = torch.ones_like(step), torch.zeros_like(slices[0])
    for knot, weight in zip(t.tolist(), weights.tolist(), strict=True):
        error = power.mean(dim=0) - math.exp(-(knot**2) / 2)
        total = total + weight * (error.real.square() + error.imag.square())
        power = power * step  # exp(i t z) at the next knot
    return len(slices) * total


def knots() -> tuple[Tensor, Tensor]:
    """The knots (17,) and their weights, which include the factor exp(-t^2 / 2)."""
    t = torch.linspace(0, LAST_KNOT, KNOTS, dtype=torch.float64)
    weights = torch.full_like(t, 2 * LAST_KNOT / (KNOTS - 1))
    weights[[0, -1]] /= 2
    return t, weights * torch.exp(-t.square() / 2)


def squared_w2(slices: Tensor) -> Tensor:
    """The squared Wasserstein-2 distances (K,) of ``slices`` (N, K) to N(0, 1), by its quantiles q_i = Phi^-1(i / (N +
    1)): the mean over ranks of (z_(i) - q_i)^2 (Eq. 5 of arXiv:2606.02572)."""
    return (slices.mT.contiguous().sort(dim=1).values - normal_quantiles(len(slices)).to(slices)).square().mean(dim=1)


def normal_quantiles(n: int) -> Tensor:
    """Phi^-1(i / (n + 1)) for i = 1 .. n, float64."""
    return torch.special.ndtri(torch.arange(1, n + 1, dtype=torch.float64) / (n + 1))
