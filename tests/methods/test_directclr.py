"""DirectCLR: its loss by loops and closed forms, and the part of the representation that it sees."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from methods_helpers import build, facts, negative_log_share, noisy_batch, rows, unit
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods.directclr import DirectCLR, DirectCLROptions, directclr_loss


def by_hand(r1: Tensor, r2: Tensor, d0: int, temperature: float) -> float:
    """Both directions of InfoNCE, image by image."""
    z1, z2 = unit(r1[:, :d0]), unit(r2[:, :d0])
    total = 0.0
    for one, other in ((z1, z2), (z2, z1)):
        for i in range(len(one)):
            total += negative_log_share([float(one[i] @ row) / temperature for row in other], i)
    return total / (2 * len(z1))


@pytest.mark.parametrize("temperature", [0.05, 1.0])
@pytest.mark.parametrize(("n", "d0"), [(1, 1), (2, 3), (7, 2)])
def test_the_loss_equals_infonce_of_the_first_dimensions_by_loops(n, d0, temperature):
    r1, r2 = rows(2, n=n)
    found = directclr_loss(r1, r2, d0, temperature).item()
    assert found == pytest.approx(by_hand(r1, r2, d0, temperature), rel=1e-10, abs=1e-13)


def test_equal_rows_have_the_loss_ln_n_and_without_negatives_the_least():
    ones = torch.ones(8, 5).double()
    assert directclr_loss(ones, ones, 3).item() == pytest.approx(math.log(8), rel=1e-12)
    least = directclr_loss(ones, ones, 3, 0.5, negatives=False).item()
    assert least == pytest.approx(-2.0) and directclr_loss(*rows(2), 3, 0.5, negatives=False).item() > least


def test_the_other_dimensions_have_no_gradient():
    r1, r2 = (r.requires_grad_() for r in rows(2))
    directclr_loss(r1, r2, 2).backward()
    for gradient in (r1.grad, r2.grad):
        assert gradient[:, :2].abs().min() > 0 and not gradient[:, 2:].any()


@pytest.mark.parametrize("d0", [0, 99])
def test_a_part_that_is_none_or_more_than_all_is_refused(d0):
    with pytest.raises(SSLToolError, match=f"d0 is {d0}"):
        directclr_loss(*rows(2), d0)


def test_the_method_minimises_the_loss_of_the_representations():
    method = build("directclr", dim=3).eval()
    batch = noisy_batch()
    r1, r2 = (method.backbone(view) for view in batch.views)
    output = method(batch)
    assert output.loss.item() == pytest.approx(directclr_loss(r1, r2, 3).item(), rel=1e-5)
    torch.testing.assert_close(output.projection, r1[:, :3].detach())
    assert method.measured_layers == ("backbone",)


def made_for(width: int) -> DirectCLR:
    return DirectCLR(torch.nn.Flatten(), width, DirectCLROptions(), facts())


def test_by_default_the_loss_sees_360_of_2048_dimensions_or_that_part():
    assert [made_for(width).d0 for width in (2048, 512, 1)] == [360, 90, 1]


def test_the_whole_representation_is_a_cause_of_collapse_and_more_is_refused():
    width = build("directclr").backbone_dim
    causes = build("directclr", dim=width).collapse_causes()
    assert [cause for cause, present in causes.items() if present and "whole representation" in cause]
    assert not any(build("directclr", dim=width - 1).collapse_causes().values())
    with pytest.raises(UsageError, match=f"dim={width + 1}"):
        build("directclr", dim=width + 1)
