"""Metrics of the rows: closed forms, loops over pairs, known distributions, and invalid inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist, squareform
from scipy.special import hyp0f1
from torch import Tensor

from ssltool.diagnosis.metrics import of_spectrum
from ssltool.diagnosis.metrics.of_rows import (
    Directions,
    coherence,
    feature_std,
    feature_std_tensor,
    mean_cosine,
    mean_norm,
    self_cluster,
    twonn,
    uniformity,
    w2_uniformity,
)
from ssltool.diagnosis.metrics.of_spectrum import effective_rank
from ssltool.diagnosis.spectrum import singular_values
from ssltool.errors import SSLToolError


def rankme(x: Tensor) -> float:
    return of_spectrum.rankme(singular_values(x, center=False))


ALL = [rankme, feature_std, mean_cosine, self_cluster, w2_uniformity, uniformity, twonn]
STREAMING = [rankme, feature_std, mean_cosine, self_cluster, w2_uniformity, mean_norm]
OF_DIRECTIONS = [feature_std, mean_cosine, self_cluster, w2_uniformity, uniformity]

# What rankme adds to each share, 1e-7, moves the entropy by less than d times 2e-6 (1e-7 is e^-16).
EPSILON = 2e-6


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def lengths(n: int, *, low: float = 0.1, high: float = 10.0) -> Tensor:
    return low + (high - low) * torch.rand(n, 1, generator=torch.Generator().manual_seed(1))


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(gaussian(d, d, seed=2).double()).Q


def simplex(n: int) -> Tensor:
    """n directions, all at the same angle: the corners of a simplex about its centre."""
    return torch.eye(n, dtype=torch.float64) - 1 / n


def cosines(x: Tensor) -> np.ndarray:
    """The cosines of all pairs of different rows, (N, N - 1), by a loop over pairs; 0 with a row of zeros."""
    rows = x.double().numpy()
    norms = [max(math.sqrt(sum(v * v for v in row)), 1e-300) for row in rows]
    return np.array(
        [
            [float(np.dot(rows[i], rows[j])) / norms[i] / norms[j] for j in range(len(rows)) if j != i]
            for i in range(len(rows))
        ]
    )


def with_singular_values(s: list[float], n: int = 60) -> Tensor:
    """A matrix of n rows with the singular values ``s``, before any centring."""
    return torch.linalg.qr(gaussian(n, len(s)).double()).Q * torch.tensor(s) @ rotation(len(s))


@pytest.mark.parametrize("d", [2, 16, 50])
def test_rankme_of_a_flat_spectrum_is_the_width_and_of_one_direction_1(d):
    assert rankme(with_singular_values([0.3] * d)) == pytest.approx(d, rel=d * EPSILON)
    assert rankme(with_singular_values([0.3] + [0.0] * (d - 1))) == pytest.approx(1, rel=d * EPSILON)


@pytest.mark.parametrize("copies", [2, 3, 60])
def test_rankme_of_a_half_and_two_quarters_is_one_and_a_half_bits_however_often_the_rows_repeat(copies):
    x = with_singular_values([2.0, 1.0, 1.0])
    assert rankme(x) == pytest.approx(2**1.5, rel=3 * EPSILON)
    assert rankme(torch.cat([x] * copies)) == pytest.approx(rankme(x), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_rankme_equals_eq_1_by_loops_for_any_number_of_rows(seed):
    for x in (gaussian(40, 7, seed) + 0.5, gaussian(5, 7, seed)):
        s = np.linalg.svd(x.double().numpy(), compute_uv=False)
        shares = [value / sum(s) + 1e-7 for value in s]
        assert rankme(x) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-9)
        assert of_spectrum.rankme(torch.from_numpy(s)) == pytest.approx(rankme(x), rel=1e-9)


def test_rankme_counts_the_mean_as_a_direction_and_effective_rank_does_not():
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])  # one direction about the mean, which is another of the same length
    assert effective_rank(singular_values(x)) == pytest.approx(1.0)
    assert rankme(x) == pytest.approx(2.0, rel=2 * EPSILON)


@pytest.mark.parametrize(("n", "d"), [(2000, 16), (5000, 64), (500, 256)])
def test_uniform_directions_have_feature_std_1(n, d):
    # A coordinate of a random unit vector has variance 1 / d, which N rows estimate with a relative deviation of
    # sqrt(2 / N) and a bias of -1 / N; the square root halves both, and the mean over d nearly independent
    # dimensions averages.
    assert feature_std(gaussian(n, d)) == pytest.approx(1.0, abs=2 / n + 5 * math.sqrt(1 / (2 * n * d)))


def test_feature_std_of_a_stretched_circle_is_that_of_the_projected_normal():
    # With covariance diag(a^2, 1), the first coordinate of the direction has the mean square a / (1 + a).
    a, n = 3.0, 50_000
    wanted = math.sqrt(2) * (math.sqrt(a / (1 + a)) + math.sqrt(1 / (1 + a))) / 2
    assert feature_std(gaussian(n, 2) * torch.tensor([a, 1.0])) == pytest.approx(wanted, abs=5 / math.sqrt(n))


def test_feature_std_is_its_definition():
    x = gaussian(300, 12) + 0.5
    unit = x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True)
    assert feature_std(x) == pytest.approx(unit.std(axis=0).mean() * math.sqrt(12), rel=1e-10)


def test_two_opposite_rows_have_the_feature_std_of_their_direction():
    # Unit rows (u, -u): each dimension deviates by |u_i|, so the metric is sqrt(d) mean |u_i|.
    assert feature_std(torch.tensor([[3.0, 4.0], [-3.0, -4.0]])) == pytest.approx(math.sqrt(2) * 0.7)


def test_feature_std_does_not_detect_a_subspace_but_the_rank_does():
    mixed = torch.nn.functional.pad(gaussian(4000, 4), (0, 4)).double() @ rotation(8)
    assert feature_std(mixed) > 0.9
    assert effective_rank(singular_values(mixed)) == pytest.approx(4, rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_feature_std_tensor_is_a_double_precision_scalar(dtype):
    x = gaussian(200, 8).to(dtype)
    found = feature_std_tensor(x)
    assert (found.dtype, found.shape) == (torch.float64, ())
    assert float(found) == feature_std(x)


@pytest.mark.parametrize("seed", range(3))
def test_mean_cosine_is_the_mean_over_pairs(seed):
    x = gaussian(60, 7, seed) + 0.4
    assert mean_cosine(x) == pytest.approx(cosines(x).mean(), rel=1e-10)


def test_mean_cosine_of_known_directions():
    assert mean_cosine(torch.eye(6)) == pytest.approx(0.0, abs=1e-15)
    assert mean_cosine(torch.tensor([[1.0, 2.0], [-3.0, -6.0]])) == pytest.approx(-1.0)
    assert mean_cosine(torch.cat([torch.eye(2)] * 5)) == pytest.approx(4 / 9)  # 4 of the 9 others agree
    for n in (2, 3, 10):
        assert mean_cosine(simplex(n)) == pytest.approx(-1 / (n - 1))  # as low as n directions go


def test_mean_cosine_of_even_directions_is_0_within_its_standard_error():
    n, d = 3000, 32
    assert mean_cosine(gaussian(n, d)) == pytest.approx(0.0, abs=5 * math.sqrt(2 / (d * n * (n - 1))))


@pytest.mark.parametrize("seed", range(3))
def test_self_cluster_is_the_papers_ratio_over_all_pairs(seed):
    n, d = 50, 6
    x = gaussian(n, d, seed) + 0.4
    found = n + np.square(cosines(x)).sum()
    expected = n + n * (n - 1) / d
    assert self_cluster(x) == pytest.approx((found - expected) / (n * n - expected), rel=1e-10)


@pytest.mark.parametrize(("copies", "d"), [(1, 2), (1, 8), (5, 3), (40, 16)])
def test_self_cluster_of_a_repeated_basis_is_the_minimum(copies, d):
    # Every tight frame of N rows has Q = N^2 / d, which gives -1 / (N - 1).
    x = torch.cat([rotation(d)] * copies)
    assert self_cluster(x) == pytest.approx(-1 / (len(x) - 1))


@pytest.mark.parametrize(("k", "d"), [(1, 4), (2, 4), (3, 12)])
def test_self_cluster_of_k_directions_of_d_grows_as_k_falls(k, d):
    n = 10 * k
    x = torch.cat([rotation(d)[:k]] * 10)  # Q = N^2 / k
    expected = n + n * (n - 1) / d
    assert self_cluster(x) == pytest.approx((n * n / k - expected) / (n * n - expected))


def test_self_cluster_of_even_directions_is_0_within_its_standard_error():
    # cos^2 of two random directions has mean 1 / d and variance 2 (d - 1) / (d^2 (d + 2)), and pairs are uncorrelated.
    n, d = 2000, 16
    spread = math.sqrt(2 * n * (n - 1) * 2 * (d - 1) / (d**2 * (d + 2)))
    assert self_cluster(gaussian(n, d)) == pytest.approx(0.0, abs=5 * spread / (n * n * (1 - 1 / d)))


def test_self_cluster_is_invariant_to_signs_and_1_in_one_dimension():
    x = gaussian(50, 6) + 0.4
    assert self_cluster(x * gaussian(50, 1, seed=9).sign()) == pytest.approx(self_cluster(x), rel=1e-12)
    assert self_cluster(gaussian(50, 1)) == 1.0


@pytest.mark.parametrize(("k", "d"), [(1, 4), (4, 4), (3, 12), (16, 64)])
def test_w2_uniformity_of_signed_axes_is_that_of_their_share(k, d):
    x = torch.cat([rotation(d)[:k], -rotation(d)[:k]] * 3)  # mean 0, covariance 1 / k in k dimensions
    assert w2_uniformity(x) == pytest.approx(math.sqrt(2 - 2 * math.sqrt(k / d)), abs=1e-7)


@pytest.mark.parametrize(("n", "d"), [(200, 6), (6, 20), (2, 5)])
def test_w2_uniformity_is_the_wasserstein_distance_of_two_gaussians_by_matrix_roots(n, d):
    unit = torch.nn.functional.normalize(gaussian(n, d).double() + 0.4, dim=1).numpy()
    mean, covariance = unit.mean(axis=0), np.cov(unit.T, ddof=0)
    values, vectors = np.linalg.eigh(covariance)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    wanted = math.sqrt(mean @ mean + 1 + np.trace(covariance) - 2 / math.sqrt(d) * np.trace(root))
    assert w2_uniformity(gaussian(n, d) + 0.4) == pytest.approx(wanted, abs=1e-6)


def test_w2_uniformity_of_even_directions_vanishes_with_the_number_of_rows_and_of_equal_ones_is_root_2():
    few, many = (w2_uniformity(gaussian(n, 16)) for n in (200, 20_000))
    assert many < 0.02 < few
    assert w2_uniformity(torch.ones(50, 7)) == pytest.approx(math.sqrt(2))
    assert w2_uniformity(torch.zeros(5, 3)) == 1.0


def test_w2_uniformity_sees_the_dimensional_collapse_that_feature_std_and_uniformity_hardly_see():
    half = torch.nn.functional.pad(gaussian(4000, 64), (0, 64)).double() @ rotation(128)
    whole = gaussian(4000, 128)
    assert w2_uniformity(half) - w2_uniformity(whole) > 0.6
    assert abs(uniformity(half[:1000]) - uniformity(whole[:1000])) < 0.1
    assert abs(feature_std(half) - feature_std(whole)) < 0.05


def test_the_mean_norm_is_the_mean_length_and_scales_with_the_rows():
    assert mean_norm(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -1.0]])) == pytest.approx(2.0)
    x = gaussian(300, 8).double() + 0.3
    for scale in (1e-30, 1e-3, 1e30):
        assert mean_norm(scale * x) == pytest.approx(scale * float(x.norm(dim=1).mean()), rel=1e-12)
    assert mean_norm(x @ rotation(8)) == pytest.approx(mean_norm(x), rel=1e-12)


@pytest.mark.parametrize("t", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("n", [2, 70, 1024, 1500])
def test_uniformity_is_the_log_of_the_mean_over_scipys_pairs(n, t):
    x = gaussian(n, 5) + 0.3
    unit = x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True)
    wanted = math.log(np.exp(-t * pdist(unit, "sqeuclidean")).mean())
    assert uniformity(x, t=t) == pytest.approx(wanted, rel=1e-9)


def test_uniformity_of_known_directions():
    assert uniformity(torch.eye(6)) == pytest.approx(-4.0)
    assert uniformity(torch.tensor([[1.0, 2.0], [-3.0, -6.0]])) == pytest.approx(-8.0)
    for n in (2, 3, 10):
        assert uniformity(simplex(n)) == pytest.approx(-4 * n / (n - 1))


@pytest.mark.parametrize("d", [2, 8, 128])
def test_uniformity_of_even_directions_is_the_integral_over_the_sphere(d):
    # The mean of exp(k cos) is 0F1(d / 2, k^2 / 4), and dist^2 = 2 - 2 cos.
    n = 2000
    mean, square = math.exp(-4) * hyp0f1(d / 2, 4), math.exp(-8) * hyp0f1(d / 2, 16)
    error = math.sqrt((square - mean**2) * 2 / (n * (n - 1))) / mean
    assert uniformity(gaussian(n, d)) == pytest.approx(math.log(mean), abs=5 * error)


def two_nearest(x: Tensor) -> float:
    """twonn from scipy's whole matrix of distances."""
    distance = np.sort(squareform(pdist(np.unique(x.double().numpy(), axis=0))), axis=1)
    return len(distance) / np.log(distance[:, 2] / distance[:, 1]).sum()


