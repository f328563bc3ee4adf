"""Prototypes against numpy, and the warning about uniform assignments."""

from __future__ import annotations

import math

import pytest
import torch

from methods_helpers import rows, unit
from ssltool.methods.parts.prototypes import Prototypes, uniform_loss_warning


def prototypes(dim: int = 5, count: int = 7) -> Prototypes:
    torch.manual_seed(0)
    return Prototypes(dim, count)


def test_new_prototypes_are_different_directions_of_length_1():
    weight = prototypes(count=20).weight
    assert weight.shape == (20, 5)
    torch.testing.assert_close(weight.norm(dim=1), torch.ones(20))
    assert len(weight.unique(dim=0)) == 20


def test_scores_of_unit_rows_are_cosines():
    p = prototypes()
    (x,) = rows(1)
    found = p(torch.from_numpy(unit(x)).float())
    assert found.detach().double().numpy() == pytest.approx(unit(x) @ unit(p.weight).T, abs=1e-6)


def test_normalise_rescales_prototypes_to_length_1():
    p = prototypes()
    before = unit(p.weight)
    with torch.no_grad():
        p.weight.mul_(torch.linspace(0.1, 30, 7)[:, None])
    p.normalise()
    assert p.weight.detach().double().numpy() == pytest.approx(before, abs=1e-6)


def test_gradients_reach_prototypes_and_rows():
    p = prototypes()
    x = rows(1)[0].float().requires_grad_()
    p(x).square().sum().backward()
    assert float(p.weight.grad.norm()) > 0
    assert float(x.grad.norm()) > 0
    p.normalise()
    assert p.weight.requires_grad


@pytest.mark.parametrize("count", [2, 10, 3000, 65536])
@pytest.mark.parametrize("off", [-0.0099, 0.0, 0.0099])
def test_a_loss_within_1_percent_of_ln_k_gives_a_warning(count, off):
    uniform = math.log(count)
    loss = uniform * (1 + off)
    text = uniform_loss_warning(loss, count, 1, "Do this")
    assert text is not None
    assert f"{loss:.3f}" in text and f"ln {count} = {uniform:.3f}" in text and text.endswith("Do this")


@pytest.mark.parametrize("off", [-0.5, -0.0101, 0.0101, 0.5])
def test_another_loss_gives_no_warning(off):
    assert uniform_loss_warning(math.log(3000) * (1 + off), 3000, 1, "Do this") is None


def test_there_is_no_warning_in_the_first_epoch():
    assert uniform_loss_warning(math.log(3000), 3000, 0, "Do this") is None
    assert uniform_loss_warning(math.log(3000), 3000, 99, "Do this") is not None
