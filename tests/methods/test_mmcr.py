"""MMCR: its loss against square roots of eigenvalues, closed forms, gradients at equal singular values, and wiring."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, layers, noisy_batch, rows, unit
from ssltool.errors import SSLToolError
from ssltool.methods.mmcr import mmcr_loss


def nuclear(matrix: np.ndarray) -> float:
    """The trace of the square root of M^T M, or of M M^T if that is smaller."""
    small = matrix if matrix.shape[0] > matrix.shape[1] else matrix.T
    return float(np.sqrt(np.linalg.eigvalsh(small.T @ small).clip(min=0)).sum())


def by_hand(views: list[Tensor], lambd: float = 0.0) -> float:
    """The loss of arXiv:2303.03307, image by image."""
    images = [np.stack(of_image) for of_image in zip(*(unit(view) for view in views), strict=True)]
    centroids = np.stack([image.mean(axis=0) for image in images])
    return -nuclear(centroids) + lambd * float(np.mean([nuclear(image) for image in images]))


@pytest.mark.parametrize("lambd", [0.0, 0.3])
@pytest.mark.parametrize(("count", "n", "d"), [(2, 8, 5), (3, 4, 6), (5, 3, 3), (2, 1, 4)])
def test_the_loss_equals_the_papers_by_eigenvalues(count, n, d, lambd):
    views = rows(count, n=n, d=d)
    assert mmcr_loss(views, lambd).item() == pytest.approx(by_hand(views, lambd), rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(12, 4), (4, 4), (3, 5)])
def test_equal_views_that_use_all_directions_equally_have_the_least_loss(n, d):
    z = torch.eye(d, dtype=torch.float64).repeat(math.ceil(n / d), 1)[:n]
    assert mmcr_loss([z] * 3).item() == pytest.approx(-math.sqrt(n * min(n, d)), rel=1e-12)
    assert mmcr_loss(rows(3, n=n, d=d)).item() > -math.sqrt(n * min(n, d))


@pytest.mark.parametrize("norm", ["nuclear", "frobenius"])
def test_equal_embeddings_have_minus_the_root_of_their_number_as_loss(norm):
    z = torch.full((8, 5), 2.0, dtype=torch.float64)
    assert mmcr_loss([z] * 3, 0.5, norm).item() == pytest.approx(-math.sqrt(8) + 0.5 * math.sqrt(3), rel=1e-12)


def test_with_the_frobenius_norm_equal_embeddings_have_the_least_loss():
    spread = torch.eye(5, dtype=torch.float64)
    collapsed = torch.ones(5, 5, dtype=torch.float64)
    found = [mmcr_loss([z, z], norm="frobenius").item() for z in (spread, collapsed)]
    assert found == [pytest.approx(-math.sqrt(5))] * 2
    assert mmcr_loss(rows(2, n=5), norm="frobenius").item() > found[1]
    assert mmcr_loss([spread, spread]).item() < mmcr_loss([collapsed, collapsed]).item() - 1


def test_opposite_views_have_no_centroid_and_no_loss():
    (z,) = rows(1)
    assert mmcr_loss([z, -z]).item() == pytest.approx(0.0, abs=1e-12)


def test_the_loss_is_invariant_to_lengths_rotations_and_orders():
    views = rows(3)
    turn = torch.linalg.qr(rows(1, n=5, seed=9)[0]).Q
    moved = [(2.5 * view @ turn).flip(0) for view in views[::-1]]
    assert mmcr_loss(moved, 0.3).item() == pytest.approx(mmcr_loss(views, 0.3).item(), rel=1e-12)


@pytest.mark.parametrize("lambd", [0.0, 0.3])
def test_the_gradient_is_that_of_differences(lambd):
    views = [view.requires_grad_() for view in rows(2, n=4)]
    assert torch.autograd.gradcheck(lambda *of: mmcr_loss(list(of), lambd), views)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("made", ["equal singular values", "equal embeddings", "nearly equal embeddings"])
def test_gradients_are_small_where_singular_values_are_equal_or_0(made, dtype):
    """A gradient through the singular vectors would divide by their differences. That of |C|_* has the norm sqrt(r)."""
    z = {
        "equal singular values": torch.eye(6),
        "equal embeddings": torch.ones(8, 6),
        "nearly equal embeddings": 1 + 1e-6 * rows(1, d=6)[0].float(),
    }[made].to(dtype)
    views = [z.clone().requires_grad_() for _ in range(2)]
    mmcr_loss(views, 0.1).backward()
    assert all(float(view.grad.norm()) < 6 for view in views)


def test_embeddings_that_are_not_finite_are_refused():
    views = rows(2)
    views[0][1, 2] = torch.nan
    with pytest.raises(SSLToolError, match=r"not finite.*lower --lr"):
        mmcr_loss(views)


@pytest.mark.parametrize("shapes", [[], [(4, 3)], [(4, 3), (3, 3)], [(4,), (4,)]])
def test_wrong_views_are_refused(shapes):
    with pytest.raises(SSLToolError, match=r"mmcr_loss .*found"):
        mmcr_loss([torch.zeros(shape) for shape in shapes])


def test_the_defaults_are_those_of_the_released_code_for_cifar_with_two_views():
    assert defaults("mmcr") == {"dim": 128, "hidden": 512, "lambd": 0.0, "norm": "nuclear", "n_augs": 2}


def test_the_projector_is_a_hidden_layer_with_bn_and_a_linear_one_without_biases():
    assert layers(build("mmcr").projector) == ["linear 8-10", "bn+affine", "relu", "linear 10-6"]


@pytest.mark.parametrize("options", [{}, {"lambd": 0.3}, {"n_augs": 3}], ids=str)
def test_a_forward_pass_is_the_loss_of_all_views_which_share_batch_statistics(options):
    model, batch = build("mmcr", **options), noisy_batch(sizes=[8] * options.get("n_augs", 2))
    views = model.projector(model.backbone(torch.cat(batch.views))).chunk(len(batch.views))
    out = model(batch)
    assert out.loss.item() == pytest.approx(by_hand(list(views), options.get("lambd", 0.0)), rel=1e-4)
    torch.testing.assert_close(out.projection, views[0].detach())
