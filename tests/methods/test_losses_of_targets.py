"""Properties of the losses that match a distribution or another target: gradients, precision, autocast."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from methods_helpers import rows
from ssltool.methods.deepcluster import deepcluster_loss
from ssltool.methods.dino import dino_loss
from ssltool.methods.distill import distill_loss
from ssltool.methods.paws import paws_loss
from ssltool.methods.ressl import ressl_loss
from ssltool.methods.simdino import simdino_loss
from ssltool.methods.swav import swav_loss
from ssltool.methods.teacher import teacher_loss

N, D = 8, 5
CLUSTERS = torch.arange(2 * N).view(2, N) % D
LABELS = torch.eye(3, dtype=torch.float64)[torch.arange(6) % 3] * 0.9 + 0.1 / 3


@dataclass(frozen=True)
class Loss:
    """A loss of tensors, float64: which of its ``inputs`` are ``constants``, which have a row for each ``image``."""

    of: Callable[..., Tensor]
    inputs: Callable[[], list[Tensor]]
    constants: tuple[int, ...] = ()
    images: tuple[int, ...] = ()


def swav(*x: Tensor) -> Tensor:
    return swav_loss(list(x[:3]), list(x[3:]))


def deepcluster(*x: Tensor, clusters: Tensor = CLUSTERS) -> Tensor:
    return deepcluster_loss([list(x[:3]), list(x[3:])], clusters)


def dino(*x: Tensor) -> Tensor:
    return dino_loss(list(x[:3]), list(x[3:5]), torch.linspace(-0.2, 0.2, D, dtype=x[0].dtype), 0.2, 0.1)


def simdino(*x: Tensor) -> Tensor:
    return simdino_loss(list(x[:3]), list(x[3:]))


def paws(*x: Tensor) -> Tensor:
    anchors, targets, support, target_support = list(x[:3]), list(x[3:5]), x[5], x[6]
    return paws_loss(anchors, support, targets, target_support, LABELS.to(x[0].dtype))


def paws_without_entropy(*x: Tensor) -> Tensor:
    return paws_loss(list(x[:3]), x[5], list(x[3:5]), x[6], LABELS.to(x[0].dtype), me_max=False)


def distill(student: Tensor, teacher: Tensor) -> Tensor:
    dims = torch.linspace(0.5, 2, D, dtype=student.dtype)
    return distill_loss(student, teacher, -dims, dims)


def teacher(student: Tensor, teacher: Tensor) -> Tensor:
    return teacher_loss(student.view(-1, 2, D), teacher.view(-1, 2, D))


def cosines(count: int) -> list[Tensor]:
    return [x.tanh() for x in rows(count, N, D)]


LOSSES = {
    "swav": Loss(swav, lambda: cosines(3) + [x.softmax(dim=1) for x in rows(2, N, D, 1)], (3, 4), (0, 1, 2, 3, 4)),
    "deepcluster": Loss(deepcluster, lambda: cosines(6)),
    "dino": Loss(dino, lambda: cosines(5), (3, 4), (0, 1, 2, 3, 4)),
    "simdino": Loss(simdino, lambda: rows(5, N, D), (3, 4), (0, 1, 2, 3, 4)),
    "ressl": Loss(ressl_loss, lambda: rows(3, N, D), (1, 2), (0, 1)),
    "paws": Loss(paws, lambda: rows(5, N, D) + rows(2, 6, D, 1), (3, 4, 6), (0, 1, 2, 3, 4)),
    "paws-without-entropy": Loss(
        paws_without_entropy, lambda: rows(5, N, D) + rows(2, 6, D, 1), (3, 4, 6), (0, 1, 2, 3, 4)
    ),
    "distill": Loss(distill, lambda: rows(2, N, D), (1,), (0, 1)),
    "teacher": Loss(teacher, lambda: rows(2, N, D)),
}


@pytest.fixture(params=LOSSES.values(), ids=LOSSES)
def loss(request) -> Loss:
    return request.param


def test_only_learnt_inputs_receive_gradients(loss):
    inputs = [x.requires_grad_() for x in loss.inputs()]
    loss.of(*inputs).backward()
    assert [x.grad is None for x in inputs] == [i in loss.constants for i in range(len(inputs))]
    assert all(float(x.grad.norm()) > 0 for x in inputs if x.grad is not None)


def test_the_gradient_is_that_of_finite_differences(loss):
    inputs = loss.inputs()
    learning = [i for i in range(len(inputs)) if i not in loss.constants]

    def of_learning(*given: Tensor) -> Tensor:
        return loss.of(*(given[learning.index(i)] if i in learning else x for i, x in enumerate(inputs)))

    assert torch.autograd.gradcheck(of_learning, [inputs[i].clone().requires_grad_() for i in learning])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_the_loss_keeps_the_dtype_within_its_precision(loss, dtype, tolerance):
    rounded = [x.to(dtype) for x in loss.inputs()]
    found, wanted = loss.of(*rounded), loss.of(*(x.double() for x in rounded))
    assert (found.dtype, found.shape) == (dtype, ())
    assert float(found) == pytest.approx(float(wanted), rel=tolerance)


def test_autocast_changes_neither_the_loss_nor_its_gradient(loss):
    first, second = ([x.float().requires_grad_() for x in loss.inputs()] for _ in range(2))
    plain = loss.of(*first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss.of(*second)
    plain.backward()
    found.backward()
    assert found.dtype == torch.float32
    assert torch.equal(found, plain)
    learning = [(a, b) for i, (a, b) in enumerate(zip(first, second, strict=True)) if i not in loss.constants]
    assert all(torch.equal(a.grad, b.grad) for a, b in learning)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.images])
def test_the_loss_is_invariant_to_the_order_of_images_but_not_to_their_targets(name):
    loss = LOSSES[name]
    inputs, order = loss.inputs(), torch.arange(N).roll(3)
    wanted = loss.of(*inputs).item()
    together = [x[order] if i in loss.images else x for i, x in enumerate(inputs)]
    assert loss.of(*together).item() == pytest.approx(wanted, rel=1e-12)
    apart = [x[order] if i == 0 else x for i, x in enumerate(inputs)]
    assert abs(loss.of(*apart).item() - wanted) > 1e-4


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e6])
def test_tiny_huge_and_equal_rows_have_a_finite_loss_and_gradient(loss, scale):
    inputs = [(x * (1 if i in loss.constants else scale)).float().requires_grad_() for i, x in enumerate(loss.inputs())]
    found = loss.of(*inputs)
    found.backward()
    assert math.isfinite(found.item())
    assert all(bool(x.grad.isfinite().all()) for x in inputs if x.grad is not None)
