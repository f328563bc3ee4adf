"""NNCLR: loss against plain loops and closed forms, neighbours, and wiring against the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from methods_helpers import (
    build,
    defaults,
    forward_and_update,
    layers,
    nearest,
    negative_log_share,
    noisy_batch,
    rows,
    unit,
)
from ssltool.methods.nnclr import NNCLR, nnclr_loss


def by_hand(nn1: Tensor, nn2: Tensor, p1: Tensor, p2: Tensor, temperature: float) -> float:
    """Eq. 4 of arXiv:2104.14548 in both directions, neighbour by neighbour."""

    def contrast(neighbours: Tensor, p: Tensor) -> float:
        total = 0.0
        for i, neighbour in enumerate(unit(neighbours)):
            total += negative_log_share([float(neighbour @ other) / temperature for other in unit(p)], i)
        return total / len(p)

    return contrast(nn1, p2) / 2 + contrast(nn2, p1) / 2


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_loss_equals_eq_4_by_loops(seed, temperature):
    inputs = rows(4, seed=seed)
    assert nnclr_loss(*inputs, temperature).item() == pytest.approx(by_hand(*inputs, temperature), rel=1e-11)


@pytest.mark.parametrize("n", [1, 2, 64])
def test_equal_rows_have_the_loss_ln_n(n):
    a = torch.ones(n, 3, dtype=torch.float64)
    assert nnclr_loss(a, a, a, a).item() == pytest.approx(math.log(n), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("n", [2, 6])
def test_matching_predictions_of_orthogonal_neighbours_have_a_closed_form(n, temperature):
    a = 2.0 * torch.eye(n, dtype=torch.float64)
    wanted = math.log(1 + (n - 1) * math.exp(-1 / temperature))
    assert nnclr_loss(a, a, a, a, temperature).item() == pytest.approx(wanted, rel=1e-9)


def test_the_loss_of_two_hand_worked_images():
    # Temperature 1. nn1 finds its p2 at cosine 1 and the other at 0; nn2 finds both p1 at -1.
    x = torch.eye(2, dtype=torch.float64)
    nn2, p1 = -torch.ones(2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    wanted = (math.log(math.e + 1) - 1) / 2 + math.log(2) / 2
    assert nnclr_loss(x, nn2, p1, x, 1.0).item() == pytest.approx(wanted, rel=1e-12)


def test_negatives_are_other_predictions_not_other_neighbours():
    # All images share one neighbour. Of its cosines with the predictions, 1 and 0, each is the right one once; among
    # neighbours a prediction could tell none from the other, and the loss would be ln 2.
    shared, p = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    wanted = math.log(math.e + 1) - 0.5
    assert nnclr_loss(shared, shared, p, p, 1.0).item() == pytest.approx(wanted, rel=1e-6)


def test_the_temperature_is_0_1_by_default():
    inputs = rows(4)
    assert nnclr_loss(*inputs).item() == nnclr_loss(*inputs, 0.1).item() != nnclr_loss(*inputs, 0.2).item()


def test_the_defaults_are_the_papers():
    assert defaults("nnclr") == {
        "asymmetric": False,
        "dim": 256,
        "hidden": 2048,
        "pred_hidden": 4096,
        "queue": 98304,
        "temperature": 0.1,
        "negatives": True,
        "fix_pred_lr": False,
        "last_bn_affine": False,
    }


def test_three_layers_project_and_end_on_bn_and_two_predict_without():
    model = build("nnclr")
    assert layers(model.projector) == [
        *("linear 8-10", "bn+affine", "relu"),
        *("linear 10-10", "bn+affine", "relu"),
        *("linear 10-6", "bn"),
    ]
    assert layers(model.predictor) == ["linear 6-12", "bn+affine", "relu", "linear 12-6+bias"]


def test_the_last_batch_norm_can_have_scale_and_shift():
    assert layers(build("nnclr", last_bn_affine=True).projector)[-2:] == ["linear 10-6", "bn+affine"]


def wanted_loss(model: NNCLR, queue: Tensor, temperature: float = 0.1) -> float:
    z1, z2 = (model.projector(model.backbone(view)) for view in noisy_batch().views)
    p1, p2 = model.predictor(z1), model.predictor(z2)
    return by_hand(nearest(queue, z1), nearest(queue, z2), p1, p2, temperature)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_a_forward_pass_contrasts_predictions_with_neighbours_in_the_queue_as_it_was(temperature):
    model = build("nnclr", temperature=temperature)
    wanted = wanted_loss(model, model.queue.rows.clone(), temperature)
    assert forward_and_update(model, noisy_batch()).loss.item() == pytest.approx(wanted, rel=1e-5)
    after = wanted_loss(model, model.queue.rows.clone(), temperature)
    assert abs(after - wanted) > 1e-3
    assert model(noisy_batch()).loss.item() == pytest.approx(after, rel=1e-5)
