"""Statistics of slices: loops over the definitions, closed forms and gradients. Metrics and losses have more tests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import norm
from torch import Tensor

from ssltool.diagnosis.slices import epps_pulley, knots, normal_quantiles, squared_w2


def slices(n: int = 9, k: int = 3) -> Tensor:
    return 1.5 * torch.randn(n, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.2


def test_epps_pulley_is_the_integral_over_all_pairs_of_values():
    """abs(phi - g)^2 expands to the means of cos(t (x - y)) over pairs, of -2 g cos(t x), and g^2."""
    t = np.linspace(-3, 3, 33)
    g = np.exp(-(t**2) / 2)
    wanted = []
    for x in slices().numpy().T:
        pairs = np.mean([np.cos(t * (a - b)) for a in x for b in x], axis=0)
        single = np.mean([np.cos(t * a) for a in x], axis=0)
        wanted.append(len(x) * np.trapezoid((pairs - 2 * g * single + g**2) * g, t))
    assert epps_pulley(slices()).numpy() == pytest.approx(np.array(wanted), rel=1e-10)


def test_the_weights_of_the_knots_integrate_the_normal_density_on_both_sides():
    t, weights = knots()
    assert float(t[0]) == 0 and float(t[-1]) == 3 and len(t) == 17
    assert float(weights.sum()) == pytest.approx(np.sqrt(2 * np.pi) * (norm.cdf(3) - norm.cdf(-3)), rel=1e-3)


def test_squared_w2_is_the_cost_of_the_best_assignment_of_values_to_quantiles():
    q, wanted = norm.ppf(np.arange(1, 10) / 10), []
    for x in slices().numpy().T:
        cost = (x[:, None] - q) ** 2
        wanted.append(cost[linear_sum_assignment(cost)].mean())
    assert squared_w2(slices()).numpy() == pytest.approx(np.array(wanted), rel=1e-10)


@pytest.mark.parametrize("n", [1, 2, 50])
def test_quantiles_are_those_of_the_standard_normal(n):
    assert normal_quantiles(n).numpy() == pytest.approx(norm.ppf(np.arange(1, n + 1) / (n + 1)), abs=1e-12)


@pytest.mark.parametrize("statistic", [epps_pulley, squared_w2])
def test_gradients_are_those_of_differences(statistic):
    assert torch.autograd.gradcheck(statistic, slices().requires_grad_())


@pytest.mark.parametrize("statistic", [epps_pulley, squared_w2])
def test_float32_slices_have_a_float32_statistic_near_that_in_float64(statistic):
    found = statistic(slices().float())
    assert found.dtype == torch.float32
    assert found.numpy() == pytest.approx(statistic(slices()).numpy(), rel=1e-4)
