"""TiCo: its loss against loops and other public versions, the moving average, and the wiring."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, forward_and_update, layers, noisy_batch, rows, shake, unit
from ssltool.errors import SSLToolError
from ssltool.methods.tico import second_moment, tico_loss

D = 5


def average_of(*batches: Tensor, beta: float = 0.9) -> np.ndarray:
    """The moving average of the second moments after these batches, row by row."""
    c = np.zeros((batches[0].shape[1], batches[0].shape[1]))
    for batch in batches:
        z = unit(batch)
        c = beta * c + (1 - beta) * sum(np.outer(row, row) for row in z) / len(z)
    return c


def by_hand(z: Tensor, t: Tensor, c: np.ndarray, rho: float = 8.0) -> float:
    """The loss of arXiv:2206.10698 for an average ``c`` of this batch too, row by row."""
    pairs = list(zip(unit(z), unit(t), strict=True))
    return float(np.mean([-(a @ b) + rho * a @ c @ a for a, b in pairs]))


@pytest.mark.parametrize(("beta", "rho"), [(0.9, 8.0), (0.0, 1.0), (0.5, 0.0), (1.0, 3.0)])
@pytest.mark.parametrize(("n", "d"), [(8, D), (1, 3), (4, 9)])
def test_the_loss_equals_the_papers_by_loops(n, d, beta, rho):
    earlier, z, t = rows(3, n=n, d=d)
    c = torch.from_numpy(average_of(earlier, beta=beta))
    wanted = by_hand(z, t, average_of(earlier, z, beta=beta), rho)
    assert tico_loss(z, t, c, beta, rho).item() == pytest.approx(wanted, rel=1e-10, abs=1e-12)


def test_without_memory_the_contrast_is_the_squared_frobenius_norm_of_the_second_moment():
    z, _ = rows(2)
    found = tico_loss(z, z, torch.zeros(D, D, dtype=torch.float64), beta=0.0, rho=1.0).item()
    moment = unit(z).T @ unit(z) / len(z)
    assert found == pytest.approx(-1 + np.square(moment).sum(), rel=1e-10)


def test_the_gradient_reaches_the_average_of_this_batch_and_not_the_teacher():
    """lightly 1.6.0 detaches the average of this batch, which lowers the weight of this batch's contrast to half."""
    (z, t), c = rows(2), torch.from_numpy(average_of(*rows(1, seed=7)))
    z.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: tico_loss(z, t, c), z)
    (found,) = torch.autograd.grad(tico_loss(z, t, c), z)
    unit_z = torch.nn.functional.normalize(z, dim=1)
    detached = 0.9 * c + 0.1 * second_moment(z).detach()
    other = -(unit_z * torch.nn.functional.normalize(t, dim=1)).sum(dim=1) + 8 * (unit_z @ detached * unit_z).sum(dim=1)
    (lightly,) = torch.autograd.grad(other.mean(), z)
    assert float((found - lightly).norm()) > 0.01
    teacher = t.requires_grad_()
    assert torch.autograd.grad(tico_loss(z, teacher, c), teacher, allow_unused=True) == (None,)


def test_equal_embeddings_have_the_largest_contrast():
    z = torch.full((8, D), 2.0, dtype=torch.float64)
    c = second_moment(z)
    assert tico_loss(z, z, c).item() == pytest.approx(-1 + 8, rel=1e-12)
    assert tico_loss(z, z, c, rho=0.0).item() == pytest.approx(-1, rel=1e-12)


def test_embeddings_that_use_all_directions_equally_have_the_least_contrast():
    z = torch.eye(D, dtype=torch.float64)
    assert tico_loss(z, z, z / D, rho=8.0).item() == pytest.approx(-1 + 8 / D, rel=1e-12)


def test_the_loss_is_invariant_to_lengths_and_common_rotations():
    (z, t), c = rows(2), torch.from_numpy(average_of(*rows(1, seed=7)))
    turn = torch.linalg.qr(rows(1, n=D, seed=9)[0]).Q
    found = tico_loss(3 * z @ turn, 0.2 * t @ turn, turn.mT @ c @ turn).item()
    assert found == pytest.approx(tico_loss(z, t, c).item(), rel=1e-12)


@pytest.mark.parametrize("shapes", [[(4, 3), (3, 3), (3, 3)], [(4, 3), (4, 3), (4, 4)], [(4, 3), (4, 3), (3,)]])
def test_wrong_shapes_are_refused(shapes):
    with pytest.raises(SSLToolError, match=r"tico_loss .*found"):
        tico_loss(*(torch.zeros(shape) for shape in shapes))


def test_the_defaults_are_the_papers():
    assert defaults("tico") == {
        "asymmetric": False, "dim": 256, "hidden": 4096, "rho": 8.0, "beta": 0.9, "momentum": 0.99,
        "momentum_final": 1.0,
    }  # fmt: skip


def test_the_projector_is_a_hidden_layer_with_bn_and_a_linear_one():
    assert layers(build("tico").projector) == ["linear 8-10", "bn+affine", "relu", "linear 10-6+bias"]


def test_the_average_is_that_of_all_batches_and_the_loss_uses_this_batch_too():
    model, seen = shake(build("tico", rho=3.0, beta=0.7)), []
    for seed in range(3):
        batch = noisy_batch(seed=seed)
        z = model.projector(model.backbone(batch.views[0])).detach()
        seen.append(z)
        wanted = by_hand(z, model.teacher_forward(batch.views[1]), average_of(*seen, beta=0.7), 3.0)
        assert forward_and_update(model, batch).loss.item() == pytest.approx(wanted, rel=1e-4)
        assert model.covariance.numpy() == pytest.approx(average_of(*seen, beta=0.7), abs=1e-6)


def test_the_loss_of_a_constant_output_nears_the_one_that_shows_it():
    model, batch = build("tico", rho=2.0), noisy_batch()
    for network in (model.projector, model.teacher["projector"]):
        torch.nn.init.zeros_(network[-1].weight)
        torch.nn.init.ones_(network[-1].bias)
    for _ in range(100):
        loss = forward_and_update(model, batch).loss.item()
    assert model.constant_output_losses == (pytest.approx(loss, rel=1e-3),)
    assert build("tico", rho=0).constant_output_losses == (-1.0,)


def test_an_average_without_effect_is_refused():
    with pytest.raises(SSLToolError, match="does nothing with"):
        build("tico", rho=0, beta=0.5)
