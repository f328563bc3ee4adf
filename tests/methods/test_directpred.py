"""DirectPred and DirectCopy: the predictor by another eigen-decomposition, and when it changes."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from methods_helpers import build, forward_and_update, noisy_batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Now
from ssltool.methods.byol import byol_loss
from ssltool.methods.directpred import SMALLEST, directcopy_weights, directpred_weights


def correlation(d: int = 6, rank: int = 6, seed: int = 0) -> Tensor:
    x = torch.randn(40, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x @ torch.randn(rank, d, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    return x.mT @ x / len(x)


@pytest.mark.parametrize("eps", [0.0, 0.01, 0.5])
def test_the_predictor_is_the_normalised_root_plus_a_multiple_of_the_identity(eps):
    f = correlation()
    largest = max(np.linalg.eigvals(f.numpy()).real)
    expected = scipy.linalg.sqrtm(f.numpy() / largest).real + eps * np.eye(6)
    np.testing.assert_allclose(directpred_weights(f, eps).numpy(), expected, atol=1e-10)


def test_small_eigenvalues_are_raised_to_the_smallest_one():
    """Of rank 2, whose other eigenvalues are rounding."""
    found = np.linalg.eigvalsh(directpred_weights(correlation(rank=2), 0.0).numpy())
    np.testing.assert_allclose(found[:4], SMALLEST, atol=1e-7)
    assert found[-1] == pytest.approx(1.0)


def test_the_scale_of_the_correlation_does_not_change_the_predictor():
    torch.testing.assert_close(directpred_weights(100 * correlation()), directpred_weights(correlation()))


def test_a_correlation_of_zeros_gives_a_finite_predictor():
    torch.testing.assert_close(directpred_weights(torch.zeros(3, 3), 0.25), 0.25 * torch.eye(3))


def test_a_matrix_that_is_not_square_is_refused():
    with pytest.raises(SSLToolError, match=r"square matrix; found \(3, 4\)"):
        directpred_weights(torch.zeros(3, 4))


@pytest.mark.parametrize("predictor", ["directpred", "directcopy"])
def test_the_predictor_is_that_of_the_running_correlation_of_both_views(predictor):
    """The first batch counts wholly; later ones are mixed in with 1 - rho."""
    method = build("directpred", predictor=predictor, rho=0.75, eps=0.1, dim=5)
    assert torch.equal(method.predictor.weight, torch.eye(5))
    expected = None
    for step in range(3):
        method.now = Now(0, step)
        output = forward_and_update(method, noisy_batch(seed=10 * step))
        z = torch.cat([output.projection, output.for_buffers[0]]).double()
        new = sum(torch.outer(row, row) for row in z) / len(z)
        expected = new if expected is None else 0.75 * expected + 0.25 * new
        weights = directpred_weights if predictor == "directpred" else directcopy_weights
        torch.testing.assert_close(method.predictor.weight.double(), weights(expected, 0.1), rtol=1e-4, atol=1e-5)


def test_the_predictor_is_constant_between_its_updates():
    method = build("directpred", freq=3)
    seen = []
    for step in range(5):
        method.now = Now(0, step)
        forward_and_update(method, noisy_batch(seed=10 * step))
        seen.append(method.predictor.weight.clone())
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[1], seen[2]) and torch.equal(seen[3], seen[4])
    assert not torch.equal(seen[2], seen[3])


def test_the_loss_is_byols_with_the_predictor_and_has_no_gradient_in_it():
    method = build("directpred").eval()
    batch = noisy_batch()
    forward_and_update(method, batch)
    z = [method.projector(method.backbone(view)) for view in batch.views]
    t = [method.teacher_forward(view) for view in batch.views]
    wanted = byol_loss(*(row @ method.predictor.weight.mT for row in z), *t)
    found = method(batch)
    assert found.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    found.loss.backward()
    assert not list(method.predictor.parameters())


def test_without_a_predictor_there_is_none_and_that_is_a_cause_of_collapse():
    method = build("directpred", predictor="none")
    assert "predictor" not in method.outputs(noisy_batch().views[0])
    assert method.collapse_causes()["there is no predictor (predictor=none)"]
    assert not any(build("directpred").collapse_causes().values())
