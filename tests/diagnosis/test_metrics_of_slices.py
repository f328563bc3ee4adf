"""Metrics of slices: loops over the definitions, closed forms, null distributions by simulation, and their limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr
from torch import Tensor

from ssltool.diagnosis.metrics.of_slices import (
    sigreg,
    sigreg_null,
    sigreg_z,
    slice_directions,
    sliced_w2,
    sliced_w2_null,
    sliced_w2_z,
)
from ssltool.errors import SSLToolError

ALL = [sigreg, sigreg_z, sliced_w2, sliced_w2_z]

KNOTS = np.linspace(0, 3, 17)


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def integral(f: np.ndarray) -> float:
    """The trapezoidal rule on [-3, 3] of the values of an even function on [0, 3]."""
    return 2 * float(np.trapezoid(f, KNOTS))


def sliced(x: Tensor) -> np.ndarray:
    return x.numpy() @ slice_directions(x.shape[1]).numpy()


@pytest.mark.parametrize("d", [1, 2, 100])
def test_directions_have_length_1_and_depend_only_on_the_width(d):
    found = slice_directions(d)
    assert found.shape == (d, 256)
    assert found.norm(dim=0).numpy() == pytest.approx(1)
    torch.manual_seed(5)
    np.random.seed(5)
    assert torch.equal(slice_directions(d), found)


@pytest.mark.parametrize(("n", "d"), [(30, 5), (4, 9), (2, 1)])
def test_sigreg_is_the_integral_of_the_paper_by_loops(n, d):
    x = 1.4 * gaussian(n, d) + 0.3
    phi = np.exp(-(KNOTS**2) / 2)
    values = []
    for z in sliced(x).T:
        empirical = np.array([np.exp(1j * t * z).mean() for t in KNOTS])
        values.append(n * integral(np.abs(empirical - phi) ** 2 * phi))
    assert sigreg(x) == pytest.approx(np.mean(values), rel=1e-10)


@pytest.mark.parametrize("n", [2, 10, 500])
def test_sigreg_of_rows_at_the_origin_is_the_integral_of_what_is_missing(n):
    phi = np.exp(-(KNOTS**2) / 2)
    assert sigreg(torch.zeros(n, 20)) == pytest.approx(n * integral((1 - phi) ** 2 * phi), rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(30, 5), (4, 9), (2, 1)])
def test_sliced_w2_is_the_mean_over_sorted_slices_of_standardised_dimensions(n, d):
    x = 3 * gaussian(n, d) @ gaussian(d, d, seed=1) + 7
    z = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    quantiles = norm.ppf(np.arange(1, n + 1) / (n + 1))
    wanted = np.mean([np.mean((np.sort(one) - quantiles) ** 2) for one in sliced(z).T])
    assert sliced_w2(x) == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("n", [2, 10, 1000])
def test_sliced_w2_of_equal_rows_is_the_mean_square_of_the_quantiles(n):
    wanted = np.mean(norm.ppf(np.arange(1, n + 1) / (n + 1)) ** 2)
    assert sliced_w2(torch.full((n, 6), 0.7)) == pytest.approx(wanted, rel=1e-9)
    assert wanted < 1


@pytest.mark.parametrize("n", [3, 50])
def test_sliced_w2_of_normal_quantiles_in_one_dimension_is_that_of_their_scale(n):
    q = norm.ppf(np.arange(1, n + 1) / (n + 1))
    assert sliced_w2(torch.from_numpy(q)[:, None]) == pytest.approx((1 - q.std()) ** 2, rel=1e-9)


@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_sliced_w2_is_invariant_to_shift_and_scale_of_each_dimension_and_both_to_the_order_of_rows(scale, shift, seed):
    x = gaussian(40, 4, seed)
    moved = x * torch.tensor([1.0, scale, 1.0, -1.0]).abs() + shift
    assert sliced_w2(moved) == pytest.approx(sliced_w2(x), rel=1e-6)
    shuffled = moved[torch.randperm(40, generator=torch.Generator().manual_seed(seed))]
    for metric in (sigreg, sliced_w2):
        assert metric(shuffled) == pytest.approx(metric(moved), rel=1e-9)


def test_sigreg_sees_scale_and_mean_which_sliced_w2_does_not():
    x = gaussian(500, 32)
    for changed in (0.5 * x, 2 * x, x + 1):
        assert sigreg_z(changed) > 20
        assert sliced_w2(changed) == pytest.approx(sliced_w2(x), rel=1e-9)


@pytest.mark.parametrize(("metric", "null"), [(sigreg, sigreg_null), (sliced_w2, sliced_w2_null)])
@pytest.mark.parametrize(("n", "d"), [(100, 32), (24, 64), (60, 16)])
def test_normal_rows_have_the_mean_and_standard_deviation_of_the_null(metric, null, n, d):
    """The standard errors of 200 draws are 0.07 and 0.05, and the null of sliced_w2 is that of many rows."""
    mean, std = null(n, d)
    z = [(metric(gaussian(n, d, seed)) - mean) / std for seed in range(200)]
    assert np.mean(z) == pytest.approx(0, abs=0.3)
    assert np.std(z) == pytest.approx(1, abs=0.25)
    assert max(map(abs, z)) < 5


@pytest.mark.parametrize("n", [2, 300])
def test_the_mean_of_sigreg_does_not_depend_on_the_number_of_rows_or_the_width(n):
    phi = np.exp(-(KNOTS**2) / 2)
    for d in (1, 40):
        assert sigreg_null(n, d)[0] == pytest.approx(integral((1 - phi**2) * phi), rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "z", "null"), [(sigreg, sigreg_z, sigreg_null), (sliced_w2, sliced_w2_z, sliced_w2_null)]
)
def test_a_z_score_orders_as_its_statistic(metric, z, null):
    rows = [gaussian(200, 16, seed) * torch.linspace(1, 1 - seed / 10, 16) + seed / 20 for seed in range(8)]
    assert spearmanr([metric(x) for x in rows], [z(x) for x in rows]).statistic == pytest.approx(1)
    mean, std = null(200, 16)
    assert z(rows[3]) == pytest.approx((metric(rows[3]) - mean) / std)


@pytest.mark.parametrize("other", ["uniform", "two clusters", "heavy tails", "half of the dimensions"])
def test_rows_that_are_not_normal_have_a_large_z(other):
    n, d = 2000, 8
    x = {
        "uniform": torch.rand(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * math.sqrt(12),
        "two clusters": 0.4 * gaussian(n, d) + 0.9 * gaussian(n, 1, seed=1).sign(),
        "heavy tails": gaussian(n, d) / gaussian(n, 1, seed=1).abs(),
        "half of the dimensions": torch.nn.functional.pad(gaussian(n, d // 2), (0, d // 2)),
    }[other]
    assert sliced_w2_z(x) > 10
    assert sigreg_z(x) > 10


def test_one_outlier_changes_sigreg_by_its_share_and_sliced_w2_by_the_scale():
    x = gaussian(1000, 16)
    x[0] = 1e6
    assert sigreg(x) < 10
    assert sliced_w2(x) > 0.5
    assert all(math.isfinite(metric(x)) for metric in ALL)


@pytest.mark.parametrize("metric", ALL)
def test_float32_rows_are_measured_in_float64(metric):
    x = gaussian(60, 5).float()
    assert metric(x) == metric(x.double())


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("x", [torch.ones(7, 3), torch.zeros(2, 5), torch.eye(2), gaussian(3, 300), gaussian(50, 1)])
def test_degenerate_rows_have_finite_values(metric, x):
    assert math.isfinite(metric(x))


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("shape", [(1, 3), (0, 3), (4,), (2, 3, 4)])
def test_invalid_shapes_are_refused(metric, shape):
    with pytest.raises(SSLToolError, match=r"\(N, d\)"):
        metric(torch.zeros(shape))


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(metric, bad):
    x = gaussian(20, 3)
    x[4, 1] = bad
    with pytest.raises(SSLToolError, match="NaN or infinite"):
        metric(x)
