"""Metrics of several views: loops over pairs, the paper's formula by scipy's matrix roots, and designed views."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ssltool.diagnosis.metrics.of_views import alignment, lidar
from ssltool.errors import SSLToolError

DELTA = 1e-4

# What lidar adds to each share, 1e-8, moves the entropy by less than 2e-7 for every dimension (1e-8 is e^-18).
EPSILON = 2e-7


def views(n: int, q: int, d: int, seed: int = 0, *, apart: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 1, d, generator=generator, dtype=torch.float64) * torch.linspace(1, 0.2, d)
    return 1 + means + apart * torch.randn(n, q, d, generator=generator, dtype=torch.float64)


def designed(between: list[float], within: list[float], n: int = 64) -> Tensor:
    """Two views of each image whose covariances between and within images are diagonal with these values, exactly."""
    d = len(between)
    signs = torch.from_numpy(scipy.linalg.hadamard(n)).double()
    means = signs[:, 1 : d + 1] * (torch.tensor(between, dtype=torch.float64) * (n - 1) / n).sqrt()
    # Views at means +- w have N rows of 2 w^2 in all, over N (Q - 1) = N.
    offsets = signs[:, d + 1 : 2 * d + 1] * (torch.tensor(within, dtype=torch.float64) / 2).sqrt()
    return torch.stack([means + offsets, means - offsets], dim=1)


def exponential_of_entropy(values: list[float]) -> float:
    shares = np.array(values) / sum(values)
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def lidar_by_matrix_roots(x: Tensor) -> float:
    """Sections 3 and 4 of arXiv:2312.04000, a sum of outer products at a time."""
    x = x.double().numpy()
    n, q, d = x.shape
    means = x.mean(axis=1)
    centre = means.mean(axis=0)
    between = sum(np.outer(mean - centre, mean - centre) for mean in means) / (n - 1)
    within = sum(np.outer(x[i, j] - means[i], x[i, j] - means[i]) for i in range(n) for j in range(q)) / (n * (q - 1))
    root = scipy.linalg.inv(scipy.linalg.sqrtm(within + DELTA * np.eye(d)))
    eigenvalues = np.clip(scipy.linalg.eigvalsh(root @ between @ root), 0, None)
    shares = eigenvalues / eigenvalues.sum() + 1e-8
    return math.exp(-sum(p * math.log(p) for p in shares))


@pytest.mark.parametrize(("n", "q", "d"), [(1, 2, 3), (20, 2, 5), (15, 3, 4), (6, 7, 2)])
def test_alignment_is_the_mean_squared_distance_over_all_pairs_of_views(n, q, d):
    x = views(n, q, d)
    distances = []
    for image in x.numpy():
        for a, b in itertools.combinations(image, 2):
            distances.append(sum((a / math.sqrt(sum(a * a)) - b / math.sqrt(sum(b * b))) ** 2))
    assert alignment(x) == pytest.approx(sum(distances) / len(distances), rel=1e-10)


def test_alignment_of_known_views():
    a = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    assert alignment(torch.stack([a, 3 * a], dim=1)) == pytest.approx(0.0, abs=1e-12)
    assert alignment(torch.stack([a, -a], dim=1)) == pytest.approx(4.0)
    assert alignment(torch.eye(4).expand(5, 4, 4)) == pytest.approx(2.0)
    assert alignment(torch.stack([a, a, -a], dim=1)) == pytest.approx(8 / 3)  # of three pairs two are opposite


def test_alignment_of_unrelated_views_is_2_within_its_standard_error():
    n, d = 4000, 10  # dist^2 = 2 - 2 cos, and cos has variance 1 / d
    x = torch.randn(n, 2, d, generator=torch.Generator().manual_seed(0))
    assert alignment(x) == pytest.approx(2.0, abs=5 * 2 / math.sqrt(d * n))


def test_alignment_is_invariant_to_norms():
    x = views(20, 3, 5)
    scale = 0.1 + torch.rand(20, 3, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert alignment(x * scale) == pytest.approx(alignment(x), rel=1e-10)
    assert alignment(1e-20 * x) == pytest.approx(alignment(x), rel=1e-10)


@pytest.mark.parametrize(("n", "q", "d"), [(50, 2, 4), (40, 5, 12), (200, 10, 16), (10, 3, 30)])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 100.0])
def test_lidar_is_the_papers_by_matrix_roots(n, q, d, scale):
    # Where images are fewer than dimensions, the values that are 0 anyhow may add their 1e-8 or not.
    x = scale * views(n, q, d)
    assert lidar(x) == pytest.approx(lidar_by_matrix_roots(x), rel=1e-8 + max(0, d + 1 - n) * EPSILON)


def test_lidar_of_designed_views_is_that_of_the_ratios_of_their_variances():
    between, within = [8.0, 4.0, 1.0, 0.25], [1.0, 2.0, 0.1, 0.5]
    ratios = [b / (w + DELTA) for b, w in zip(between, within, strict=True)]
    assert lidar(designed(between, within)) == pytest.approx(exponential_of_entropy(ratios), rel=4 * EPSILON)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_lidar_of_views_that_agree_is_the_rank_of_their_images(k):
    x = designed([2.0] * k + [0.0] * (8 - k), [0.0] * 8)
    assert lidar(x) == pytest.approx(k, rel=8 * EPSILON)


def test_lidar_is_the_width_if_views_vary_as_much_as_images():
    variances = [100.0, 10.0, 1.0]
    assert lidar(designed(variances, variances)) == pytest.approx(3.0, rel=DELTA)
    assert lidar(designed(variances, [1.0, 1.0, 1.0])) == pytest.approx(exponential_of_entropy(variances), rel=1e-5)


def test_lidar_counts_directions_that_discriminate_images_not_views():
    useful, noise = [1.0, 1.0, 1e-6, 1e-6], [0.1, 0.1, 1.0, 1.0]
    assert lidar(designed(useful, noise)) == pytest.approx(2.0, rel=1e-3)


def test_lidar_is_invariant_to_a_change_of_basis():
    x = 1e4 * views(60, 4, 6)  # beside which 1e-4 is nothing
    basis = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert lidar(x @ basis) == pytest.approx(lidar(x), rel=1e-6)


@pytest.mark.parametrize("metric", [alignment, lidar])
def test_metrics_are_invariant_to_the_order_of_images_and_views(metric):
    x = views(30, 4, 5)
    generator = torch.Generator().manual_seed(2)
    shuffled = x[torch.randperm(30, generator=generator)][:, torch.randperm(4, generator=generator)]
    assert metric(shuffled) == pytest.approx(metric(x), rel=1e-10)


def test_lidar_is_invariant_to_shifts():
    x = views(30, 4, 5)
    assert lidar(x + 100.0) == pytest.approx(lidar(x), rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_equal_views_are_complete_collapse(value):
    x = torch.full((20, 3, 8), value)
    assert alignment(x) == pytest.approx(0.0, abs=1e-12)
    assert lidar(x) == pytest.approx(1.0, rel=8 * EPSILON)


@pytest.mark.parametrize("q", [2, 5])
def test_lidar_lies_between_1_and_the_width_or_the_images(q):
    for n in (2, 5, 100):
        assert 1 <= lidar(views(n, q, 12)) <= min(n - 1, 12) * (1 + 12 * EPSILON)


@pytest.mark.parametrize("metric", [alignment, lidar])
@pytest.mark.parametrize("shape", [(), (4,), (5, 4), (5, 1, 4), (0, 2, 4), (2, 2, 2, 2)])
def test_invalid_shapes_are_refused(metric, shape):
    with pytest.raises(SSLToolError, match=r"\(N, Q, d\) .*--views"):
        metric(torch.zeros(shape))


def test_lidar_of_one_image_is_refused_and_its_alignment_is_not():
    with pytest.raises(SSLToolError, match=r"lidar .*found 1"):
        lidar(views(1, 5, 3))
    assert alignment(views(1, 5, 3)) > 0


@pytest.mark.parametrize("metric", [alignment, lidar])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(metric, bad):
    x = views(20, 3, 4)
    x[7, 1, 2] = bad
    with pytest.raises(SSLToolError, match="NaN or infinite"):
        metric(x)