@pytest.mark.parametrize(("n", "d"), [(3, 2), (10, 1), (300, 5), (1024, 3), (1500, 20)])
def test_twonn_is_that_of_scipys_distances(n, d):
    assert twonn(gaussian(n, d)) == pytest.approx(two_nearest(gaussian(n, d)), rel=1e-9)


@pytest.mark.parametrize("jitter", [1e-3, 1e-5, 1e-7])
def test_twonn_of_distant_clusters_is_the_dimension_within_clusters(jitter):
    inner = gaussian(900, 4).double()
    centres = 3 * gaussian(3, 4, seed=1).double().repeat_interleave(300, dim=0)
    each = [cdist(part, part) for part in inner.split(300)]  # the distances within clusters are those that count
    nearest = np.concatenate([np.sort(part, axis=1)[:, 1:3] for part in each])
    wanted = 900 / np.log(nearest[:, 1] / nearest[:, 0]).sum()
    assert twonn(centres + jitter * inner) == pytest.approx(wanted, rel=1e-2)


@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("width", [8, 40])
def test_twonn_of_a_torus_is_its_dimension_however_wide_the_space(d, width):
    angles = 2 * math.pi * torch.rand(2500, d, generator=torch.Generator().manual_seed(d), dtype=torch.float64)
    x = torch.nn.functional.pad(torch.cat([angles.cos(), angles.sin()], dim=1), (0, width - 2 * d)) @ rotation(width)
    assert twonn(x) == pytest.approx(d, abs=4 * d / math.sqrt(2500))


