"""The metrics: closed forms, an independent reference for the paper's equation, and the extremes that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ssltool.collapse import metrics
from ssltool.collapse.metrics import auc, effective_rank, feature_std, feature_std_tensor, rankme, rankme_of_spectrum
from ssltool.collapse.spectrum import row_blocks, singular_values
from ssltool.errors import SSLToolError


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def auc_of_eq_2(s: np.ndarray) -> float:
    """Eq. 2 of arXiv:2209.15007 by two loops."""
    total, explained = sum(s), []
    for j in range(1, len(s) + 1):
        explained.append(sum(s[i] for i in range(j)) / total)
    return sum(explained) / len(explained)


@pytest.mark.parametrize("d", [1, 2, 10, 512])
def test_a_flat_spectrum_has_the_smallest_auc_and_the_full_rank(d):
    s = torch.full((d,), 3.7)
    assert auc(s) == pytest.approx((d + 1) / (2 * d), rel=1e-12)
    assert effective_rank(s) == pytest.approx(d, rel=1e-12)


@pytest.mark.parametrize("d", [2, 10, 512])
def test_a_single_direction_has_auc_1_and_rank_1(d):
    s = torch.zeros(d)
    s[0] = 0.01
    assert auc(s) == 1.0
    assert effective_rank(s) == 1.0


def test_equal_rows_are_complete_collapse():
    s = singular_values(torch.full((4000, 32), 0.3))
    assert auc(s) == 1.0
    assert effective_rank(s) == 0.0


@pytest.mark.parametrize(("k", "d"), [(1, 8), (3, 8), (8, 8)])
def test_k_equal_directions_of_d_have_rank_k_and_the_auc_of_a_ramp(k, d):
    s = torch.cat([torch.ones(k), torch.zeros(d - k)])
    assert effective_rank(s) == pytest.approx(k)
    assert auc(s) == pytest.approx((sum(range(1, k + 1)) / k + d - k) / d)


@pytest.mark.parametrize(("ratio", "d"), [(0.5, 20), (0.9, 20), (0.99, 200)])
def test_a_geometric_spectrum_has_the_auc_of_the_geometric_series(ratio, d):
    s = torch.tensor([ratio**i for i in range(d)], dtype=torch.float64)
    wanted = sum(1 - ratio ** (j + 1) for j in range(d)) / (d * (1 - ratio**d))
    assert auc(s) == pytest.approx(wanted, rel=1e-12)


def test_the_entropy_of_a_half_and_two_quarters_is_one_and_a_half_bits():
    assert effective_rank(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2**1.5, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_eq_2_by_loops(seed):
    s = np.sort(np.random.default_rng(seed).gamma(0.5, size=40))[::-1]
    assert auc(torch.from_numpy(s.copy())) == pytest.approx(auc_of_eq_2(s), rel=1e-12)


def test_neither_order_nor_scale_nor_precision_of_the_values_matters():
    s = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5])
    for metric in (auc, effective_rank):
        for other in (s.flip(0), 1e-3 * s, s.half()):
            assert metric(other) == pytest.approx(metric(s), rel=1e-3 if other.dtype == torch.half else 1e-6)
        assert metric(s.flip(0)) == metric(s)


def test_auc_rises_and_rank_falls_as_directions_vanish():
    spectra = [torch.tensor([1.0, 1.0, 1.0, x]) for x in (1.0, 0.5, 0.1, 0.0)]
    areas, ranks = [auc(s) for s in spectra], [effective_rank(s) for s in spectra]
    assert areas == sorted(areas)
    assert len(set(areas)) == 4
    assert ranks == sorted(ranks, reverse=True)


def of_spectrum(s: list[float], n: int = 60, *, seed: int = 0) -> Tensor:
    """A matrix of n rows with the singular values ``s``, before any centring."""
    left = torch.linalg.qr(gaussian(n, len(s), seed).double()).Q
    right = torch.linalg.qr(gaussian(len(s), len(s), seed + 1).double()).Q
    return left * torch.tensor(s) @ right


# What is added to each share, 1e-7, moves the entropy by less than d times 2e-6 (1e-7 is e^-16).
EPSILON = 2e-6


@pytest.mark.parametrize("d", [2, 16, 50])
def test_rankme_of_a_flat_spectrum_is_the_width_and_of_one_direction_1(d):
    assert rankme(of_spectrum([0.3] * d)) == pytest.approx(d, rel=d * EPSILON)
    assert rankme(of_spectrum([0.3] + [0.0] * (d - 1))) == pytest.approx(1, rel=d * EPSILON)


@pytest.mark.parametrize("n", [2, 3, 60])
def test_rankme_of_a_half_and_two_quarters_is_one_and_a_half_bits_whatever_the_rows(n):
    x = of_spectrum([2.0, 1.0, 1.0], 60)
    assert rankme(x) == pytest.approx(2**1.5, rel=3 * EPSILON)
    assert rankme(1e-3 * x) == pytest.approx(rankme(x), rel=1e-9)
    assert rankme(torch.cat([x] * n)) == pytest.approx(rankme(x), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_rankme_is_eq_1_by_loops_also_where_rows_are_fewer_than_dimensions(seed):
    for x in (gaussian(40, 7, seed) + 0.5, gaussian(5, 7, seed)):
        s = np.linalg.svd(x.double().numpy(), compute_uv=False)
        shares = [value / sum(s) + 1e-7 for value in s]
        assert rankme(x) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-9)
        assert rankme_of_spectrum(torch.from_numpy(s)) == rankme_of_spectrum(torch.from_numpy(s[::-1].copy()))


def test_rankme_counts_the_mean_as_a_direction_and_effective_rank_does_not():
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])  # one direction about the mean, which is another of the same length
    assert effective_rank(singular_values(x)) == pytest.approx(1.0)
    assert rankme(x) == pytest.approx(2.0, rel=2 * EPSILON)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_equal_rows_have_rankme_1(value):
    assert rankme(torch.full((50, 8), value)) == pytest.approx(1.0, rel=8 * EPSILON)


@pytest.mark.parametrize("n", [1, 3, 200])
def test_the_ranges_hold_for_random_spectra(n):
    s = singular_values(gaussian(200, n))
    assert (n + 1) / (2 * n) <= auc(s) <= 1
    assert 1 <= effective_rank(s) <= n


@pytest.mark.parametrize(("n", "d"), [(2000, 16), (5000, 64), (500, 256)])
def test_directions_spread_evenly_have_feature_std_1(n, d):
    # A coordinate of a random unit vector has variance 1 / d, which N rows estimate with a relative deviation of
    # sqrt(2 / N) and a bias of -1 / N; the square root halves both, and the mean over d nearly independent
    # dimensions averages.
    tolerance = 2 / n + 5 * math.sqrt(1 / (2 * n * d))
    assert feature_std(gaussian(n, d)) == pytest.approx(1.0, abs=tolerance)


def test_equal_directions_have_feature_std_0_whatever_their_lengths():
    row, lengths = gaussian(1, 32), torch.rand(1000, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    # The difference of two sums of 1000 squares below 1 is off by some 1e-16; its root, times sqrt(32), by some 1e-7.
    assert feature_std(row * lengths) == pytest.approx(0.0, abs=1e-6)
    assert feature_std(row.expand(10, 32)) == pytest.approx(0.0, abs=1e-6)


def test_feature_std_is_its_definition():
    x = gaussian(300, 12) + 0.5
    unit = x.double().numpy() / np.linalg.norm(x.double().numpy(), axis=1, keepdims=True)
    assert feature_std(x) == pytest.approx(unit.std(axis=0).mean() * math.sqrt(12), rel=1e-10)


def test_two_opposite_rows_have_the_feature_std_of_their_direction():
    # Unit rows (u, -u): each dimension deviates by |u_i|, so the metric is sqrt(d) mean |u_i|.
    assert feature_std(torch.tensor([[3.0, 4.0], [-3.0, -4.0]])) == pytest.approx(math.sqrt(2) * 0.7)


def test_a_subspace_can_pass_feature_std_but_not_the_rank():
    x = torch.zeros(4000, 8)
    x[:, :4] = gaussian(4000, 4)
    mixed = x @ torch.linalg.qr(gaussian(8, 8, seed=3)).Q
    assert feature_std(mixed) > 0.9
    assert effective_rank(singular_values(mixed)) == pytest.approx(4, rel=1e-2)


def test_feature_std_sees_directions_only():
    x = gaussian(500, 8) + 0.3
    lengths = torch.rand(500, 1, generator=torch.Generator().manual_seed(1)) * 10 + 0.01
    assert feature_std(x * lengths) == pytest.approx(feature_std(x), rel=1e-6)
    assert feature_std(1e-3 * x) == pytest.approx(feature_std(x), rel=1e-6)


@pytest.mark.parametrize("chunk_rows", [1, 7, 499, 5000])
def test_feature_std_does_not_depend_on_the_blocks(monkeypatch, chunk_rows):
    x = gaussian(500, 8)
    whole = feature_std(x)
    monkeypatch.setattr(metrics, "row_blocks", lambda x: row_blocks(x, chunk_rows))
    assert feature_std(x) == pytest.approx(whole, rel=1e-12)


def test_rows_of_zeros_have_no_direction_and_do_no_harm():
    assert feature_std(torch.zeros(5, 3)) == 0.0
    assert math.isfinite(feature_std(torch.cat([torch.zeros(1, 3), gaussian(9, 3)])))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_feature_std_is_computed_in_double_precision_for_any_dtype(dtype):
    x = gaussian(200, 8).to(dtype)
    found = feature_std_tensor(x)
    assert found.dtype == torch.float64
    assert found.shape == ()
    assert float(found) == pytest.approx(feature_std(x.double()), rel=1e-12)


@pytest.mark.parametrize("metric", [auc, effective_rank, rankme_of_spectrum])
@pytest.mark.parametrize("s", [torch.zeros(0), torch.zeros(2, 2), torch.tensor(1.0)])
def test_what_is_no_spectrum_is_refused(metric, s):
    with pytest.raises(SSLToolError, match="a spectrum is one row of singular values"):
        metric(s)


@pytest.mark.parametrize("x", [torch.zeros(0, 3), torch.zeros(4), torch.zeros(2, 3, 4)])
def test_what_are_no_rows_is_refused(x):
    with pytest.raises(SSLToolError, match=r"must be \(N, d\) with rows; found shape"):
        feature_std(x)


@pytest.mark.parametrize("x", [torch.zeros(4), torch.zeros(2, 3, 4)])
def test_what_is_no_matrix_has_no_rankme(x):
    with pytest.raises(SSLToolError, match=r"must be \(N, d\); found shape"):
        rankme(x)


def test_no_rows_have_no_rankme():
    with pytest.raises(SSLToolError, match="there are no representations"):
        rankme(torch.zeros(0, 3))


def test_every_metric_says_how_to_read_it():
    assert set(metrics.READING) == {"auc", "effective_rank", "rankme", "feature_std"}
    for name, meaning in metrics.READING.items():
        assert "collapsed" in meaning
        assert "Range" in getattr(metrics, name).__doc__
