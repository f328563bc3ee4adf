"""Properties of the losses of all papers: gradients, precision and invariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from methods_helpers import rows
from ssltool.errors import SSLToolError
from ssltool.methods.barlow import barlow_loss
from ssltool.methods.byol import byol_loss
from ssltool.methods.moco import moco_loss
from ssltool.methods.mocov3 import mocov3_loss
from ssltool.methods.nnclr import nnclr_loss
from ssltool.methods.simclr import nt_xent_loss
from ssltool.methods.simsiam import simsiam_loss
from ssltool.methods.vicreg import vicreg_loss
from ssltool.methods.wmse import wmse_loss

N, D = 12, 5


@dataclass(frozen=True)
class Loss:
    """A loss of ``inputs`` tensors (N, D): which of them are ``constants``, what ``swapped`` views are, and whether it
    sees only directions (``cosine``) of all inputs or differences from the mean (``shifts``) of each."""

    of: Callable[..., Tensor]
    inputs: int = 4
    constants: tuple[int, ...] = ()
    swapped: tuple[int, ...] = (1, 0, 3, 2)
    cosine: bool = True
    shifts: bool = False


def cross_entropy_simsiam(*tensors: Tensor) -> Tensor:
    return simsiam_loss(*tensors, similarity="cross_entropy")


def whole_batch_wmse(*views: Tensor) -> Tensor:
    return wmse_loss(list(views), len(views[0]), torch.Generator().manual_seed(0))


LOSSES = {
    "simsiam": Loss(simsiam_loss, constants=(2, 3)),
    "simsiam-cross-entropy": Loss(cross_entropy_simsiam, constants=(2, 3), cosine=False),
    "byol": Loss(byol_loss, constants=(2, 3)),
    "simclr": Loss(nt_xent_loss, inputs=2, swapped=(1, 0)),
    "moco": Loss(moco_loss, inputs=3, constants=(1, 2), swapped=()),
    "mocov3": Loss(mocov3_loss, constants=(2, 3)),
    "nnclr": Loss(nnclr_loss, constants=(0, 1)),
    "barlow": Loss(barlow_loss, inputs=2, swapped=(1, 0), cosine=False, shifts=True),
    "vicreg": Loss(vicreg_loss, inputs=2, swapped=(1, 0), cosine=False),
    "wmse": Loss(whole_batch_wmse, inputs=2, swapped=(1, 0), cosine=False, shifts=True),
}
COSINE = [name for name, loss in LOSSES.items() if loss.cosine]
PAIRED = [name for name, loss in LOSSES.items() if loss.swapped]


def each(names=tuple(LOSSES)):
    return pytest.mark.parametrize("loss", [LOSSES[name] for name in names], ids=names)


def inputs(loss: Loss, n: int = N, d: int = D, seed: int = 0) -> list[Tensor]:
    return rows(loss.inputs, n, d, seed)


def value(loss: Loss, tensors: list[Tensor]) -> float:
    return loss.of(*tensors).item()


@each()
def test_only_learnt_inputs_receive_gradients(loss):
    tensors = [x.requires_grad_() for x in inputs(loss)]
    loss.of(*tensors).backward()
    for i, x in enumerate(tensors):
        if i in loss.constants:
            assert x.grad is None
        else:
            assert float(x.grad.norm()) > 0


@each()
def test_the_gradient_is_that_of_finite_differences(loss):
    tensors = inputs(loss, n=6, d=3)
    learning = [i for i in range(loss.inputs) if i not in loss.constants]

    def of_learning(*given: Tensor) -> Tensor:
        return loss.of(*(given[learning.index(i)] if i in learning else x for i, x in enumerate(tensors)))

    assert torch.autograd.gradcheck(of_learning, [tensors[i].clone().requires_grad_() for i in learning])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
@each()
def test_the_loss_keeps_the_dtype_within_its_precision(loss, dtype, tolerance):
    exact = inputs(loss, n=64)
    found = loss.of(*(x.to(dtype) for x in exact))
    assert (found.dtype, found.shape) == (dtype, ())
    assert float(found) == pytest.approx(value(loss, exact), rel=tolerance, abs=tolerance)


@each()
def test_autocast_changes_neither_the_loss_nor_its_gradient(loss):
    first, second = ([x.float().requires_grad_() for x in inputs(loss)] for _ in range(2))
    plain = loss.of(*first)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss.of(*second)
    plain.backward()
    found.backward()
    assert found.dtype == torch.float32
    assert torch.equal(found, plain)
    for a, b in zip(first, second, strict=True):
        assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)


@each()
def test_the_loss_is_invariant_to_the_order_of_images(loss):
    tensors = inputs(loss)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(order, torch.arange(N))
    assert value(loss, [x[order] for x in tensors]) == pytest.approx(value(loss, tensors), rel=1e-12)


@each()
def test_the_loss_depends_on_the_pairing_of_views(loss):
    tensors = inputs(loss)
    moved = [x.roll(1, dims=0) if i % 2 else x for i, x in enumerate(tensors)]
    assert abs(value(loss, moved) - value(loss, tensors)) > 1e-4


@each(PAIRED)
def test_the_loss_is_symmetric_in_the_views(loss):
    tensors = inputs(loss)
    assert value(loss, [tensors[i] for i in loss.swapped]) == pytest.approx(value(loss, tensors), rel=1e-12)


@each(COSINE)
def test_the_loss_is_invariant_to_row_norms(loss):
    tensors = inputs(loss)
    lengths = [10 ** torch.linspace(-3, 3, N, dtype=torch.float64).roll(i)[:, None] for i in range(loss.inputs)]
    scaled = [x * s for x, s in zip(tensors, lengths, strict=True)]
    assert value(loss, scaled) == pytest.approx(value(loss, tensors), rel=1e-11)


@each(COSINE)
def test_the_loss_is_invariant_to_rotations(loss):
    tensors = inputs(loss)
    rotation = torch.linalg.qr(rows(1, D, D, seed=9)[0]).Q
    assert value(loss, [x @ rotation for x in tensors]) == pytest.approx(value(loss, tensors), rel=1e-11)


@each(name for name, loss in LOSSES.items() if loss.shifts)
def test_the_loss_is_invariant_to_shift_and_scale_of_each_dimension(loss):
    tensors = [1e3 * x for x in inputs(loss)]  # Barlow Twins' variances have an epsilon
    moved = [x * torch.tensor([2.0, 1.0, 5.0, 3.0, 0.5]) + 7.0 * (i + 1) for i, x in enumerate(tensors)]
    assert value(loss, moved) == pytest.approx(value(loss, tensors), rel=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e6])
@each(name for name in LOSSES if name != "wmse")
def test_tiny_huge_and_equal_rows_have_a_finite_loss_and_gradient(loss, scale):
    tensors = [(scale * x).float().requires_grad_() for x in inputs(loss)]
    found = loss.of(*tensors)
    found.backward()
    assert math.isfinite(found.item())
    assert all(bool(x.grad.isfinite().all()) for x in tensors if x.grad is not None)


@pytest.mark.parametrize("temperature", [1e-3, 1e-2])
@each(["simclr", "moco", "mocov3", "nnclr"])
def test_a_temperature_whose_exp_overflows_leaves_loss_and_gradient_finite(loss, temperature):
    tensors = [x.float().requires_grad_() for x in inputs(loss)]
    found = loss.of(*tensors, temperature)
    found.backward()
    assert math.isfinite(found.item())
    assert all(bool(x.grad.isfinite().all()) for x in tensors if x.grad is not None)


SHAPES = {
    "another width": [(8, 3)] * 3 + [(8, 2)],
    "another number": [(9, 3)] + [(8, 3)] * 3,
    "vectors": [(8,)] * 4,
    "three dimensions": [(2, 8, 3)] * 4,
    "no rows": [(0, 3)] * 4,
}


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@each(name for name in LOSSES if name != "moco")
def test_mismatched_shapes_are_refused(loss, shapes):
    chosen = shapes[:1] + shapes[len(shapes) - loss.inputs + 1 :]
    with pytest.raises(SSLToolError, match=rf"_loss \w+ {loss.inputs} .*; found"):
        loss.of(*(torch.zeros(shape) for shape in chosen))