def test_twonn_of_a_sphere_is_2_and_of_a_line_1():
    assert twonn(torch.nn.functional.normalize(gaussian(2500, 3), dim=1)) == pytest.approx(2, abs=8 / 50)
    assert twonn(torch.rand(2500, 1, generator=torch.Generator().manual_seed(0)) * gaussian(1, 30)) == pytest.approx(
        1, abs=4 / 50
    )


def test_twonn_of_evenly_spaced_points_comes_from_the_ends_alone():
    for n in (3, 4, 50):
        line = torch.arange(n)[:, None]
        assert twonn(line) == pytest.approx(n / (2 * math.log(2)))  # r2 / r1 = 2 at both ends, 1 elsewhere
    assert twonn(torch.tensor([[0.0], [1.0], [3.0]])) == pytest.approx(3 / math.log(3 / 1 * 2 / 1 * 3 / 2))
    assert twonn(torch.eye(3)) == math.inf  # an equilateral triangle: r1 = r2 everywhere


def test_twonn_counts_duplicate_rows_once():
    x = gaussian(200, 4)
    assert twonn(torch.cat([x, x, x[:30]])) == pytest.approx(twonn(x), rel=1e-12)
    signed = torch.cat([torch.tensor([[0.0, 1.0], [-0.0, 1.0]]), gaussian(9, 2)])
    assert twonn(signed) == pytest.approx(twonn(signed[1:]), rel=1e-12)


