"""VICReg: its loss against plain loops and closed forms, its wiring against the paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, layers, noisy_batch, rows
from ssltool.errors import SSLToolError
from ssltool.methods.vicreg import vicreg_loss


def by_hand(z1: Tensor, z2: Tensor, sim: float = 25.0, std: float = 25.0, cov: float = 1.0) -> float:
    """Eq. 6 of arXiv:2105.04906 as in facebookresearch/vicreg, which halves the variance term, number by number."""
    a, b = (z.detach().double().numpy() for z in (z1, z2))
    n, d = a.shape
    invariance = sum((a[i, j] - b[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    variance = covariance = 0.0
    for z in (a, b):
        c = np.cov(z, rowvar=False, ddof=1).reshape(d, d)
        variance += sum(max(0.0, 1 - math.sqrt(c[j, j] + 1e-4)) for j in range(d)) / d / 2
        covariance += sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return sim * invariance + std * variance + cov * covariance


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0)])
@pytest.mark.parametrize(("n", "d"), [(2, 3), (8, 5), (6, 1)])
def test_the_loss_equals_eq_6_by_loops(n, d, weights):
    z1, z2 = (0.7 * z for z in rows(2, n=n, d=d))
    assert vicreg_loss(z1, z2, *weights).item() == pytest.approx(by_hand(z1, z2, *weights), rel=1e-10)


def test_the_weights_are_25_25_and_1_by_default():
    z1, z2 = (0.7 * z for z in rows(2))
    assert vicreg_loss(z1, z2).item() == pytest.approx(by_hand(z1, z2, 25.0, 25.0, 1.0), rel=1e-12)


def test_equal_rows_have_the_variance_loss_of_a_deviation_of_a_hundredth():
    # sqrt(0 + 1e-4) is 0.01; each view's hinge is 0.99, and their mean is weighted by 25.
    z = torch.full((8, 5), 3.0, dtype=torch.float64)
    assert vicreg_loss(z, z).item() == pytest.approx(25 * 0.99, rel=1e-12)


def test_one_dead_dimension_of_two_has_half_the_variance_loss():
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert vicreg_loss(z, z).item() == pytest.approx(25 * 0.99 / 2, rel=1e-12)


def test_two_equal_dimensions_have_their_squared_covariance_as_loss():
    # All covariances are 2 (N - 1 is 1): each view has two off the diagonal, 4 each, over D = 2.
    z = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert vicreg_loss(z, z).item() == pytest.approx(4.0 + 4.0, rel=1e-12)


def test_spread_and_uncorrelated_equal_views_have_the_loss_0():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    assert vicreg_loss(z, z).item() == 0.0


@pytest.mark.parametrize("distance", [1.0, 3.0])
def test_views_that_differ_by_a_constant_have_its_square_as_loss(distance):
    (z,) = rows(1, n=50)
    apart = vicreg_loss(z, z + distance).item() - vicreg_loss(z, z).item()
    assert apart == pytest.approx(25 * distance**2, rel=1e-9)


def test_the_loss_is_invariant_to_a_common_shift():
    z1, z2 = rows(2)
    assert vicreg_loss(z1 + 7.0, z2 + 7.0).item() == pytest.approx(vicreg_loss(z1, z2).item(), rel=1e-12)


def test_the_loss_is_invariant_to_order_and_signs_of_dimensions():
    z1, z2 = rows(2)
    signs, order = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0]), torch.tensor([4, 2, 0, 1, 3])
    found = vicreg_loss((z1 * signs)[:, order], (z2 * signs)[:, order]).item()
    assert found == pytest.approx(vicreg_loss(z1, z2).item(), rel=1e-12)


def test_a_standard_deviation_above_1_has_no_variance_loss():
    z = torch.tensor([[-10.0], [10.0]], dtype=torch.float64)
    assert vicreg_loss(z, z).item() == 0.0


def test_one_row_is_refused():
    with pytest.raises(SSLToolError) as caught:
        vicreg_loss(torch.zeros(1, 3), torch.zeros(1, 3))
    assert str(caught.value).startswith("vicreg_loss ") and "at least 2 rows" in str(caught.value)


def test_the_defaults_are_the_papers():
    assert defaults("vicreg") == {
        "asymmetric": False,
        "dim": 8192,
        "hidden": 8192,
        "sim": 25.0,
        "std": 25.0,
        "cov": 1.0,
    }


def test_the_projector_is_three_layers_the_first_two_with_bn():
    assert layers(build("vicreg").projector) == [
        *("linear 8-10", "bn+affine", "relu"),
        *("linear 10-10", "bn+affine", "relu"),
        "linear 10-6",
    ]


@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 2.0, 300.0)])
def test_a_forward_pass_is_the_weighted_loss_of_both_projections(weights):
    model, batch = build("vicreg", **dict(zip(("sim", "std", "cov"), weights, strict=True))), noisy_batch()
    z1, z2 = (model.projector(model.backbone(view)) for view in batch.views)
    assert model(batch).loss.item() == pytest.approx(by_hand(z1, z2, *weights), rel=1e-4)
