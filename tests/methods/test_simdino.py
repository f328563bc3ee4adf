"""SimDINO: its loss against loops and eigenvalues, closed forms and the released code's weights, its wiring."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods_helpers import build, defaults, facts, layers, noisy_batch, rows, shake, unit
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.methods.simdino import simdino_loss


def by_hand(
    student: list[Tensor], teacher: list[Tensor], gamma: float = 1.0, eps: float = 0.2236, rate_of: str = "mean"
) -> float:
    """1 minus the mean cosine of pairs of different crops, minus the weighted rate by eigenvalues of covariances."""
    z_s, z_t = ([unit(z) for z in crops] for crops in (student, teacher))
    n, d = z_s[0].shape
    cosines, rates = [], []
    for i, t in enumerate(z_t):
        cosines += [float(s[row] @ t[row]) for v, s in enumerate(z_s) if v != i for row in range(n)]
        z = z_s[i] if rate_of == "student" else (z_s[i] + t) / 2
        second_moment = sum(np.outer(row, row) for row in z) / n
        rates.append(0.5 * np.log(1 + d / eps**2 * np.linalg.eigvalsh(second_moment)).sum())
    return 1 - float(np.mean(cosines)) - gamma * (1 / d + 1 / n) * float(np.mean(rates))


@pytest.mark.parametrize("settings", [(1.0, 0.2236, "mean"), (1.0, 0.5, "student"), (3.0, 1.0, "mean"), (0.0, 1.0)])
@pytest.mark.parametrize(("crops", "n", "d"), [(2, 8, 5), (5, 4, 7)])
def test_the_loss_is_the_distance_less_the_coding_rate_by_loops(crops, n, d, settings):
    teacher, student = rows(2, n=n, d=d), rows(crops, n=n, d=d, seed=1)
    assert simdino_loss(student, teacher, *settings).item() == pytest.approx(
        by_hand(student, teacher, *settings), rel=1e-10, abs=1e-10
    )


def test_without_the_coding_rate_equal_outputs_are_the_minimum_and_opposite_ones_the_maximum():
    z = torch.ones(8, 5)
    assert simdino_loss([z, z], [z, z], gamma=0).item() == pytest.approx(0.0, abs=1e-6)
    assert simdino_loss([-z, -z], [z, z], gamma=0).item() == pytest.approx(2.0, rel=1e-6)
    apart = rows(4)
    assert simdino_loss(apart[:2], apart[2:], gamma=0).item() > 0.1


def test_with_the_coding_rate_spread_outputs_have_a_lower_loss_than_equal_ones():
    d, eps = 6, 0.5
    spread, equal = torch.eye(d).double(), torch.ones(d, d).double()
    weight = 2 / d
    assert simdino_loss([spread] * 2, [spread] * 2, eps=eps).item() == pytest.approx(
        -weight * d / 2 * math.log(1 + 1 / eps**2), rel=1e-10
    )
    assert simdino_loss([equal] * 2, [equal] * 2, eps=eps).item() == pytest.approx(
        -weight / 2 * math.log(1 + d / eps**2), rel=1e-10
    )


def test_small_crops_have_a_distance_but_no_coding_rate():
    student, teacher = rows(4), rows(2, seed=1)
    moved = [*student[:2], student[2].flip(0), student[3]]
    without = [simdino_loss(crops, teacher, gamma=0) for crops in (student, moved)]
    found = [simdino_loss(crops, teacher) for crops in (student, moved)]
    assert (found[1] - found[0]).item() == pytest.approx((without[1] - without[0]).item(), rel=1e-9)
    assert abs(found[1] - found[0]).item() > 1e-3


def test_the_loss_is_invariant_to_lengths_to_a_common_rotation_and_to_the_order_of_images():
    student, teacher = rows(4), rows(2, seed=1)
    wanted = simdino_loss(student, teacher).item()
    rotation = torch.linalg.qr(rows(1, n=5, d=5, seed=2)[0])[0]
    for same in (lambda z: 7 * z, lambda z: z @ rotation, lambda z: z.flip(0)):
        found = simdino_loss([same(z) for z in student], [same(z) for z in teacher]).item()
        assert found == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [([(4, 3)], [(4, 3)]), ([(4, 3)] * 2, []), ([(4, 3)] * 2, [(4, 3)] * 3), ([(4, 3)] * 2, [(4, 2)] * 2)],
)
def test_mismatched_crops_are_refused(student, teacher):
    with pytest.raises(SSLToolError, match="simdino_loss ") as caught:
        simdino_loss([torch.ones(s) for s in student], [torch.ones(s) for s in teacher])
    shapes = sorted({*student, *teacher})
    assert str(caught.value).endswith(f"found {len(student)} and {len(teacher)} of shapes {shapes}")


def test_the_defaults_are_the_released_codes():
    assert defaults("simdino") == {
        "asymmetric": False, "dim": 256, "hidden": 2048, "gamma": 1.0, "eps": 0.2236, "rate_of": "mean",
        "momentum": 0.996, "momentum_final": 1.0, "clip_grad": 3.0, "head_bn": False, "drop_path": 0.0,
        "local_crops": 8, "local_size": None,
    }  # fmt: skip
    assert defaults("simdino")["eps"] ** 2 == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize("bn", [False, True])
def test_the_projector_has_three_layers_with_gelu_and_optional_batch_norm(bn):
    linear = "linear 8-10", "linear 10-10"
    hidden = [[layer, "bn+affine", "gelu"] if bn else [f"{layer}+bias", "gelu"] for layer in linear]
    assert layers(build("simdino", head_bn=bn).projector) == [*hidden[0], *hidden[1], "linear 10-6+bias"]


def made(**options) -> Method:
    """A method whose student and teacher have different weights."""
    return shake(build("simdino", **options))


@pytest.mark.parametrize("rate_of", ["mean", "student"])
@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 4, 4)])
def test_a_forward_pass_is_the_loss_of_all_crops_of_the_student_and_the_large_ones_of_the_teacher(sizes, rate_of):
    model, batch = made(rate_of=rate_of, gamma=2.0, eps=0.5), noisy_batch(sizes=sizes)

    def outputs(projector: nn.Module, backbone: nn.Module, views: list[Tensor]) -> list[Tensor]:
        return [projector(backbone(view)) for view in views]

    student = outputs(model.projector, model.backbone, batch.views)
    teacher = outputs(model.teacher["projector"], model.teacher["backbone"], batch.views[:2])
    wanted = by_hand(student, teacher, 2.0, 0.5, rate_of)
    assert model(batch).loss.item() == pytest.approx(wanted, rel=1e-4)


def test_gradients_are_clipped_for_each_parameter():
    model = made(clip_grad=0.01, gamma=50.0)
    model(noisy_batch()).loss.backward()
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.before_update()
    for name, grad in before.items():
        found = dict(model.named_parameters())[name].grad
        torch.testing.assert_close(found, grad * min(1.0, 0.01 / (float(grad.norm()) + 1e-6)))


def test_only_matrices_decay():
    decaying, plain = made().param_groups()
    assert {p.ndim for p in plain["params"]} == {1} and plain["decays"] is False
    assert min(p.ndim for p in decaying["params"]) == 2


def test_the_loss_of_a_constant_output_depends_on_the_batch_size_and_is_0_without_the_coding_rate():
    for n, d, eps in ((16, 6, 0.5), (64, 6, 0.2236)):
        z = [torch.ones(n, d).double()] * 2
        (known,) = build("simdino", facts(batch_size=n), eps=eps).constant_output_losses
        assert known == pytest.approx(simdino_loss(z, z, eps=eps).item(), rel=1e-9)
    assert build("simdino", gamma=0).constant_output_losses == (0.0,)
