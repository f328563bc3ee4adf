"""Sinkhorn-Knopp in logarithms against the paper's own with exponentials, and where those would overflow."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from methods_helpers import rows
from ssltool.errors import SSLToolError
from ssltool.methods.parts.sinkhorn import sinkhorn
from target_helpers import array, softmax


def by_the_paper(scores, epsilon: float, iterations: int) -> np.ndarray:
    """Appendix A of arXiv:2006.09882, line by line."""
    q = np.exp(array(scores) / epsilon).T
    q /= q.sum()
    k, b = q.shape
    for _ in range(iterations):
        q *= ((1 / k) / q.sum(axis=1))[:, None]
        q *= ((1 / b) / q.sum(axis=0))[None, :]
    return (q / q.sum(axis=0, keepdims=True)).T


def cosines(n: int = 12, k: int = 5, seed: int = 0) -> torch.Tensor:
    """Scores between -1 and 1."""
    return rows(1, n=n, d=k, seed=seed)[0].tanh()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epsilon", [0.05, 0.5])
@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_the_assignments_are_the_papers_where_exp_does_not_overflow(seed, epsilon, iterations):
    scores = cosines(seed=seed)
    wanted = by_the_paper(scores, epsilon, iterations)
    assert sinkhorn(scores, epsilon, iterations).numpy() == pytest.approx(wanted, rel=1e-9, abs=1e-15)


def test_by_default_the_papers_epsilon_and_iterations_are_used():
    assert sinkhorn(cosines()).numpy() == pytest.approx(by_the_paper(cosines(), 0.05, 3), rel=1e-9, abs=1e-15)


def test_one_turn_of_two_hand_worked_rows():
    # exp gives [[3, 1], [1, 1]]; columns of sum 1: [[3/4, 1/2], [1/4, 1/2]]; then rows of sum 1.
    scores = 0.05 * torch.tensor([[math.log(3), 0.0], [0.0, 0.0]], dtype=torch.float64)
    assert sinkhorn(scores, 0.05, 1).tolist() == [pytest.approx([3 / 5, 2 / 5]), pytest.approx([1 / 3, 2 / 3])]


@pytest.mark.parametrize("iterations", [1, 2, 3, 50])
def test_rows_sum_to_1(iterations):
    found = sinkhorn(cosines(), 0.05, iterations)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(12, dtype=torch.float64))
    assert float(found.min()) >= 0


def test_more_iterations_give_more_equal_prototype_masses():
    off = [float((sinkhorn(cosines(), 0.2, turns).sum(dim=0) - 12 / 5).abs().max()) for turns in (1, 3, 10, 200)]
    assert off == sorted(off, reverse=True)
    assert off[0] > 0.01
    assert off[-1] < 1e-9


@pytest.mark.parametrize("value", [0.0, 1.0, -7.0])
def test_constant_scores_are_spread_evenly(value):
    assert sinkhorn(torch.full((6, 4), value)).tolist() == [pytest.approx([0.25] * 4)] * 6


def test_equal_rows_are_assigned_uniformly():
    assert sinkhorn(cosines(n=1).expand(9, 5)).numpy() == pytest.approx(np.full((9, 5), 0.2))


def test_assignments_are_invariant_to_a_common_shift_of_columns():
    shift = torch.linspace(-1, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(sinkhorn(cosines() + shift), sinkhorn(cosines()))


def test_one_row_alone_is_spread_evenly_and_one_prototype_takes_all():
    assert sinkhorn(cosines(n=1)).tolist() == [pytest.approx([0.2] * 5)]
    assert sinkhorn(cosines(k=1)).tolist() == [[1.0]] * 12


def test_assignments_do_not_depend_on_the_order_of_rows_and_prototypes():
    order, columns = torch.randperm(12), torch.randperm(5)
    torch.testing.assert_close(sinkhorn(cosines()[order][:, columns]), sinkhorn(cosines())[order][:, columns])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("epsilon", [1e-3, 1e-2])
def test_no_epsilon_overflows(epsilon, dtype):
    assert torch.tensor(1 / 1e-3, dtype=dtype).exp() == math.inf  # what the paper's code would start from
    found = sinkhorn(cosines().to(dtype), epsilon)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found.sum(dim=1), torch.ones(12, dtype=dtype))


def test_at_a_small_epsilon_each_row_has_its_own_prototype():
    torch.testing.assert_close(sinkhorn(torch.eye(4), 1e-3), torch.eye(4))


def test_a_large_epsilon_gives_nearly_uniform_assignments():
    assert sinkhorn(cosines(), 1e6).numpy() == pytest.approx(np.full((12, 5), 0.2), rel=1e-5)


def test_with_a_single_turn_and_equal_columns_it_is_the_softmax():
    scores = torch.tensor([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2], [0.2, 0.3, 0.1]], dtype=torch.float64)
    assert sinkhorn(scores, 0.05, 1).numpy() == pytest.approx(softmax(scores / 0.05), rel=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_assignments_keep_the_dtype_within_its_precision(dtype, tolerance):
    scores = cosines().to(dtype)
    found = sinkhorn(scores, 0.5)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), sinkhorn(scores.double(), 0.5), rtol=tolerance, atol=0)


def test_the_result_does_not_depend_on_autocast():
    scores = cosines().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sinkhorn(scores)
    assert found.dtype == torch.float32
    assert torch.equal(found, sinkhorn(scores))


def test_assignments_have_no_gradient():
    assert not sinkhorn(cosines().requires_grad_()).requires_grad


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 3), (3, 0)])
def test_scores_that_are_not_a_matrix_are_refused(shape):
    with pytest.raises(SSLToolError) as caught:
        sinkhorn(torch.zeros(shape))
    assert str(caught.value).startswith("sinkhorn ") and str(caught.value).endswith(f"found {shape}")
