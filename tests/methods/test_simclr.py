"""SimCLR: NT-Xent against plain loops and closed forms, its wiring against Google's code."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, layers, negative_log_share, noisy_batch, rows, unit
from ssltool.methods.simclr import nt_xent_loss


def by_hand(z1: Tensor, z2: Tensor, temperature: float) -> float:
    """Eq. 1 of arXiv:2002.05709 for every ordered pair of views of one image, the mean over 2 N."""
    z, n = np.concatenate([unit(z1), unit(z2)]), len(z1)
    total = 0.0
    for i in range(2 * n):
        others = [k for k in range(2 * n) if k != i]
        similarities = [float(z[i] @ z[k]) / temperature for k in others]
        total += negative_log_share(similarities, others.index((i + n) % (2 * n)))
    return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_loss_equals_eq_1_by_loops(n, temperature):
    z1, z2 = rows(2, n=n)
    found = nt_xent_loss(z1, z2, temperature).item()
    assert found == pytest.approx(by_hand(z1, z2, temperature), rel=1e-11, abs=1e-14)


def test_a_temperature_whose_exp_overflows_gives_the_exact_loss():
    z1, z2 = rows(2)
    wanted = by_hand(z1, z2, 1e-3)
    assert wanted > 100
    assert nt_xent_loss(z1.float(), z2.float(), 1e-3).item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("n", [1, 2, 8, 100])
def test_equal_rows_have_the_loss_ln_of_2_n_minus_1(n):
    z = torch.ones(n, 3, dtype=torch.float64)
    assert nt_xent_loss(z, z).item() == pytest.approx(math.log(2 * n - 1), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("n", [2, 5])
def test_equal_views_of_orthogonal_images_have_the_loss_of_one_match_among_2_n_minus_1(n, temperature):
    z = 3.0 * torch.eye(n, dtype=torch.float64)
    wanted = math.log(math.exp(1 / temperature) + 2 * n - 2) - 1 / temperature
    assert nt_xent_loss(z, z, temperature).item() == pytest.approx(wanted, rel=1e-9)


def test_the_loss_of_two_hand_worked_images():
    # Views (1, 0) and (0, 1) of the first image, (-1, 0) and (0, -1) of the second: a view has cosine 0 with its other
    # view, -1 with one and 0 with the other of the second image's: ln(2 + 1/e), with temperature 1.
    z1, z2 = torch.tensor([[1.0, 0.0], [-2.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, -4.0]])
    assert nt_xent_loss(z1, z2, 1.0).item() == pytest.approx(math.log(2 + math.exp(-1)), rel=1e-6)


def test_the_temperature_is_one_half_by_default():
    z1, z2 = rows(2)
    assert nt_xent_loss(z1, z2).item() == nt_xent_loss(z1, z2, 0.5).item()
    assert nt_xent_loss(z1, z2).item() != nt_xent_loss(z1, z2, 0.4).item()


def test_the_loss_is_invariant_to_swapping_the_views_of_some_images():
    z1, z2 = rows(2, n=6)
    some = torch.tensor([True, False, False, True, True, False])[:, None]
    swapped = nt_xent_loss(torch.where(some, z2, z1), torch.where(some, z1, z2))
    assert swapped.item() == pytest.approx(nt_xent_loss(z1, z2).item(), rel=1e-12)


def test_the_defaults_are_the_papers():
    assert defaults("simclr") == {"dim": 128, "hidden": 2048, "temperature": 0.5, "negatives": True}


def test_the_projector_is_a_hidden_layer_and_a_last_one_both_with_bn():
    assert layers(build("simclr").projector) == ["linear 8-10", "bn+affine", "relu", "linear 10-6", "bn"]


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_a_forward_pass_is_the_loss_of_both_projections_at_its_temperature(temperature):
    model, batch = build("simclr", temperature=temperature), noisy_batch()
    z1, z2 = (model.projector(model.backbone(view)) for view in batch.views)
    assert model(batch).loss.item() == pytest.approx(by_hand(z1, z2, temperature), rel=1e-5)
