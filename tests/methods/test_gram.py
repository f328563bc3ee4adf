"""Gram anchoring: against loops, closed forms, invariances."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods_helpers import rows, unit
from ssltool.errors import SSLToolError
from ssltool.methods.parts.gram import gram_loss


def tokens(seed: int, n: int = 3, p: int = 4, d: int = 5) -> Tensor:
    return rows(1, n=n * p, d=d, seed=seed)[0].view(n, p, d)


def by_hand(student: Tensor, teacher: Tensor) -> float:
    """The mean squared difference of cosines, pair by pair of the patches of an image."""
    apart = []
    for s, t in zip(student, teacher, strict=True):
        a, b = unit(s), unit(t)
        apart += [float(a[i] @ a[j] - b[i] @ b[j]) ** 2 for i in range(len(a)) for j in range(len(a))]
    return sum(apart) / len(apart)


def test_the_loss_is_the_mean_squared_difference_of_the_cosines_of_patches():
    assert gram_loss(tokens(0), tokens(1)).item() == pytest.approx(by_hand(tokens(0), tokens(1)), rel=1e-10)


def test_lengths_and_a_rotation_of_all_patches_do_not_matter():
    rotation = torch.linalg.qr(rows(1, n=5, d=5, seed=2)[0])[0]
    x = tokens(0)
    lengths = torch.linspace(0.5, 3, 12, dtype=torch.float64).view(3, 4, 1)
    assert gram_loss(lengths * x @ rotation, x).item() == pytest.approx(0.0, abs=1e-12)


def test_equal_patches_against_orthogonal_ones_differ_in_all_pairs_of_different_patches():
    assert gram_loss(torch.ones(2, 4, 4), torch.eye(4).expand(2, 4, 4)).item() == pytest.approx(12 / 16, rel=1e-6)


def test_opposite_similarities_of_two_patches_have_the_largest_loss_of_a_pair():
    same, opposite = torch.ones(1, 2, 1), torch.tensor([[[1.0], [-1.0]]])
    assert gram_loss(same, opposite).item() == pytest.approx(4 * 2 / 4, rel=1e-6)


def test_only_the_student_has_a_gradient():
    student, teacher = tokens(0).requires_grad_(), tokens(1).requires_grad_()
    gram_loss(student, teacher).backward()
    assert float(student.grad.norm()) > 0 and teacher.grad is None


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((2, 3, 4), (2, 2, 4)), ((0, 3, 4), (0, 3, 4))])
def test_other_shapes_are_refused(shapes):
    with pytest.raises(SSLToolError, match="gram_loss") as caught:
        gram_loss(*(torch.zeros(shape) for shape in shapes))
    assert str(caught.value).endswith(f"{shapes[0]} and {shapes[1]}")
