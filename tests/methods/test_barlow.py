"""Barlow Twins: its loss against plain loops and closed forms, its wiring against the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, layers, noisy_batch, rows
from ssltool.methods.barlow import barlow_loss


def by_hand(z1: Tensor, z2: Tensor, lambd: float) -> float:
    """Eq. 1 of arXiv:2103.03230, entry by entry; 1e-5 is added to variances as by batch norm in the released code."""
    a, b = (z.detach().double().numpy() for z in (z1, z2))
    a, b = ((z - z.mean(axis=0)) / np.sqrt(((z - z.mean(axis=0)) ** 2).mean(axis=0) + 1e-5) for z in (a, b))
    n, d = a.shape
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = sum(a[k, i] * b[k, j] for k in range(n)) / n
            total += (c - 1) ** 2 if i == j else lambd * c**2
    return total


UNCORRELATED = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
"""Two dimensions of mean 0 and correlation 0."""


@pytest.mark.parametrize("lambd", [0.0, 0.0051, 1.0])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (8, 5), (4, 9)])
def test_the_loss_equals_eq_1_by_loops(n, d, lambd):
    z1, z2 = rows(2, n=n, d=d)
    assert barlow_loss(z1, z2, lambd).item() == pytest.approx(by_hand(z1, z2, lambd), rel=1e-10)


@pytest.mark.parametrize("d", [1, 6])
def test_equal_rows_have_the_loss_d(d):
    z = torch.full((8, d), 3.0, dtype=torch.float64)
    assert barlow_loss(z, z).item() == pytest.approx(d, rel=1e-12)


def test_equal_views_with_uncorrelated_dimensions_have_the_loss_0():
    z = 1e4 * UNCORRELATED
    assert barlow_loss(z, z, 1.0).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("d", [2, 5])
def test_equal_dimensions_have_the_loss_lambda_per_pair(d):
    z = 1e4 * rows(1, d=1)[0].expand(-1, d)
    assert barlow_loss(z, z, 0.25).item() == pytest.approx(0.25 * d * (d - 1), rel=1e-9)


def test_opposite_views_have_the_loss_4_per_dimension():
    z = 1e4 * UNCORRELATED
    assert barlow_loss(z, -z).item() == pytest.approx(8.0, rel=1e-9)


def test_the_loss_of_a_hand_worked_pair_of_views():
    # Standardised, the dimensions of z1 are (+, -), those of z2 (+, -) and (-, +): C is 1, -1 in both rows.
    z1, z2 = torch.tensor([[300.0, 500.0], [100.0, 100.0]]), torch.tensor([[700.0, 200.0], [500.0, 600.0]])
    assert barlow_loss(z1, z2, 0.1).item() == pytest.approx((1 - 1) ** 2 + (-1 - 1) ** 2 + 0.1 * 2, rel=1e-5)


def test_the_loss_is_invariant_to_a_common_permutation_of_dimensions_only():
    z1, z2 = rows(2)
    order = torch.tensor([1, 2, 3, 4, 0])
    value = barlow_loss(z1, z2).item()
    assert barlow_loss(z1[:, order], z2[:, order]).item() == pytest.approx(value, rel=1e-12)
    assert abs(barlow_loss(z1[:, order], z2).item() - value) > 1e-3


def test_lambda_is_0_0051_by_default():
    z1, z2 = rows(2)
    assert barlow_loss(z1, z2).item() == barlow_loss(z1, z2, 0.0051).item() != barlow_loss(z1, z2, 0.005).item()


def test_the_defaults_are_the_papers():
    assert defaults("barlow") == {"asymmetric": False, "dim": 8192, "hidden": 8192, "lambd": 0.0051, "scale": 1.0}


def test_the_projector_is_three_layers_the_first_two_with_bn():
    assert layers(build("barlow").projector) == [
        *("linear 8-10", "bn+affine", "relu"),
        *("linear 10-10", "bn+affine", "relu"),
        "linear 10-6",
    ]


@pytest.mark.parametrize(("lambd", "scale"), [(0.0051, 1.0), (0.3, 0.024)])
def test_a_forward_pass_is_the_scaled_loss_of_both_projections(lambd, scale):
    model, batch = build("barlow", lambd=lambd, scale=scale), noisy_batch()
    z1, z2 = (model.projector(model.backbone(view)) for view in batch.views)
    assert model(batch).loss.item() == pytest.approx(scale * by_hand(z1, z2, lambd), rel=1e-4)
