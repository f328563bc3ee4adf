"""Distillation: loss against a plain loop, running means in closed form, and a fixed teacher."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods_helpers import Flat, build, defaults, facts, forward_and_update, layers, noisy_batch, rows
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.methods.distill import distill_loss
from target_helpers import array


def inputs(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    student, teacher = rows(2, seed=seed)
    return student, teacher, torch.linspace(-1, 1, 5, dtype=torch.float64), torch.linspace(0.5, 2, 5).double()


def by_hand(student, teacher, mu, sd) -> float:
    """The loss of ``distill.py``, number by number."""
    total = 0.0
    for s_row, t_row in zip(array(student), array(teacher), strict=True):
        for s, t, m, d in zip(s_row, t_row, array(mu), array(sd), strict=True):
            total += (s - (t - m) / (1e-6 + d)) ** 2
    return total / array(student).size


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_equals_the_papers_by_loops(seed):
    assert distill_loss(*inputs(seed)).item() == pytest.approx(by_hand(*inputs(seed)), rel=1e-12)


def test_the_loss_of_a_hand_worked_row():
    # The targets are (5 - 1) / 2 and (0 - 3) / 3: differences of 1 and 3.
    student, teacher = torch.tensor([[3.0, 2.0]]), torch.tensor([[5.0, 0.0]])
    found = distill_loss(student, teacher, torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0])).item()
    assert found == pytest.approx((1 + 9) / 2, rel=1e-5)


def test_a_student_that_outputs_the_standardised_targets_has_the_loss_0():
    _, teacher, mu, sd = inputs()
    assert distill_loss((teacher - mu) / (sd + 1e-6), teacher, mu, sd).item() == 0.0


def test_a_constant_dimension_is_divided_by_epsilon():
    found = distill_loss(torch.zeros(1, 1), torch.full((1, 1), 3e-6), torch.zeros(1), torch.zeros(1)).item()
    assert found == pytest.approx(9.0, rel=1e-5)


def test_mean_and_standard_deviation_cancel_shift_and_scale_of_the_teacher():
    student, teacher, mu, sd = inputs()
    moved = distill_loss(student, 1e3 * teacher + 7, 1e3 * mu + 7, 1e3 * sd).item()
    assert moved == pytest.approx(distill_loss(student, teacher, mu, sd).item(), rel=1e-4)


@pytest.mark.parametrize("shapes", [[(4, 3), (4, 2)], [(4, 3), (5, 3)], [(3,), (3,)], [(0, 3), (0, 3)]])
def test_rows_of_different_shapes_are_refused(shapes):
    with pytest.raises(SSLToolError, match=r"distill_loss .*; found"):
        distill_loss(*(torch.zeros(shape) for shape in shapes), torch.zeros(3), torch.ones(3))


class Normed(nn.Sequential):
    """A teacher with batch norm, five wide, whose running statistics are not its batches'."""

    def __init__(self) -> None:
        super().__init__(Flat(5), nn.BatchNorm1d(5))
        nn.init.constant_(self[1].running_mean, 0.2)
        nn.init.constant_(self[1].running_var, 4.0)


def distill(**options) -> Method:
    return build("distill", facts(second_backbone=lambda: (Normed(), 5)), **options).train()


def answers(model: Method, view: Tensor) -> np.ndarray:
    """The teacher's rows, by its running statistics."""
    return array(model.teacher[0](view) - 0.2) / math.sqrt(4 + 1e-5)


def test_the_defaults_are_the_papers():
    assert defaults("distill") == {"teacher": None, "alpha": 0.05}


def test_the_projector_is_one_layer_to_the_teachers_width():
    assert layers(distill().projector) == ["linear 8-5+bias"]


def test_one_view_of_each_image_is_made_by_the_runs_recipe():
    assert distill().view_recipes(PAPER) == [PAPER]


@pytest.mark.parametrize("alpha", [0.05, 0.5])
def test_running_means_and_unbiased_deviations_are_updated_after_use(alpha):
    model, mu, sd = distill(alpha=alpha), np.zeros(5), np.ones(5)
    for seed in range(3):
        batch = noisy_batch(sizes=(8,), seed=seed)
        t, s = answers(model, batch.views[0]), model.projector(model.backbone(batch.views[0]))
        out = forward_and_update(model, batch)
        assert out.loss.item() == pytest.approx(by_hand(s, t, mu, sd), rel=1e-4)
        torch.testing.assert_close(out.projection, s)
        mu, sd = (1 - alpha) * mu + alpha * t.mean(axis=0), (1 - alpha) * sd + alpha * t.std(axis=0, ddof=1)
        assert array(model.mu) == pytest.approx(mu, abs=1e-6)
        assert array(model.sd) == pytest.approx(sd, abs=1e-6)


def test_running_statistics_do_not_change_in_evaluation():
    model = distill().eval()
    model(noisy_batch(sizes=(8,)))
    assert not model.mu.any()
    assert torch.equal(model.sd, torch.ones(5))


def test_the_teacher_is_always_in_eval_mode():
    model = distill()
    for mode in (True, False, True):
        assert model.train(mode) is model
        assert (model.training, model.projector.training) == (mode, mode)
        assert not any(module.training for module in model.teacher.modules())
    model(noisy_batch(sizes=(8,)))
    assert torch.equal(model.teacher[1].running_mean, torch.full((5,), 0.2))


def test_the_teacher_is_not_trained():
    model = distill()
    model(noisy_batch(sizes=(8,))).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in model.teacher.parameters())
    theirs = {id(p) for p in model.teacher.parameters()}
    assert theirs.isdisjoint(id(p) for group in model.param_groups() for p in group["params"])
    assert float(model.backbone.layer.weight.grad.norm()) > 0
