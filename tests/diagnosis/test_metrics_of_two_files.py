"""CKA: closed forms, its definition with kernel matrices, and invariance to rotations, shifts and factors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssltool.diagnosis.metrics.of_two_files import cka, linear_cka
from ssltool.errors import SSLToolError


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthogonal(n: int, d: int) -> Tensor:
    """Columns (n, d) that are orthonormal and have mean 0."""
    x = gaussian(n, d)
    return torch.linalg.qr(x - x.mean(dim=0)).Q


def by_kernels(x: Tensor, y: Tensor) -> float:
    """HSIC of centred kernel matrices (N, N), as in the paper's Eq. 3."""
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, other = (centre @ (one @ one.T).numpy() @ centre for one in (x, y))
    return float((k * other).sum() / np.sqrt((k * k).sum() * (other * other).sum()))


@pytest.mark.parametrize(("n", "d", "e"), [(40, 3, 7), (10, 30, 20), (200, 1, 50)])
def test_cka_is_that_of_centred_kernels(n, d, e):
    x = gaussian(n, d) + 3
    y = torch.cat([x, gaussian(n, e, 1)], dim=1)[:, :e] ** 2 - 5
    assert linear_cka(x, y) == pytest.approx(by_kernels(x, y), rel=1e-9)


@pytest.mark.parametrize("shared", [0, 1, 3, 6])
def test_cka_of_orthonormal_columns_is_the_share_that_both_have(shared):
    """6 columns each, ``shared`` of them the same: norms sqrt(6), and the cross product has ``shared`` ones."""
    q = orthogonal(50, 12 - shared)
    assert linear_cka(q[:, :6], q[:, 6 - shared : 12 - shared]) == pytest.approx(shared / 6, abs=1e-12)


def test_one_direction_of_a_flat_representation_has_cka_one_over_the_root_of_its_width():
    q = orthogonal(60, 9)
    assert linear_cka(q, q[:, :1]) == pytest.approx(1 / 3)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 50), d=st.integers(1, 20), seed=st.integers(0, 99), scale=st.sampled_from([1e-6, -2.0, 1e6]))
def test_rotations_shifts_and_factors_change_nothing(n, d, seed, scale):
    x, y = gaussian(n, d, seed), gaussian(n, 5, seed + 1)
    turned = scale * (x @ torch.linalg.qr(gaussian(d, d, seed + 2)).Q) + 4 * scale
    assert linear_cka(x, turned) == pytest.approx(1.0)
    assert linear_cka(turned, y) == pytest.approx(linear_cka(x, y), rel=1e-6)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-9)
    order = torch.randperm(n)
    assert linear_cka(x[order], y[order]) == pytest.approx(linear_cka(x, y), rel=1e-9)


@pytest.mark.parametrize("block", [1, 2, 7, 1000])
def test_the_result_does_not_depend_on_the_blocks_even_beside_an_outlier(block):
    x, y = gaussian(100, 6), gaussian(100, 4, 1)
    x[0] += 1e6
    assert linear_cka(x, y, block=block) == pytest.approx(linear_cka(x, y), rel=1e-9)
    assert linear_cka(x + 1e5, y, block=block) == pytest.approx(linear_cka(x, y), rel=1e-6)


def test_unrelated_rows_have_about_the_cka_that_chance_gives():
    found = linear_cka(gaussian(4000, 30), gaussian(4000, 20, 1))
    assert found == pytest.approx(math.sqrt(30 * 20) / 4000, rel=0.3)


def test_equal_rows_or_one_row_have_no_cka():
    assert math.isnan(linear_cka(torch.full((9, 3), 0.1), gaussian(9, 2)))
    assert math.isnan(linear_cka(gaussian(1, 3), gaussian(1, 2)))
    assert math.isnan(cka([]))
    assert linear_cka(gaussian(2, 3), gaussian(2, 5)) == pytest.approx(1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_other_numbers_of_rows_and_values_that_are_not_finite_are_refused(bad):
    x = gaussian(9, 3)
    broken = x.clone()
    broken[4, 1] = bad
    for first, second in ((x, x[:8]), (broken, x), (x, broken), (x, x[:, 0])):
        with pytest.raises(SSLToolError):
            linear_cka(first, second)


def test_float32_rows_are_compared_in_float64():
    x, y = gaussian(80, 7).float(), gaussian(80, 5, 1).float()
    assert linear_cka(x, y) == linear_cka(x.double(), y.double())
