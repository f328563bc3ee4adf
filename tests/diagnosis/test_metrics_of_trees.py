"""Metrics of spanning trees: trees that are known, those of scipy, and sets of known dimension."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import pdist, squareform
from torch import Tensor

from ssltool.diagnosis.metrics.of_trees import SpanningTrees, edge_lengths, mst_dimension, persistence
from ssltool.errors import SSLToolError


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64)[:, None] * torch.tensor([3.0, 4.0], dtype=torch.float64)


def by_scipy(x: Tensor) -> np.ndarray:
    """Sorted edge lengths of scipy's tree; 1 is added to all distances, because it takes 0 for no edge."""
    return np.sort(minimum_spanning_tree(squareform(pdist(x.numpy()) + 1)).data) - 1


@pytest.mark.parametrize(("n", "d"), [(2, 1), (7, 3), (64, 2), (65, 200), (300, 10)])
def test_a_tree_has_the_edges_of_scipys(n, d):
    x = gaussian(n, d)
    found = edge_lengths(x)
    assert found.shape == (n - 1,)
    assert found.sort().values.numpy() == pytest.approx(by_scipy(x), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 50), d=st.integers(1, 6), seed=st.integers(0, 99), values=st.integers(1, 4))
def test_duplicates_and_ties_have_a_tree_of_the_same_lengths(n, d, seed, values):
    """Integers from a small range: most distances occur several times, and many are 0."""
    x = torch.randint(values, (n, d), generator=torch.Generator().manual_seed(seed)).double()
    assert edge_lengths(x).sort().values.numpy() == pytest.approx(by_scipy(x), abs=1e-12)


def test_edges_between_duplicates_are_exactly_0_beside_an_outlier():
    x = torch.cat([gaussian(40, 5).repeat(2, 1) + 1000, torch.full((1, 5), 1e12)])
    assert int((edge_lengths(x) == 0).sum()) == 40


def test_one_row_is_a_tree_without_edges():
    assert edge_lengths(torch.ones(1, 3)).shape == (0,)


@pytest.mark.parametrize("n", [64, 100, 1000])
def test_a_line_has_dimension_1(n):
    """Parts of a line reach nearly from end to end, so that their trees are nearly of one length."""
    assert mst_dimension(line(n)) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("n", [64, 200])
def test_equally_far_rows_have_an_infinite_dimension_and_the_largest_persistence(n):
    assert mst_dimension(torch.eye(n)) == math.inf
    assert float(persistence(torch.eye(n))) == pytest.approx(1.0)
    assert persistence(torch.eye(n)).details["entropy"] == pytest.approx(1.0)


@pytest.mark.parametrize("d", [2, 3, 6])
def test_the_dimension_of_a_cube_is_found_however_wide_the_space(d):
    x = torch.rand(2048, d, generator=torch.Generator().manual_seed(0)).double() @ torch.linalg.qr(gaussian(20, d)).Q.T
    assert mst_dimension(x) == pytest.approx(d, rel=0.15)


def test_the_parts_are_halved_down_to_32_rows_and_their_trees_averaged():
    x = gaussian(300, 4)
    trees = SpanningTrees.of(x)
    assert trees.sizes == (300, 150, 75, 37)
    assert trees.lengths[0] == pytest.approx(float(edge_lengths(x).sum()))
    assert all(a > b for a, b in zip(trees.lengths, trees.lengths[1:], strict=False))


@pytest.mark.parametrize("n", [2, 30, 63])
def test_fewer_than_64_distinct_rows_have_no_dimension(n):
    assert math.isnan(mst_dimension(gaussian(n, 3)))
    assert math.isnan(mst_dimension(gaussian(n, 3).repeat(10, 1)))


def test_equal_rows_have_dimension_and_persistence_0():
    for x in (torch.full((100, 3), 7.0), torch.zeros(2, 3)):
        assert (mst_dimension(x), float(persistence(x))) == (0.0, 0.0)
        assert persistence(x).details["total"] == 0.0
        assert math.isnan(persistence(x).details["entropy"])


def test_duplicates_count_once_in_the_dimension_and_each_time_in_the_persistence():
    x = gaussian(128, 3)
    assert mst_dimension(x.repeat(2, 1)) == pytest.approx(mst_dimension(x))
    assert float(persistence(x.repeat(2, 1))) < 0.6 * float(persistence(x))


@pytest.mark.parametrize("n", [2, 9, 100])
def test_the_persistence_of_a_line_follows_from_its_distances(n):
    """Edges of length 5 between n rows, whose mean squared distance is 25 n (n + 1) / 6."""
    found = persistence(line(n))
    assert float(found) == pytest.approx(1 / math.sqrt(n * (n + 1) / 6))
    assert found.details["total"] == pytest.approx(5 * (n - 1))


def test_the_entropy_is_that_of_the_shares_of_the_edges():
    """Rows at 0, 1, 4 and 13: edges 1, 3 and 9."""
    shares = np.array([1, 3, 9]) / 13
    found = persistence(torch.tensor([[0.0], [1.0], [4.0], [13.0]])).details["entropy"]
    assert found == pytest.approx(-(shares * np.log(shares)).sum() / math.log(3))


def test_tight_clusters_have_less_persistence_than_spread_rows():
    spread = gaussian(400, 10)
    clusters = gaussian(10, 10).repeat(40, 1) + 0.01 * spread
    assert float(persistence(clusters)) < 0.1 * float(persistence(spread))


@pytest.mark.parametrize("metric", [mst_dimension, persistence])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_or_too_few_are_refused(metric, bad):
    x = gaussian(80, 4)
    x[3, 1] = bad
    for wrong in (x, gaussian(1, 4), gaussian(80, 4).reshape(20, 4, 4)):
        with pytest.raises(SSLToolError):
            metric(wrong)


@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 130), d=st.integers(1, 150), seed=st.integers(0, 99), scale=st.sampled_from([1e-5, 3.0, 1e5]))
def test_order_rotation_and_scale_change_nothing(n, d, seed, scale):
    x = gaussian(n, d, seed)
    turned = scale * x[torch.randperm(n)] @ torch.linalg.qr(gaussian(d, d, seed + 1)).Q + 7 * scale
    for metric in (mst_dimension, persistence):
        assert float(metric(turned)) == pytest.approx(float(metric(x)), rel=1e-6, nan_ok=True)


def test_the_dimension_depends_on_the_seed_only_through_the_parts():
    x = gaussian(200, 5)
    one, two = SpanningTrees.of(x, 1), SpanningTrees.of(x, 2)
    assert one.lengths[0] == pytest.approx(two.lengths[0]) and one.lengths[1] != two.lengths[1]
    assert mst_dimension(one) == pytest.approx(mst_dimension(two), rel=0.5)
