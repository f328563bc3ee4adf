"""The sums of a layer and of a pair of layers in blocks, against all rows at once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssltool.diagnosis.layer_sums import LAYER_METRICS, LayerSums
from ssltool.diagnosis.measure import measure
from ssltool.diagnosis.metrics.of_two_files import CrossMoments, linear_cka


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * torch.linspace(1, 0.01, d) + 3


@pytest.mark.parametrize(("n", "d", "bound"), [(300, 12, None), (300, 12, 5), (40, 64, None), (2500, 7, None)])
@pytest.mark.parametrize("batch", [7, 256])
def test_batches_give_the_metrics_of_all_rows(n, d, bound, batch):
    x, sums = rows(n, d), LayerSums("projector", bound)
    for block in x.split(batch):
        sums.update(block)
    found, wanted = sums.measured(), measure(x, LAYER_METRICS, bound=bound)
    assert found.metrics == pytest.approx(wanted.metrics, rel=1e-10)
    assert found.s.tolist() == pytest.approx(wanted.s.tolist(), rel=1e-9, abs=1e-10)
    assert (found.n, found.d, found.bound, found.dead) == (n, d, bound, len(wanted.dead))


def test_equal_rows_have_no_direction():
    sums = LayerSums("backbone")
    sums.update(torch.full((50, 4), 0.1))
    found = sums.measured()
    assert found.metrics["effective_rank"] == found.own_moments == 0
    assert found.verdict().state == "complete"


@pytest.mark.parametrize("batch", [1, 9, 100])
def test_cka_of_cross_moments_and_spectra_is_that_of_the_rows(batch):
    x, y = rows(100, 6), rows(100, 9, 1)
    y[:, :3] = x[:, :3] ** 2
    moments, first, second = CrossMoments(), LayerSums("backbone"), LayerSums("backbone")
    for a, b in zip(x.split(batch), y.split(batch), strict=True):
        moments.update(a.double(), b.double())
        first.update(a)
        second.update(b)
    found = moments.cka(first.measured().own_moments, second.measured().own_moments)
    assert found == pytest.approx(linear_cka(x, y), rel=1e-10)


def test_cross_moments_are_those_of_the_centred_matrices():
    x, y = rows(60, 4).double(), rows(60, 3, 1).double()
    moments = CrossMoments()
    for a, b in zip(x.split(25), y.split(25), strict=True):
        moments.update(a, b)
    wanted = torch.linalg.matrix_norm((y - y.mean(dim=0)).T @ (x - x.mean(dim=0)))
    assert moments.norm() == pytest.approx(float(wanted), rel=1e-12)
    assert math.isnan(CrossMoments().cka(1.0, 1.0))
