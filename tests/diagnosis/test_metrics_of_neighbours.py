"""Metrics of neighbours: rows whose neighbours are known, other implementations, and rows with no or few neighbours."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.stats import skew
from torch import Tensor

from ssltool.diagnosis.metrics.of_neighbours import Neighbours, hubness, local_dimension
from ssltool.diagnosis.metrics.of_rows import twonn
from ssltool.errors import SSLToolError


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def circle(n: int) -> Tensor:
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def sorted_rows(x: Tensor) -> Tensor:
    return torch.unique(x - x.median(dim=0).values, dim=0)


@pytest.mark.parametrize(("n", "d", "k"), [(300, 5, 20), (700, 40, 3), (10, 200, 9)])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_neighbours_are_those_of_a_tree_search(n, d, k, shift):
    x = gaussian(n, d) + shift
    found = Neighbours.of(x, k)
    distances, numbers = cKDTree(sorted_rows(x).numpy()).query(sorted_rows(x).numpy(), k + 1)
    assert found.distances.numpy() == pytest.approx(distances[:, 1:], rel=1e-9)
    assert np.array_equal(found.numbers.numpy(), numbers[:, 1:])


def test_an_outlier_does_not_change_the_neighbours_of_others():
    x = gaussian(200, 6)
    alone = Neighbours.of(x, 5).distances.sort(dim=0).values
    beside = Neighbours.of(torch.cat([x, torch.full((1, 6), 1e12)]), 5).distances.sort(dim=0).values
    torch.testing.assert_close(beside[:200], alone, rtol=1e-9, atol=0)


def test_a_row_is_not_its_own_neighbour_and_duplicates_are_one_row():
    x = gaussian(50, 3)
    once, often = Neighbours.of(x, 4), Neighbours.of(x.repeat(3, 1)[torch.randperm(150)], 4)
    assert torch.equal(once.distances, often.distances) and bool((once.distances > 0).all())
    assert not bool((once.numbers == torch.arange(50)[:, None]).any())


@pytest.mark.parametrize("n", [100, 1001])
def test_the_local_dimension_of_a_circle_follows_from_its_chords(n):
    chords = sorted(2 * math.sin(math.pi * j / n) for j in range(1, 11) for _ in range(2))
    mean, last = sum(chords[:19]) / 19, chords[19]
    assert local_dimension(circle(n)) == pytest.approx(mean / (last - mean), rel=1e-6)


def test_the_local_dimension_of_three_rows_uses_the_two_neighbours_of_each():
    """Rows 0, 1 and 3 on a line: distances (1, 3), (1, 2) and (2, 3), so m / (a - m) is 1/2, 1 and 2."""
    assert local_dimension(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(1.0)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_local_dimension_is_about_that_of_the_subspace(d):
    x = torch.rand(3000, d, generator=torch.Generator().manual_seed(0)).double() @ gaussian(d, 30)
    assert local_dimension(x) == pytest.approx(d, rel=0.15)


def test_the_local_dimension_is_the_code_of_its_paper_on_rows_without_duplicates():
    """The formula on sorted distances as LDReg's code has it, whose column 0 is the row itself."""
    x = gaussian(200, 8)
    a = torch.cdist(x, x).sort(dim=1).values
    mean = a[:, 1:20].mean(dim=1)
    assert local_dimension(x) == pytest.approx(float((mean / (a[:, 20] - mean)).log().mean().exp()), rel=1e-6)


def test_a_distant_outlier_has_no_local_dimension_and_is_counted():
    x = gaussian(200, 6)
    found = local_dimension(torch.cat([x, torch.full((1, 6), 1e20)]))
    assert float(found) == pytest.approx(float(local_dimension(x)), rel=1e-9)
    assert (found.details["infinite"], local_dimension(x).details["infinite"]) == (1, 0)


@pytest.mark.parametrize("n", [12, 30])
def test_equally_far_rows_have_an_infinite_local_dimension_and_no_hubs(n):
    assert local_dimension(torch.eye(n)) == math.inf
    assert abs(hubness(torch.eye(n))) <= n**0.5


def test_a_circle_has_no_hubs():
    """Each row is a neighbour of the 5 rows on either side."""
    assert hubness(circle(101)) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("n", [3, 5, 11])
def test_there_are_no_hubs_if_all_rows_are_neighbours(n):
    assert hubness(gaussian(n, 4)) == 0.0


def test_the_centre_of_a_star_is_a_hub():
    """Which ends are neighbours of which depends on their small differences; the centre is one of all."""
    star = torch.cat([torch.zeros(1, 200), torch.eye(200) * torch.linspace(1, 1.001, 200)[:, None]])
    counts = torch.bincount(Neighbours.of(star, 10).numbers.flatten(), minlength=201)
    assert counts.max() == 200
    assert hubness(star) > 3


def test_hubness_is_the_skewness_of_the_number_of_occurrences():
    x = gaussian(400, 50)
    _, numbers = cKDTree(x.numpy()).query(x.numpy(), 11)
    counts = np.bincount(numbers[:, 1:].flatten(), minlength=400)
    assert hubness(x) == pytest.approx(skew(counts), rel=1e-9)


def test_hubness_grows_with_the_dimension():
    assert hubness(gaussian(1000, 3)) < hubness(gaussian(1000, 20)) < hubness(gaussian(1000, 100))


@pytest.mark.parametrize("metric", [local_dimension, hubness, twonn])
def test_fewer_than_three_distinct_rows_give_nan(metric):
    for x in (gaussian(1, 4), gaussian(2, 4), torch.ones(50, 4), gaussian(2, 4).repeat(20, 1)):
        assert math.isnan(metric(x))


@pytest.mark.parametrize("metric", [local_dimension, hubness, twonn])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_or_no_matrix_are_refused(metric, bad):
    x = gaussian(20, 4)
    x[3, 1] = bad
    for wrong in (x, gaussian(20, 4).reshape(5, 4, 4), gaussian(0, 4)):
        with pytest.raises(SSLToolError):
            metric(wrong)


@pytest.mark.parametrize("metric", [local_dimension, hubness, twonn])
def test_a_metric_takes_neighbours_that_are_already_known(metric):
    x = gaussian(100, 6)
    assert metric(Neighbours.of(x)) == pytest.approx(metric(x), rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 60), d=st.integers(1, 80), seed=st.integers(0, 99), scale=st.sampled_from([1e-5, 3.0, 1e5]))
def test_order_rotation_and_scale_change_nothing(n, d, seed, scale):
    x = gaussian(n, d, seed)
    turned = scale * x[torch.randperm(n)] @ torch.linalg.qr(gaussian(d, d, seed + 1)).Q + 7 * scale
    for metric in (local_dimension, hubness, twonn):
        assert metric(turned) == pytest.approx(metric(x), rel=1e-6, abs=1e-9)