@pytest.mark.parametrize("x", [torch.ones(9, 3), torch.zeros(9, 3), torch.eye(2).repeat(5, 1), gaussian(1, 3)])
def test_fewer_than_three_different_rows_have_no_twonn(x):
    assert math.isnan(twonn(x))


def test_twonn_is_invariant_to_shifts():
    x = gaussian(300, 4).double()
    assert twonn(x + 1000) == pytest.approx(twonn(x), rel=1e-6)


@pytest.mark.parametrize("n", [2, 10, 3000])
def test_equal_directions_are_complete_collapse(n):
    row = gaussian(1, 32)
    for x in (row.expand(n, 32), row * lengths(n)):
        # The difference of two sums of squares below 1 is off by some 1e-16; its root, times sqrt(32), by some 1e-7.
        assert feature_std(x) == pytest.approx(0.0, abs=1e-6)
        assert mean_cosine(x) == pytest.approx(1.0)
        assert self_cluster(x) == pytest.approx(1.0)
        assert uniformity(x) == pytest.approx(0.0, abs=1e-12)
        assert rankme(x) == pytest.approx(1.0, rel=32 * EPSILON)


@pytest.mark.parametrize("metric", OF_DIRECTIONS)
def test_metrics_of_directions_are_invariant_to_row_norms(metric):
    x = gaussian(300, 8).double() + 0.3
    assert metric(x * lengths(300)) == pytest.approx(metric(x), rel=1e-9)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e-6, 1e15, 1e30])
