"""Regularisers: their functions by independent references, closed forms and directions, and how they are named."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from ssltool.errors import SSLToolError, UsageError
from ssltool.methods.regularisers import REGULARISERS, Term, read_terms
from ssltool.methods.regularisers.ldreg import log_local_dimension
from ssltool.methods.regularisers.orthogonality import orthogonality_loss
from ssltool.methods.regularisers.vne import von_neumann_entropy
from ssltool.methods.regularisers.w2 import wasserstein_uniformity

OF_ROWS = [name for name, entry in REGULARISERS.items() if entry.of == "rows"]


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: Tensor) -> np.ndarray:
    array: np.ndarray = x.numpy()
    return array / np.sqrt((array**2).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("n", "d"), [(40, 7), (7, 40), (9, 9)])
def test_vne_is_the_entropy_of_the_eigenvalues_of_the_autocorrelation(n, d):
    z = unit(rows(n, d))
    rho = np.mean([np.outer(row, row) for row in z], axis=0)
    eigenvalues = np.linalg.eigvalsh(rho)
    expected = -sum(value * math.log(value) for value in eigenvalues if value > 1e-14)
    assert von_neumann_entropy(rows(n, d)).item() == pytest.approx(expected, abs=1e-10)


def test_vne_is_0_for_one_direction_and_log_d_for_an_orthogonal_basis():
    assert von_neumann_entropy(torch.outer(torch.rand(9), torch.rand(5)).double()).item() == pytest.approx(0, abs=1e-12)
    basis = torch.linalg.qr(rows(6, 6))[0]
    assert von_neumann_entropy(torch.cat([basis, -3 * basis])).item() == pytest.approx(math.log(6), abs=1e-12)


@pytest.mark.parametrize(("n", "d"), [(40, 7), (7, 40)])
def test_w2_is_the_distance_of_two_gaussians_by_matrix_square_roots(n, d):
    z = unit(rows(n, d))
    mean, cov, other = z.mean(axis=0), np.cov(z.T, bias=True), np.eye(d) / d
    root = scipy.linalg.sqrtm(other)
    cross = scipy.linalg.sqrtm(root @ cov @ root + 1e-18 * np.eye(d)).real
    expected = math.sqrt(mean @ mean + np.trace(cov + other - 2 * cross))
    assert wasserstein_uniformity(rows(n, d)).item() == pytest.approx(expected, abs=1e-6 if n < d else 1e-10)


def test_w2_is_0_for_isotropic_rows_and_the_square_root_of_2_for_equal_ones():
    basis = torch.linalg.qr(rows(6, 6))[0]
    assert wasserstein_uniformity(torch.cat([basis, -basis])).item() == pytest.approx(0, abs=1e-7)
    assert wasserstein_uniformity(torch.ones(8, 5).double()).item() == pytest.approx(math.sqrt(2), abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(30, 5), (12, 64), (3, 2)])
def test_ldreg_is_the_mean_log_of_the_moment_estimates(n, k):
    x = rows(n, 4).numpy()
    logs = []
    for i in range(n):
        near = sorted(math.dist(x[i], x[j]) for j in range(n) if j != i)[:k]
        moment = sum(near[:-1]) / len(near[:-1])
        logs.append(math.log(moment / (near[-1] - moment)))
    assert log_local_dimension(rows(n, 4), k).item() == pytest.approx(sum(logs) / n, abs=1e-10)


@pytest.mark.parametrize("d", [1, 2, 6])
def test_ldreg_of_uniform_rows_is_about_the_log_of_their_dimension(d):
    x = torch.rand(3000, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    embedded = x @ torch.linalg.qr(rows(10, 10))[0][:d]
    assert log_local_dimension(embedded, 30).item() == pytest.approx(math.log(d), abs=0.15)


def test_ldreg_does_not_depend_on_the_scale():
    x = rows(50, 8)
    assert log_local_dimension(1000 * x, 9).item() == pytest.approx(log_local_dimension(x, 9).item(), abs=1e-10)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (5, 2, 3, 3)])
def test_orthogonality_is_the_sum_of_squares_over_the_smaller_gram_matrix(shape):
    weight = rows(shape[0], math.prod(shape[1:]))
    w = weight.numpy() if shape[0] < math.prod(shape[1:]) else weight.numpy().T
    expected = sum((w[i] @ w[j] - (i == j)) ** 2 for i in range(len(w)) for j in range(len(w)))
    assert orthogonality_loss([weight.reshape(shape)]).item() == pytest.approx(expected, rel=1e-12)


def test_orthogonality_is_0_for_orthonormal_weights_and_adds_up_over_layers():
    basis = torch.linalg.qr(rows(6, 6))[0]
    assert orthogonality_loss([basis[:4], basis[:, :2]]).item() == pytest.approx(0, abs=1e-12)
    parts = [rows(3, 5), rows(7, 2, seed=1)]
    assert orthogonality_loss(parts).item() == pytest.approx(sum(orthogonality_loss([part]).item() for part in parts))
    with pytest.raises(SSLToolError, match="at least one weight"):
        orthogonality_loss([])


@pytest.mark.parametrize("name", OF_ROWS)
def test_a_regulariser_is_worst_for_nearly_equal_rows_and_best_for_isotropic_ones(name):
    """Nearly equal ones lie on a line, which is also the least dimension."""
    function, sign = REGULARISERS.load(name), Term(name, 1.0, "backbone").factor
    line = torch.ones(200, 8).double() + torch.linspace(0, 1e-3, 200).double().outer(rows(1, 8)[0])
    partial = rows(200, 2) @ rows(2, 8, seed=1)
    penalties = [sign * function(x).item() for x in (line, partial, rows(200, 8))]
    assert penalties == sorted(penalties, reverse=True)
    assert penalties[0] > penalties[1] + 0.1 and penalties[1] > penalties[2] + 0.1


@pytest.mark.parametrize("name", OF_ROWS)
def test_descent_on_a_regulariser_spreads_rows_over_more_dimensions(name):
    function, factor = REGULARISERS.load(name), Term(name, 1.0, "backbone").factor
    x = (rows(60, 2) @ rows(2, 6, seed=1) + 0.05 * rows(60, 6, seed=2)).requires_grad_()

    def participation() -> float:
        s = torch.linalg.svdvals(x.detach() - x.detach().mean(dim=0)).square()
        return float(s.sum().square() / s.square().sum())

    before, optimizer = participation(), torch.optim.Adam([x], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (factor * function(x)).backward()
        optimizer.step()
    assert participation() > before + 0.5


@pytest.mark.parametrize("name", OF_ROWS)
@pytest.mark.parametrize("x", [torch.ones(6, 4), torch.zeros(6, 4), torch.eye(6)[:, :4].repeat(2, 1)], ids=str)
def test_values_and_gradients_are_finite_for_equal_rows_and_rows_of_zeros(name, x):
    x = x.clone().requires_grad_()
    value = REGULARISERS.load(name)(x)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(x.grad).all()


def test_a_regulariser_is_named_by_name_weight_and_layer():
    assert read_terms(["vne=0.1", "koleo=2@projector"]) == (Term("vne", 0.1, "backbone"), Term("koleo", 2, "projector"))
    assert [term.key for term in read_terms(["vne=1", "vne=1@projector"])] == ["backbone_vne", "projector_vne"]
    assert [term.factor for term in read_terms(["vne=0.5", "w2=0.5"])] == [-0.5, 0.5]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["vne"], "NAME=WEIGHT"),
        (["vnee=1"], "vnee.* vne"),
        (["vne=much"], "greater than 0; found 'much'"),
        (["vne=0"], "greater than 0; found '0'"),
        (["vne=-1"], "greater than 0"),
        (["vne=inf"], "greater than 0"),
        (["vne=nan"], "greater than 0"),
        (["vne=1@predictor"], "backbone or projector; found 'predictor'"),
        (["vne=1@"], "backbone or projector; found ''"),
        (["vne=1", "vne=2@backbone"], "vne of the backbone is given twice"),
    ],
)
def test_malformed_regularisers_are_refused(texts, message):
    with pytest.raises(UsageError, match=message):
        read_terms(texts)
