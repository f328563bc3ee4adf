"""FroSSL: its loss against eigenvalues and loops, closed forms, and its wiring."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, layers, noisy_batch, rows
from ssltool.errors import SSLToolError
from ssltool.methods.frossl import frossl_loss


def scaled(view: Tensor) -> np.ndarray:
    """The view with each dimension of length 1."""
    z = view.detach().double().numpy()
    return np.stack([z[:, j] / np.linalg.norm(z[:, j]) for j in range(z.shape[1])], axis=1)


def by_hand(views: list[Tensor], sim: float = 1.0, frobenius: float = 1.0) -> float:
    """Eq. 3 and 6 of arXiv:2310.02903: minus the entropy (of order 2) of eigenvalues, and distances to the mean."""
    z = [scaled(view) for view in views]
    total = 0.0
    for view in z:
        values = np.linalg.svd(view, compute_uv=False) ** 2
        total += frobenius * math.log(sum((value / values.sum()) ** 2 for value in values))
        distances = [sum((row - np.mean([other[i] for other in z], axis=0)) ** 2) for i, row in enumerate(view)]
        total += sim * len(z) * float(np.mean(distances))
    return total


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (1.0, 0.0)])
@pytest.mark.parametrize(("count", "n", "d"), [(2, 8, 5), (4, 5, 8), (3, 6, 6), (2, 4, 1)])
def test_the_loss_equals_eq_3_and_6_by_eigenvalues(count, n, d, weights):
    views = rows(count, n=n, d=d)
    assert frossl_loss(views, *weights).item() == pytest.approx(by_hand(views, *weights), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("n", "d"), [(12, 4), (4, 4)])
def test_equal_views_of_orthogonal_dimensions_have_the_least_loss(n, d, count):
    z = torch.linalg.qr(rows(1, n=n, d=d)[0]).Q
    assert frossl_loss([z] * count).item() == pytest.approx(-count * math.log(d), rel=1e-12)
    assert frossl_loss(rows(count, n=n, d=d)).item() > -count * math.log(d)


def test_equal_embeddings_have_the_loss_0():
    z = torch.full((8, 5), 2.0, dtype=torch.float64)
    assert frossl_loss([z, z]).item() == pytest.approx(0.0, abs=1e-12)


def test_equal_dimensions_have_the_loss_0_although_the_embeddings_differ():
    z = rows(1, d=1)[0].expand(8, 5)
    assert frossl_loss([z, z]).item() == pytest.approx(0.0, abs=1e-12)


def test_without_the_norm_equal_embeddings_have_the_least_loss():
    z = torch.full((8, 5), 2.0, dtype=torch.float64)
    assert frossl_loss([z, z], 1.0, 0.0).item() == 0.0


def test_the_loss_is_invariant_to_the_scale_of_each_dimension_and_to_orders():
    views = rows(3)
    moved = [(view * torch.linspace(0.1, 4, 5))[torch.arange(7, -1, -1)][:, [3, 1, 4, 0, 2]] for view in views[::-1]]
    assert frossl_loss(moved).item() == pytest.approx(frossl_loss(views).item(), rel=1e-12)


def test_the_gradient_is_that_of_differences():
    views = [view.requires_grad_() for view in rows(3, n=4)]
    assert torch.autograd.gradcheck(lambda *of: frossl_loss(list(of)), views)


@pytest.mark.parametrize("shapes", [[], [(4, 3)], [(4, 3), (3, 3)], [(4,), (4,)]])
def test_wrong_views_are_refused(shapes):
    with pytest.raises(SSLToolError, match=r"frossl_loss .*found"):
        frossl_loss([torch.zeros(shape) for shape in shapes])


def test_the_defaults_are_those_of_the_released_code_for_cifar():
    assert defaults("frossl") == {"dim": 1024, "hidden": 2048, "sim": 1.0, "frobenius": 1.0, "n_augs": 2}


def test_the_projector_is_three_layers_the_first_two_with_bn():
    assert layers(build("frossl").projector) == [
        *("linear 8-10", "bn+affine", "relu"),
        *("linear 10-10", "bn+affine", "relu"),
        "linear 10-6+bias",
    ]


@pytest.mark.parametrize("options", [{}, {"sim": 2.0, "frobenius": 0.5}, {"n_augs": 3}], ids=str)
def test_a_forward_pass_is_the_weighted_loss_of_all_projections(options):
    model, batch = build("frossl", **options), noisy_batch(sizes=[8] * options.get("n_augs", 2))
    views = [model.projector(model.backbone(view)) for view in batch.views]
    wanted = by_hand(views, options.get("sim", 1.0), options.get("frobenius", 1.0))
    assert model(batch).loss.item() == pytest.approx(wanted, rel=1e-4)
