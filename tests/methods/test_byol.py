"""BYOL: its loss against a plain loop, its wiring against the paper."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from methods_helpers import build, defaults, layers, noisy_batch, rows, shake
from ssltool.errors import SSLToolError
from ssltool.methods.byol import byol_loss


def by_hand(p1: Tensor, p2: Tensor, t1: Tensor, t2: Tensor) -> float:
    """Eq. 2 of arXiv:2006.07733 in both directions: squared distances of rows of length 1."""

    def one_way(p: Tensor, t: Tensor) -> float:
        total = 0.0
        for a, b in zip(p.tolist(), t.tolist(), strict=True):
            total += sum((x / math.hypot(*a) - y / math.hypot(*b)) ** 2 for x, y in zip(a, b, strict=True))
        return total / len(p)

    return one_way(p1, t2) + one_way(p2, t1)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_equals_eq_2_by_loops(seed):
    inputs = rows(4, seed=seed)
    assert byol_loss(*inputs).item() == pytest.approx(by_hand(*inputs), rel=1e-12)


def test_the_loss_of_two_hand_worked_rows():
    # cos(p1, t2) is 0.6 and 0.8, cos(p2, t1) is 1 and 0: 4 - 2 (0.7 + 0.5).
    p1, t2 = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    p2, t1 = torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([[2.0, 2.0], [0.0, 5.0]])
    assert byol_loss(p1, p2, t1, t2).item() == pytest.approx(1.6)


def test_the_loss_of_identical_orthogonal_and_opposite_rows_is_0_4_and_8():
    (a,) = rows(1)
    assert byol_loss(a, a, a, a).item() == pytest.approx(0.0, abs=1e-14)
    assert byol_loss(a, a, -a, -a).item() == pytest.approx(8.0)
    x, y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert byol_loss(x, x, y, y).item() == 4.0


def test_each_prediction_is_compared_with_the_other_view():
    a, b, c = rows(3)
    assert byol_loss(a, b, b, a).item() == pytest.approx(0.0, abs=1e-14)
    assert byol_loss(a, c, b, a).item() == pytest.approx(by_hand(c, c, b, b) / 2, rel=1e-12)


def test_the_defaults_are_the_papers():
    assert defaults("byol") == {
        "asymmetric": False,
        "dim": 256,
        "hidden": 4096,
        "momentum": 0.996,
        "momentum_final": 1.0,
        "predictor": "mlp",
        "fix_pred_lr": False,
        "independent_teacher": False,
    }


def test_projector_and_predictor_are_a_hidden_layer_with_bn_and_a_linear_one():
    model = build("byol")
    assert layers(model.projector) == ["linear 8-10", "bn+affine", "relu", "linear 10-6"]
    assert layers(model.predictor) == ["linear 6-10", "bn+affine", "relu", "linear 10-6"]


@pytest.mark.parametrize("predictor", ["mlp", "none"])
def test_a_forward_pass_compares_predictions_with_the_teachers_projections(predictor):
    model, batch = build("byol", predictor=predictor), noisy_batch()
    shake(model.teacher)
    p1, p2 = (model.predictor(model.projector(model.backbone(view))) for view in batch.views)
    t1, t2 = (model.teacher["projector"](model.teacher["backbone"](view)) for view in batch.views)
    wanted = by_hand(p1, p2, t1, t2)
    assert wanted != pytest.approx(by_hand(p1, p2, p1, p2), abs=0.01)
    assert model(batch).loss.item() == pytest.approx(wanted, rel=1e-5)


def test_the_teacher_is_a_copy_of_the_network_by_default():
    model = build("byol")
    for name in ("backbone", "projector"):
        pairs = zip(getattr(model, name).parameters(), model.teacher[name].parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_an_independent_teacher_has_other_weights_of_the_same_distribution_and_is_not_trained():
    model = build("byol", hidden=400, independent_teacher=True)
    assert [name for name, _ in model.teacher["projector"].named_parameters()] == [
        name for name, _ in model.projector.named_parameters()
    ]
    for ours, theirs in (
        (model.backbone.layer, model.teacher["backbone"].layer),
        (model.projector[0], model.teacher["projector"][0]),
    ):
        assert not torch.equal(ours.weight, theirs.weight)
        assert float(ours.weight.detach().std()) == pytest.approx(float(theirs.weight.std()), rel=0.2)
    assert not any(p.requires_grad for p in model.teacher.parameters())


def test_an_independent_teacher_does_not_change_the_initial_network():
    one, other = build("byol"), build("byol", independent_teacher=True)
    assert all(torch.equal(a, b) for a, b in zip(one.projector.parameters(), other.projector.parameters(), strict=True))


def test_without_a_predictor_the_loss_of_one_image_seen_twice_is_0_at_first():
    batch = noisy_batch(noise=0.0)
    assert build("byol", predictor="none")(batch).loss.item() == pytest.approx(0.0, abs=1e-5)
    assert build("byol")(batch).loss.item() > 1.0


def test_without_a_predictor_none_can_be_embedded_or_trained():
    model = build("byol", predictor="none")
    assert len(model.param_groups()) == 1
    with pytest.raises(SSLToolError, match="--layer predictor"):
        model.embed(noisy_batch().views[0], "predictor")


def test_an_unknown_predictor_is_refused():
    with pytest.raises(SSLToolError, match=r"--set predictor .*fixed.* mlp, none"):
        build("byol", predictor="fixed")
