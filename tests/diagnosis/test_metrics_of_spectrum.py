"""Metrics of the singular values: closed forms, references written from the definitions, and their extremes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import logm
from torch import Tensor

from ssltool.diagnosis.metrics.of_spectrum import (
    alpha,
    auc,
    coding_rate,
    condition_number,
    dead_directions,
    effective_rank,
    entropy_rank,
    matrix_entropy,
    numerical_rank,
    participation_ratio,
    rankme,
    renyi_rank,
    renyi_rank_half,
    stable_rank,
    total_variance,
)
from ssltool.diagnosis.spectrum import singular_values
from ssltool.errors import SSLToolError

ALL = [
    auc,
    effective_rank,
    rankme,
    participation_ratio,
    stable_rank,
    alpha,
    dead_directions,
    numerical_rank,
    condition_number,
    renyi_rank_half,
    matrix_entropy,
]
RANKS = [effective_rank, renyi_rank_half, entropy_rank, participation_ratio, stable_rank, numerical_rank]
ORDERS = [1e-6, 0.1, 0.5, 0.9, 1 - 1e-9, 1, 1 + 1e-9, 1.2, 1.5, 2, 7, 400, math.inf]

EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def geometric(ratio: float, d: int) -> Tensor:
    return torch.tensor([ratio**i for i in range(d)], dtype=torch.float64)


def power_law(exponent: float, d: int) -> Tensor:
    """Singular values whose squares fall as j^-exponent."""
    return torch.arange(1, d + 1, dtype=torch.float64) ** (-exponent / 2)


@pytest.mark.parametrize("d", [1, 2, 10, 512])
def test_a_flat_spectrum_has_the_smallest_auc_and_the_full_rank(d):
    s = torch.full((d,), 3.7)
    assert auc(s) == pytest.approx((d + 1) / (2 * d), rel=1e-12)
    assert [rank(s) for rank in RANKS] == pytest.approx([d] * 6, rel=1e-12)
    assert condition_number(s) == 1.0


@pytest.mark.parametrize("d", [2, 10, 512])
def test_a_single_direction_has_auc_1_and_rank_1(d):
    s = torch.zeros(d)
    s[0] = 0.01
    assert auc(s) == 1.0
    assert [rank(s) for rank in RANKS] == [1.0] * 6
    assert condition_number(s) == 1.0


def test_equal_rows_are_complete_collapse():
    s = singular_values(torch.full((4000, 32), 0.3))
    assert auc(s) == 1.0
    assert [rank(s) for rank in RANKS] == [0.0] * 6
    assert rankme(s) == 1.0
    assert math.isnan(condition_number(s))
    assert math.isnan(alpha(s))


@pytest.mark.parametrize(("k", "d"), [(1, 8), (3, 8), (8, 8)])
def test_k_equal_directions_of_d_have_rank_k_and_the_auc_of_a_ramp(k, d):
    s = torch.cat([torch.ones(k), torch.zeros(d - k)])
    assert [rank(s) for rank in RANKS] == pytest.approx([k] * 6)
    assert auc(s) == pytest.approx((sum(range(1, k + 1)) / k + d - k) / d)


@pytest.mark.parametrize(("ratio", "d"), [(0.5, 20), (0.9, 20), (0.99, 200)])
def test_a_geometric_spectrum_has_the_values_of_the_geometric_series(ratio, d):
    def series(q: float) -> float:
        return (1 - q**d) / (1 - q)

    s = geometric(ratio, d)
    assert auc(s) == pytest.approx(sum(1 - ratio ** (j + 1) for j in range(d)) / (d * (1 - ratio**d)), rel=1e-12)
    mean_index = ratio / (1 - ratio) - d * ratio**d / (1 - ratio**d)
    entropy = math.log(series(ratio)) - math.log(ratio) * mean_index
    assert effective_rank(s) == pytest.approx(math.exp(entropy), rel=1e-12)
    assert participation_ratio(s) == pytest.approx(series(ratio**2) ** 2 / series(ratio**4), rel=1e-12)
    assert stable_rank(s) == pytest.approx(series(ratio**2), rel=1e-12)
    assert condition_number(s, dtype=torch.float64) == pytest.approx(ratio ** (1 - d), rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_a_renyi_rank_of_equal_values_is_their_number_and_of_two_shares_its_definition(order):
    assert renyi_rank(torch.tensor([3.0] * 7 + [0.0] * 5), order) == pytest.approx(7, rel=1e-12)
    p = np.array([0.8, 0.2])
    if order == math.inf:
        wanted = 1 / 0.8
    elif abs(order - 1) < 1e-6:
        wanted = math.exp(-(p * np.log(p)).sum())
    else:
        wanted = float((p**order).sum() ** (1 / (1 - order)))
    assert renyi_rank(torch.from_numpy(np.sqrt(p)), order) == pytest.approx(wanted, rel=1e-8)


@given(st.lists(st.floats(1e-4, 1.0), min_size=1, max_size=30))
def test_renyi_ranks_fall_with_the_order_from_the_number_of_values_to_the_stable_rank(values):
    s = torch.tensor(values, dtype=torch.float64)
    ranks = [float(len(values)), *(renyi_rank(s, order) for order in ORDERS), 1.0]
    assert all(a >= b * (1 - 1e-9) for a, b in itertools.pairwise(ranks))
    assert renyi_rank(s, 2) == participation_ratio(s)
    assert renyi_rank(s, math.inf) == stable_rank(s)
    assert renyi_rank(s, 0.5) == renyi_rank_half(s) == pytest.approx(float(s.sum() ** 2 / s.square().sum()), rel=1e-9)


def test_a_huge_order_neither_over_nor_underflows():
    s = power_law(1.0, 2000)
    assert renyi_rank(s, 1e6) == pytest.approx(stable_rank(s), rel=1e-4)
    assert renyi_rank(1e-200 * s, 0.01) == pytest.approx(renyi_rank(s, 0.01), rel=1e-9)


@pytest.mark.parametrize("order", [0, -1, math.nan, -math.inf])
def test_an_order_that_is_not_above_0_is_refused(order):
    with pytest.raises(SSLToolError, match="order"):
        renyi_rank(torch.ones(3), order)


@pytest.mark.parametrize("seed", range(3))
def test_the_matrix_entropy_is_that_of_the_density_matrix(seed):
    x = gaussian(50, 6, seed).double() * torch.linspace(1, 0.2, 6)
    density = np.cov(x.numpy().T) / np.trace(np.cov(x.numpy().T))
    wanted = -np.trace(density @ logm(density))
    s = singular_values(x)
    assert matrix_entropy(s) == pytest.approx(wanted, rel=1e-9)
    assert entropy_rank(s) == pytest.approx(math.exp(wanted), rel=1e-9)
    assert matrix_entropy(singular_values(torch.ones(5, 3))) == 0


@pytest.mark.parametrize(("n", "d"), [(60, 5), (5, 60), (2, 3)])
def test_the_total_variance_is_the_trace_of_the_covariance(n, d):
    x = gaussian(n, d).double() + 3
    assert total_variance(singular_values(x), n=n) == pytest.approx(float(x.var(dim=0).sum()), rel=1e-12)
    assert total_variance(singular_values(10 * x), n=n) == pytest.approx(100 * float(x.var(dim=0).sum()), rel=1e-12)
    assert total_variance(singular_values(torch.ones(n, d)), n=n) == 0


@pytest.mark.parametrize(("n", "d"), [(60, 5), (5, 60), (2, 3)])
@pytest.mark.parametrize("eps2", [0.5, 0.01])
def test_the_coding_rate_is_the_determinant_of_the_paper(n, d, eps2):
    x = gaussian(n, d).double() + 0.3
    wanted = np.linalg.slogdet(np.eye(d) + d / (n * eps2) * x.numpy().T @ x.numpy())[1] / 2
    found = coding_rate(singular_values(x, center=False), n=n, d=d, eps2=eps2)
    assert found == pytest.approx(wanted, rel=1e-12)


def test_the_coding_rate_of_equal_and_of_orthonormal_unit_rows_is_in_closed_form():
    n, d = 40, 8
    equal, basis = torch.eye(d)[:1].repeat(n, 1), torch.cat([torch.eye(d)] * 5)
    assert coding_rate(singular_values(equal, center=False), n=n, d=d) == pytest.approx(math.log(1 + 2 * d) / 2)
    assert coding_rate(singular_values(basis, center=False), n=n, d=d) == pytest.approx(d * math.log(3) / 2)
    assert coding_rate(singular_values(0 * equal, center=False), n=n, d=d) == 0


def test_the_entropy_of_a_half_and_two_quarters_is_one_and_a_half_bits():
    assert effective_rank(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_eq_2_of_the_paper_by_loops(seed):
    s = np.sort(np.random.default_rng(seed).gamma(0.5, size=40))[::-1]
    explained = [sum(s[i] for i in range(j)) / sum(s) for j in range(1, 41)]
    assert auc(torch.from_numpy(s.copy())) == pytest.approx(sum(explained) / 40, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_rankme_equals_eq_1_of_its_paper_by_loops(seed):
    s = np.random.default_rng(seed).gamma(0.1, size=40)  # with many tiny shares, for which the 1e-7 matters
    shares = [value / sum(s) + 1e-7 for value in s]
    wanted = math.exp(-sum(p * math.log(p) for p in shares))
    assert rankme(torch.from_numpy(s)) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_ratios_of_variances_are_those_of_the_covariance_matrix_without_any_decomposition(seed):
    x = (gaussian(200, 12, seed) * torch.linspace(1, 0.1, 12) + 1).double()
    covariance = np.cov(x.numpy().T)
    s = singular_values(x)
    ratio = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    assert participation_ratio(s) == pytest.approx(ratio, rel=1e-10)
    largest = np.linalg.norm(covariance, ord=2)
    assert stable_rank(s) == pytest.approx(np.trace(covariance) / largest, rel=1e-10)
    assert condition_number(s) ** 2 == pytest.approx(np.linalg.cond(covariance), rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("d", [1, 3, 200])
def test_the_ranks_are_ordered_between_1_and_the_width(seed, d):
    # The Renyi entropies of the variances fall with their order, infinity and 2 here, and those of the singular
    # values, which are flatter, lie above.
    s = torch.from_numpy(np.random.default_rng(seed).gamma(0.3, size=d) + 1e-3)
    shannon = [entropy_rank(s), effective_rank(s)]
    ranks = [1.0, stable_rank(s), participation_ratio(s), *shannon, float(numerical_rank(s)), float(d)]
    assert ranks == pytest.approx(sorted(ranks), rel=1e-12)
    assert (d + 1) / (2 * d) <= auc(s) * (1 + 1e-12)
    assert auc(s) <= 1


@pytest.mark.parametrize("metric", ALL)
def test_metrics_are_invariant_to_order_and_scale_of_the_values(metric):
    s = power_law(1.3, 64) + 0.01 * torch.rand(64, generator=torch.Generator().manual_seed(0))
    shuffled = s[torch.randperm(64, generator=torch.Generator().manual_seed(1))]
    assert metric(shuffled) == metric(s)
    for scale in (1e-200, 1e-30, 1e-3, 1e30, 1e200):
        assert metric(scale * s) == pytest.approx(metric(s), rel=1e-9)
    assert metric(s.half()) == pytest.approx(metric(s), rel=1e-2)


def test_auc_rises_and_ranks_fall_as_directions_vanish():
    spectra = [torch.tensor([1.0, 1.0, 1.0, x]) for x in (1.0, 0.5, 0.1, 0.0)]
    assert all(a < b for a, b in zip(map(auc, spectra), map(auc, spectra[1:]), strict=False))
    for rank in (effective_rank, participation_ratio, stable_rank):
        assert all(a > b for a, b in zip(map(rank, spectra), map(rank, spectra[1:]), strict=False))


def test_metrics_of_a_sample_come_near_those_of_its_covariance():
    # Each of the 4 variances has a relative standard error of sqrt(2 / N) = 0.7 %.
    variances = torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)
    s = singular_values(gaussian(40_000, 4).double() * variances.sqrt())
    assert participation_ratio(s) == pytest.approx(15**2 / 85, rel=0.03)
    assert stable_rank(s) == pytest.approx(15 / 8, rel=0.03)
    assert condition_number(s) == pytest.approx(8**0.5, rel=0.03)
    share = variances.sqrt() / variances.sqrt().sum()
    assert effective_rank(s) == pytest.approx(math.exp(-float((share * share.log()).sum())), rel=0.03)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize(("d", "last"), [(20, 20), (60, 60), (100, 100), (101, 100), (512, 100)])
def test_alpha_of_a_power_law_is_its_exponent_with_r2_1(exponent, d, last):
    fit = alpha(1e-3 * power_law(exponent, d))
    assert fit == pytest.approx(exponent, abs=1e-10)
    assert (fit.first, fit.last) == (11, last)
    assert fit.r2 == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("value", [0.3, 1.0, 2.0, 3.7, math.pi, 5.5])
def test_a_flat_spectrum_is_the_power_law_of_exponent_0_exactly(value):
    for dtype in (torch.float32, torch.float64):
        fit = alpha(torch.full((50,), value, dtype=dtype))
        assert fit == pytest.approx(0.0, abs=1e-12)
        assert fit.r2 == 1.0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("first", "last"), [(11, 100), (1, 50), (5, 30)])
def test_alpha_is_numpys_fit_with_weights_of_1_over_the_rank(seed, first, last):
    noise = np.exp(0.3 * np.random.default_rng(seed).standard_normal(150))
    s = np.sort(noise * np.arange(1, 151) ** -0.7)[::-1]
    ranks = np.arange(first, last + 1)
    x, y, w = np.log(ranks), np.log(s[first - 1 : last] ** 2), 1 / ranks
    slope, constant = np.polyfit(x, y, 1, w=np.sqrt(w))  # numpy's weights multiply residuals, not their squares
    r2 = 1 - np.sum(w * (y - slope * x - constant) ** 2) / np.sum(w * (y - np.average(y, weights=w)) ** 2)
    fit = alpha(torch.from_numpy(s.copy()), first=first, last=last)
    assert fit == pytest.approx(-slope, rel=1e-9)
    assert fit.r2 == pytest.approx(r2, rel=1e-9)
    assert (fit.first, fit.last) == (first, last)


def test_alpha_depends_only_on_ranks_11_to_100():
    s = power_law(1.0, 300)
    changed = s.clone()
    changed[:10] *= 50
    changed[100:] /= 50
    assert alpha(changed) == alpha(s)


def test_alpha_excludes_rounding_noise():
    s = power_law(1.5, 200)
    s[60:] = 1e-9 * s[0]
    fit = alpha(s)
    assert fit == pytest.approx(1.5, abs=1e-10)
    assert (fit.first, fit.last) == (11, 60)


@pytest.mark.parametrize("d", [1, 5, 11, 19])
def test_fewer_than_ten_values_give_no_alpha(d):
    fit = alpha(power_law(1.0, d))
    assert math.isnan(fit)
    assert math.isnan(fit.r2)


def test_ten_values_above_rounding_are_enough_for_alpha():
    for kept, enough in ((20, True), (19, False)):
        s = power_law(1.0, 100)
        s[kept:] = 0
        assert math.isnan(alpha(s)) is not enough


@pytest.mark.parametrize(("first", "last"), [(0, 10), (-1, 20), (20, 20), (30, 20)])
def test_an_empty_range_of_ranks_is_refused(first, last):
    with pytest.raises(SSLToolError, match=f"alpha .*found ranks {first} to {last}"):
        alpha(power_law(1.0, 100), first=first, last=last)


@pytest.mark.parametrize(("dead", "d"), [(0, 8), (3, 8), (7, 8), (1, 2)])
def test_dead_directions_are_the_share_of_values_below_a_thousandth_of_the_largest(dead, d):
    for tiny in (0.0, 1e-9, 0.999e-3):
        s = torch.cat([torch.tensor([1.0]), torch.full((d - 1 - dead,), 1.001e-3), torch.full((dead,), tiny)])
        assert dead_directions(s) == dead / d
    assert dead_directions(torch.ones(d)) == 0.0
    assert dead_directions(torch.zeros(d)) == 1.0


def test_dead_directions_of_a_geometric_spectrum_are_those_after_its_fall():
    assert dead_directions(geometric(0.5, 40)) == (40 - 10) / 40  # 2^-9 is above 0.001 and 2^-10 below
    assert dead_directions(geometric(0.99, 40)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("d", [None, 3, 2048])
def test_values_above_d_eps_of_the_largest_count_and_those_below_do_not(dtype, d):
    threshold = 40.0 * (d or 4) * EPS[dtype]
    s = torch.tensor([40.0, 1.0, 1.001 * threshold, 0.999 * threshold], dtype=torch.float64)
    assert numerical_rank(s, dtype=dtype, d=d) == 3
    assert condition_number(s, dtype=dtype, d=d) == pytest.approx(40.0 / (1.001 * threshold))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numerical_rank_is_numpys_matrix_rank(dtype):
    for decades in (3, 6, 9, 14, 20):
        s = torch.logspace(0, -decades, 50, dtype=torch.float64)
        matrix = np.diag(s.numpy())
        tolerance = matrix.max() * 50 * np.finfo(str(dtype).removeprefix("torch.")).eps
        assert numerical_rank(s, dtype=dtype) == np.linalg.matrix_rank(matrix, tol=tolerance)


def test_rank_and_condition_number_assume_float32_by_default():
    s = torch.tensor([1.0, 1e-3, 1e-9], dtype=torch.float64)
    assert (numerical_rank(s), numerical_rank(s, dtype=torch.float64)) == (2, 3)
    assert condition_number(s) == pytest.approx(1e3)
    assert condition_number(s, dtype=torch.float64) == pytest.approx(1e9)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("s", [torch.zeros(0), torch.zeros(2, 2), torch.tensor(1.0)])
def test_invalid_shapes_are_refused(metric, s):
    with pytest.raises(SSLToolError, match=r"spectrum .*found shape"):
        metric(s)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_invalid_values_are_refused(metric, value):
    with pytest.raises(SSLToolError, match=f"finite .*found .*{value:g}"):
        metric(torch.tensor([2.0, value, 1.0]))
