"""MoCo v3: its loss against plain loops and closed forms, its wiring against the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from methods_helpers import build, defaults, facts, layers, negative_log_share, noisy_batch, rows, shake, unit
from ssltool.methods import method_options
from ssltool.methods.mocov3 import MoCoV3, mocov3_loss
from ssltool.models.vit import ViT


def by_hand(q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, temperature: float) -> float:
    """Algorithm 1 of arXiv:2104.02057, query by query."""

    def contrast(q: Tensor, k: Tensor) -> float:
        total = 0.0
        for i, query in enumerate(unit(q)):
            total += negative_log_share([float(query @ key) / temperature for key in unit(k)], i)
        return 2 * temperature * total / len(q)

    return contrast(q1, k2) + contrast(q2, k1)


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_the_loss_equals_algorithm_1_by_loops(seed, temperature):
    inputs = rows(4, seed=seed)
    assert mocov3_loss(*inputs, temperature).item() == pytest.approx(by_hand(*inputs, temperature), rel=1e-11)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("n", [1, 2, 64])
def test_equal_rows_have_the_loss_4_t_ln_n(n, temperature):
    a = torch.ones(n, 3, dtype=torch.float64)
    wanted = 4 * temperature * math.log(n)
    assert mocov3_loss(a, a, a, a, temperature).item() == pytest.approx(wanted, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("n", [2, 6])
def test_matching_keys_of_orthogonal_images_have_a_closed_form(n, temperature):
    a = 2.0 * torch.eye(n, dtype=torch.float64)
    wanted = 4 * temperature * math.log(1 + (n - 1) * math.exp(-1 / temperature))
    assert mocov3_loss(a, a, a, a, temperature).item() == pytest.approx(wanted, rel=1e-9)


def test_the_loss_of_two_hand_worked_images():
    # Temperature 1. q1 finds its keys at cosine 1 and the others at 0; q2 finds both at -1, so each has half.
    x = torch.eye(2, dtype=torch.float64)
    q2, k1 = -torch.ones(2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    wanted = 2 * (math.log(math.e + 1) - 1) + 2 * math.log(2)
    assert mocov3_loss(x, q2, k1, x).item() == pytest.approx(wanted, rel=1e-12)


def test_each_query_is_compared_with_the_other_view():
    a, b, c = rows(3)
    matched, crossed = mocov3_loss(a, b, b, a, 0.1).item(), mocov3_loss(a, b, a, b, 0.1).item()
    assert matched < crossed
    assert mocov3_loss(a, c, b, a, 0.1).item() == pytest.approx(by_hand(a, c, b, a, 0.1), rel=1e-11)


def test_the_temperature_is_1_by_default():
    inputs = rows(4)
    assert mocov3_loss(*inputs).item() == mocov3_loss(*inputs, 1.0).item() != mocov3_loss(*inputs, 0.9).item()


def test_the_defaults_are_the_papers_for_a_resnet():
    assert defaults("mocov3") == {
        "asymmetric": False,
        "dim": 256,
        "hidden": 4096,
        "temperature": 1.0,
        "negatives": True,
        "momentum": 0.99,
        "momentum_final": 1.0,
        "fix_pred_lr": False,
    }


def test_on_a_resnet_two_layers_project_and_end_on_bn_and_two_predict_without():
    model = build("mocov3")
    assert layers(model.projector) == ["linear 8-10", "bn+affine", "relu", "linear 10-6", "bn"]
    assert layers(model.predictor) == ["linear 6-10", "bn+affine", "relu", "linear 10-6"]


def test_on_a_vit_three_layers_project_and_two_predict_and_both_end_on_bn():
    backbone = ViT(8, 4, 1, 2, hidden_dim=8, mlp_dim=16)
    backbone.heads = nn.Identity()
    model = MoCoV3(backbone, 8, method_options("mocov3", {"dim": 6, "hidden": 10}), facts())
    assert layers(model.projector) == [
        *("linear 8-10", "bn+affine", "relu"),
        *("linear 10-10", "bn+affine", "relu"),
        *("linear 10-6", "bn"),
    ]
    assert layers(model.predictor) == ["linear 6-10", "bn+affine", "relu", "linear 10-6", "bn"]
    assert layers(model.teacher["projector"]) == layers(model.projector)
    assert math.isfinite(model(noisy_batch()).loss.item())


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_a_forward_pass_compares_predictions_with_the_teachers_projections(temperature):
    model, batch = build("mocov3", temperature=temperature), noisy_batch()
    shake(model.teacher)
    q1, q2 = (model.predictor(model.projector(model.backbone(view))) for view in batch.views)
    k1, k2 = (model.teacher["projector"](model.teacher["backbone"](view)) for view in batch.views)
    wanted = by_hand(q1, q2, k1, k2, temperature)
    assert abs(wanted - by_hand(q1, q2, k2, k1, temperature)) > 1e-3
    assert model(batch).loss.item() == pytest.approx(wanted, rel=1e-5)
