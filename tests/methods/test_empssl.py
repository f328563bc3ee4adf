"""EMP-SSL: its loss against eigenvalues and loops, against another public version, and its wiring."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from methods_helpers import build, defaults, layers, noisy_batch, rows, unit
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.methods.empssl import empssl_loss


def rate(z: np.ndarray, eps2: float) -> float:
    """1/2 log det(I + d / (n eps^2) Z^T Z) by the squared singular values."""
    n, d = z.shape
    return sum(math.log1p(d / (n * eps2) * s**2) for s in np.linalg.svd(z, compute_uv=False)) / 2


def parts(views, eps2: float) -> tuple[float, float]:
    """The mean coding rate, and the mean cosine to the mean, image by image."""
    z = [unit(view) for view in views]
    cosines = []
    for i in range(len(z[0])):
        mean = sum(view[i] for view in z) / len(z)
        cosines += [float(view[i] @ mean) / np.linalg.norm(mean) for view in z]
    return float(np.mean([rate(view, eps2) for view in z])), float(np.mean(cosines))


@pytest.mark.parametrize("weights", [(200.0, 1.0, 0.2), (3.0, 0.5, 1.0), (1.0, 0.0, 0.2), (0.0, 1.0, 0.5)])
@pytest.mark.parametrize(("count", "n", "d"), [(2, 8, 5), (5, 3, 6), (4, 1, 2)])
def test_the_loss_equals_the_papers_by_loops(count, n, d, weights):
    views, (sim, tcr, eps2) = rows(count, n=n, d=d), weights
    found, cosine = parts(views, eps2)
    assert empssl_loss(views, *weights).item() == pytest.approx(-(tcr * found + sim * cosine), rel=1e-10)


def test_the_coding_rate_is_maximised_unlike_in_lightly():
    """lightly 1.6.0 adds the coding rate to its loss, whose least value is then that of equal embeddings."""
    views = rows(3, n=8, d=5)
    found, cosine = parts(views, 0.2)
    lightly = found - 200 * cosine
    assert empssl_loss(views).item() == pytest.approx(lightly - 2 * found, rel=1e-10)
    assert found > 2


@pytest.mark.parametrize(("n", "d"), [(16, 4), (4, 4)])
def test_equal_views_that_use_all_directions_equally_have_the_least_loss(n, d):
    z = torch.eye(d, dtype=torch.float64).repeat(n // d, 1)
    least = -(d / 2 * math.log1p(1 / 0.2) + 200)
    assert empssl_loss([z] * 3).item() == pytest.approx(least, rel=1e-12)
    assert empssl_loss(rows(3, n=n, d=d)).item() > least


def test_equal_embeddings_have_the_coding_rate_of_one_direction():
    z = torch.full((8, 5), 3.0, dtype=torch.float64)
    assert empssl_loss([z, z]).item() == pytest.approx(-(0.5 * math.log1p(5 / 0.2) + 200), rel=1e-12)


def test_without_coding_rate_equal_embeddings_have_the_least_loss():
    z = torch.full((8, 5), 3.0, dtype=torch.float64)
    assert empssl_loss([z, z], 200.0, 0.0).item() == pytest.approx(-200.0, rel=1e-12)


def test_the_loss_is_invariant_to_lengths_rotations_and_the_order_of_views():
    views = rows(3)
    turn = torch.linalg.qr(rows(1, n=5, seed=9)[0]).Q
    moved = [view * 3.7 @ turn for view in views][::-1]
    assert empssl_loss(moved).item() == pytest.approx(empssl_loss(views).item(), rel=1e-12)


def test_the_gradient_is_that_of_differences():
    views = [view.requires_grad_() for view in rows(3, n=4)]
    assert torch.autograd.gradcheck(lambda *of: empssl_loss(list(of)), views)


@pytest.mark.parametrize("shapes", [[], [(4, 3)], [(4, 3), (3, 3)], [(4,), (4,)]])
def test_wrong_views_are_refused(shapes):
    with pytest.raises(SSLToolError, match=r"empssl_loss .*found"):
        empssl_loss([torch.zeros(shape) for shape in shapes])


def test_the_defaults_are_those_of_the_released_code_for_one_epoch():
    assert defaults("empssl") == {
        "dim": 1024, "hidden": 4096, "n_patches": 20, "sim": 200.0, "tcr": 1.0, "eps2": 0.2
    }  # fmt: skip


def test_the_projector_is_three_layers_the_first_two_with_bn():
    assert layers(build("empssl").projector) == [
        *("linear 8-10", "bn+affine", "relu"),
        *("linear 10-10", "bn+affine", "relu"),
        "linear 10-6+bias",
    ]


def test_views_are_patches_of_one_area():
    base = dataclasses.replace(PAPER, crop_scale=(0.25, 1.0))
    patch = dataclasses.replace(PAPER, crop_scale=(0.25, 0.25))
    assert build("empssl", n_patches=7).view_recipes(base) == [patch] * 7


@pytest.mark.parametrize("options", [{}, {"sim": 2.0, "tcr": 0.3, "eps2": 0.7}])
def test_a_forward_pass_is_the_loss_of_all_patches_which_share_batch_statistics(options):
    model, batch = build("empssl", **options), noisy_batch(sizes=(8, 8, 8))
    views = model.projector(model.backbone(torch.cat(batch.views))).chunk(3)
    found, cosine = parts(views, options.get("eps2", 0.2))
    wanted = -(options.get("tcr", 1.0) * found + options.get("sim", 200.0) * cosine)
    assert model(batch).loss.item() == pytest.approx(wanted, rel=1e-4)