def test_metrics_of_directions_work_at_any_scale(metric, scale):
    x = gaussian(60, 8).double() + 0.3
    assert metric(scale * x) == pytest.approx(metric(x), rel=1e-9)


@pytest.mark.parametrize("metric", STREAMING)
@pytest.mark.parametrize("sizes", [[500], [1, 499], [0, 7, 0, 493], [100] * 5, [1] * 500])
def test_blocks_give_the_result_of_the_whole_matrix(metric, sizes):
    x = gaussian(500, 8) + 0.3
    assert metric(iter(x.split(sizes))) == pytest.approx(metric(x), rel=1e-9)


def test_an_integer_weight_equals_repeated_rows():
    x = gaussian(80, 6) + 0.3
    weights = torch.randint(0, 6, (80,), generator=torch.Generator().manual_seed(4))
    found, wanted = Directions(gram=True), Directions.of(x.repeat_interleave(weights, dim=0), gram=True)
    for block, weight in zip(x.split(33), weights.split(33), strict=True):
        found.update(block, weight)
    assert found.rows == wanted.rows
    for metric in (feature_std, mean_cosine, self_cluster, w2_uniformity, mean_norm):
        assert metric(found) == pytest.approx(metric(wanted), rel=1e-12)


def test_rows_of_zeros_have_cosine_0_with_all_and_distance_0_from_one_another():
    x = torch.cat([gaussian(9, 3) + 0.4, torch.zeros(4, 3)])
    assert mean_cosine(x) == pytest.approx(cosines(x).mean(), rel=1e-10)
    unit = torch.nn.functional.normalize(x.double(), dim=1).numpy()
    assert feature_std(x) == pytest.approx(unit.std(axis=0).mean() * math.sqrt(3), rel=1e-10)
    assert uniformity(x) == pytest.approx(math.log(np.exp(-2 * pdist(unit, "sqeuclidean")).mean()), rel=1e-10)
    for metric in (feature_std, mean_cosine, uniformity):
        assert metric(torch.zeros(5, 3)) == 0.0
    assert rankme(torch.zeros(5, 3)) == 1.0


