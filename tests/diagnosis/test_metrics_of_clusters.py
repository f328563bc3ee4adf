"""Metrics of clusters: assignments whose entropy is known, clusters that k-means finds, and too few rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy
from torch import Tensor

from ssltool.diagnosis.metrics.of_clusters import (
    Clusters,
    cluster_learnability,
    cluster_usage,
    default_count,
    empty_clusters,
)
from ssltool.errors import SSLToolError


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blobs(sizes: list[int], d: int = 12, spread: float = 1e-3) -> Tensor:
    """Tight clusters of these sizes around the axes."""
    centres = torch.eye(d, dtype=torch.float64)[: len(sizes)]
    return torch.cat([row.expand(n, d) for n, row in zip(sizes, centres, strict=True)]) + spread * gaussian(
        sum(sizes), d
    )


@pytest.mark.parametrize("sizes", [[20] * 5, [60, 20, 10, 10], [100]])
def test_the_usage_of_as_many_clusters_as_there_are_is_the_perplexity_of_their_sizes(sizes):
    found = Clusters.of(blobs(sizes), len(sizes))
    assert float(cluster_usage(found)) == pytest.approx(math.exp(entropy(sizes)) / len(sizes))
    assert empty_clusters(found) == 0
    assert sorted(found.sizes().tolist()) == sorted(sizes)


@pytest.mark.parametrize("k", [2, 10, 50])
def test_equal_directions_are_one_cluster_and_the_others_are_empty(k):
    x = torch.arange(1, 51, dtype=torch.float64)[:, None] * gaussian(1, 7)
    found = Clusters.of(x, k)
    assert float(cluster_usage(found)) == pytest.approx(1 / k)
    assert empty_clusters(found) == pytest.approx((k - 1) / k)
    assert cluster_learnability(found) == 1.0


def test_fewer_directions_than_clusters_leave_clusters_empty():
    found = Clusters.of(gaussian(4, 9).repeat(25, 1), 10)
    assert empty_clusters(found) == pytest.approx(0.6)
    assert float(cluster_usage(found)) == pytest.approx(0.4)


def test_prototypes_show_which_of_them_no_row_is_near():
    x, prototypes = blobs([30, 30, 40]), torch.eye(12)
    found = Clusters.of_prototypes(x, prototypes)
    assert found.sizes().tolist() == [30, 30, 40] + [0] * 9
    assert float(cluster_usage(found)) == pytest.approx(math.exp(entropy([30, 30, 40])) / 12)
    assert empty_clusters(found) == pytest.approx(9 / 12)


def test_soft_assignments_give_the_perplexity_of_their_mean_and_the_entropy_of_one():
    x, prototypes = gaussian(50, 6), gaussian(8, 6, seed=1)
    cosines = torch.nn.functional.cosine_similarity(x[:, None], prototypes, dim=2)
    shares = (cosines / 0.1).softmax(dim=1).numpy()
    found = cluster_usage(Clusters.of_prototypes(x, prototypes, 0.1))
    assert float(found) == pytest.approx(math.exp(entropy(shares.mean(axis=0))) / 8)
    assert found.details["row_entropy"] == pytest.approx(float(np.mean(entropy(shares, axis=1))))


def test_uniform_assignments_use_all_clusters_and_have_an_entropy_of_log_k():
    found = cluster_usage(Clusters.of_prototypes(gaussian(50, 6), gaussian(1, 6).expand(16, 6), 0.1))
    assert float(found) == pytest.approx(1.0)
    assert found.details["row_entropy"] == pytest.approx(math.log(16))


def test_tight_clusters_are_learnt_after_their_first_rows():
    """Each of 5 clusters is unknown once: its first row is predicted to be in another one, but for the very first."""
    assert cluster_learnability(Clusters.of(blobs([40] * 5), 5)) == pytest.approx((199 - 4) / 199)


def test_learnability_is_the_accuracy_of_the_nearest_earlier_row():
    x = gaussian(1500, 8)
    clusters = Clusters.of(x, 12)
    plain = Clusters(clusters.rows, clusters.assigned, 12)
    unit = clusters.rows - clusters.rows.mean(dim=0)
    order = unit.square().sum(dim=1).argsort()
    from ssltool import seeds

    order = order[torch.randperm(1500, generator=seeds.generator(0, seeds.Stream.METRICS))]
    rows, labels = clusters.rows[order], clusters.assigned[order]
    right = [bool(labels[(rows[:i] @ rows[i]).argmax()] == labels[i]) for i in range(1, 1500)]
    assert cluster_learnability(plain) == pytest.approx(sum(right) / 1499)


def test_separated_clusters_are_more_learnable_than_a_cloud():
    assert cluster_learnability(Clusters.of(gaussian(1000, 50), 10)) < 0.8
    assert cluster_learnability(Clusters.of(blobs([100] * 10, spread=0.02), 10)) > 0.98


@pytest.mark.parametrize(("rows", "count"), [(2, 2), (30, 3), (999, 99), (10_000, 100)])
def test_the_default_number_of_clusters_is_100_or_a_tenth_of_the_rows(rows, count):
    assert default_count(rows) == count


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_few_rows_have_clusters(n):
    found = Clusters.of(gaussian(n, 20))
    assert 0 < float(cluster_usage(found)) <= 1
    assert math.isnan(cluster_learnability(found)) == (n == 1)


@pytest.mark.parametrize("count", [0, 21])
def test_no_clusters_or_more_clusters_than_rows_are_refused(count):
    with pytest.raises(SSLToolError, match="20"):
        Clusters.of(gaussian(20, 3), count)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_rows_that_are_not_finite_and_prototypes_of_another_width_are_refused(bad):
    x = gaussian(20, 4)
    x[3, 1] = bad
    for metric in (cluster_usage, empty_clusters, cluster_learnability):
        with pytest.raises(SSLToolError):
            metric(x)
    with pytest.raises(SSLToolError):
        Clusters.of_prototypes(gaussian(20, 4), gaussian(5, 3))


def test_clusters_depend_only_on_the_seed():
    x = gaussian(300, 10)
    first = Clusters.of(x, 20, seed=1).assigned
    torch.manual_seed(7)
    assert torch.equal(Clusters.of(x, 20, seed=1).assigned, first)
    assert not torch.equal(Clusters.of(x, 20, seed=2).assigned, first)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 80), d=st.integers(2, 30), seed=st.integers(0, 99), scale=st.sampled_from([1e-5, 3.0, 1e5]))
def test_order_rotation_and_scale_change_nothing(n, d, seed, scale):
    x = gaussian(n, d, seed)
    turned = scale * x[torch.randperm(n)] @ torch.linalg.qr(gaussian(d, d, seed + 1)).Q
    for metric in (cluster_usage, empty_clusters, cluster_learnability):
        assert float(metric(turned)) == pytest.approx(float(metric(x)), rel=1e-9)
