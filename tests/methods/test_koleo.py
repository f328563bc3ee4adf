"""KoLeo: against loops, closed forms and invariances."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from methods_helpers import rows, unit
from ssltool.errors import SSLToolError
from ssltool.methods.parts.koleo import koleo_loss


def by_hand(x) -> float:
    """-mean log of each row's distance to its nearest other row, by loops."""
    x = unit(x)
    nearest = [min(math.dist(x[i], x[j]) for j in range(len(x)) if j != i) for i in range(len(x))]
    return -sum(math.log(distance + 1e-8) for distance in nearest) / len(x)


@pytest.mark.parametrize(("n", "d"), [(2, 3), (8, 5), (30, 2)])
def test_the_loss_is_minus_the_mean_log_distance_to_the_nearest_other_row(n, d):
    (x,) = rows(1, n=n, d=d)
    assert koleo_loss(x).item() == pytest.approx(by_hand(x), rel=1e-10)


def test_two_opposite_rows_have_the_least_loss_and_two_orthogonal_ones_minus_log_of_root_two():
    assert koleo_loss(torch.tensor([[3.0, 0.0], [-0.5, 0.0]])).item() == pytest.approx(-math.log(2), rel=1e-6)
    assert koleo_loss(torch.eye(4)).item() == pytest.approx(-math.log(2) / 2, rel=1e-6)


def test_equal_rows_have_the_loss_of_the_distance_1e_8_and_no_gradient():
    x = torch.ones(4, 3).double().requires_grad_()
    loss = koleo_loss(x)
    loss.backward()
    assert loss.item() == pytest.approx(8 * math.log(10), rel=1e-10)
    assert not x.grad.any()


def test_the_loss_is_invariant_to_lengths_to_rotations_and_to_the_order_of_rows():
    (x,) = rows(1)
    rotation = torch.linalg.qr(rows(1, n=5, d=5, seed=1)[0])[0]
    lengths = torch.linspace(0.1, 9, 8, dtype=torch.float64)[:, None]
    for same in (x * lengths, x @ rotation, x.flip(0)):
        assert koleo_loss(same).item() == pytest.approx(koleo_loss(x).item(), rel=1e-10)


def test_a_step_against_the_gradient_moves_the_nearest_rows_apart():
    x = F.normalize(rows(1, n=6, d=3)[0], dim=1).requires_grad_()
    koleo_loss(x).backward()
    assert koleo_loss(x.detach() - 0.01 * x.grad).item() < koleo_loss(x).item()


def test_autocast_does_not_lower_the_precision():
    (x,) = rows(1, n=40, d=10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = koleo_loss(x.float())
    assert found.item() == pytest.approx(by_hand(x), rel=1e-5)


@pytest.mark.parametrize("shape", [(1, 3), (3,), (2, 2, 2)])
def test_what_has_no_two_rows_is_refused(shape):
    with pytest.raises(SSLToolError, match="koleo_loss") as caught:
        koleo_loss(torch.zeros(shape))
    assert str(caught.value).endswith(str(shape))