def test_a_single_row_has_no_pairs():
    assert feature_std(gaussian(1, 3)) == 0.0
    assert rankme(gaussian(1, 3)) == pytest.approx(1.0, rel=3 * EPSILON)
    for metric in (mean_cosine, self_cluster, uniformity):
        with pytest.raises(SSLToolError, match=r"at least 2"):
            metric(gaussian(1, 3))


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("shape", [(0, 3), (), (4,), (2, 3, 4)])
def test_invalid_shapes_are_refused(metric, shape):
    with pytest.raises(SSLToolError, match=r"no representations|\(N, d\)"):
        metric(torch.zeros(shape))


@pytest.mark.parametrize("metric", STREAMING)
def test_blocks_of_different_widths_are_refused(metric):
    with pytest.raises(SSLToolError, match="widths 3 and 4"):
        metric([gaussian(2, 3), gaussian(2, 4)])


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(metric, bad):
    x = gaussian(20, 3)
    x[4, 1] = bad
    with pytest.raises(SSLToolError, match="NaN or infinite"):
        metric(x)


@pytest.mark.parametrize(("n", "d"), [(12, 4), (40, 5), (3, 9)])
def test_rows_of_equal_weight_have_coherence_1(n, d):
    """The columns of a matrix with all entries of one size are orthogonal: cosines of the discrete transform."""
    angle = 2 * math.pi * torch.outer(torch.arange(n), torch.arange(1, d // 2 + 1)).double() / n
    x = torch.cat([angle.cos(), angle.sin()], dim=1) if n > d else torch.eye(n, d)
    assert coherence(x) == pytest.approx(1)


def test_a_row_with_a_direction_of_its_own_has_the_highest_coherence():
    x = gaussian(50, 4).double()
    x[:, 3] = 0
    x[7] = torch.tensor([0.0, 0.0, 0.0, 5.0])
    assert coherence(x) == pytest.approx(50 / 4)
    assert coherence(x[:, :3][x[:, 0] != 0]) < 49 / 3


def test_coherence_is_the_largest_leverage_of_a_row():
    x = gaussian(60, 5).double() + 2
    hat = x @ torch.linalg.inv(x.T @ x) @ x.T
    assert coherence(x) == pytest.approx(float(hat.diagonal().max()) * 60 / 5)
    assert coherence(x @ (torch.eye(5) + 0.3 * gaussian(5, 5, 1)).double()) == pytest.approx(coherence(x))


def test_coherence_counts_only_directions_that_the_rows_span():
    x = gaussian(60, 5).double()
    assert coherence(torch.cat([x, x[:, :3]], dim=1)) == pytest.approx(coherence(x))
    assert math.isnan(coherence(torch.zeros(5, 3)))
    assert coherence(torch.full((5, 3), 2.0)) == pytest.approx(1)
