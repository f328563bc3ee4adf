"""SimSiam's ablations (Sec. 4 of arXiv:2011.10566): predictor, symmetry, batch norm, similarity."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from methods_helpers import build, layers, noisy_batch, rows
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.simsiam import simsiam_loss


def softmax(row: list[float]) -> list[float]:
    shares = [math.exp(x) for x in row]
    return [share / sum(shares) for share in shares]


def cross_entropy_by_hand(p: Tensor, z: Tensor) -> float:
    """Sec. 4.5: -softmax(z) . log softmax(p), row by row."""
    total = 0.0
    for a, b in zip(p.tolist(), z.tolist(), strict=True):
        total -= sum(t * math.log(s) for t, s in zip(softmax(b), softmax(a), strict=True))
    return total / len(p)


def outputs(model: nn.Module, batch: Batch) -> list[Tensor]:
    """p1, p2, z1, z2."""
    z1, z2 = (model.projector(model.backbone(view)) for view in batch.views)
    return [model.predictor(z1), model.predictor(z2), z1, z2]


@pytest.mark.parametrize("seed", range(3))
def test_the_cross_entropy_similarity_equals_loops_in_both_directions(seed):
    p1, p2, z1, z2 = rows(4, seed=seed)
    wanted = (cross_entropy_by_hand(p1, z2) + cross_entropy_by_hand(p2, z1)) / 2
    assert simsiam_loss(p1, p2, z1, z2, similarity="cross_entropy").item() == pytest.approx(wanted, rel=1e-12)


def test_the_cross_entropy_of_equal_shares_is_ln_d_and_that_of_one_hot_rows_is_0():
    flat, hot = torch.full((3, 7), 2.5), 1e4 * torch.eye(3)
    assert simsiam_loss(*[flat] * 4, similarity="cross_entropy").item() == pytest.approx(math.log(7), rel=1e-6)
    assert simsiam_loss(*[hot] * 4, similarity="cross_entropy").item() == 0.0


def test_the_cross_entropy_is_invariant_to_row_shifts_but_not_to_norms():
    inputs = rows(4)
    value = simsiam_loss(*inputs, similarity="cross_entropy").item()
    shifted = [x + 5.0 * i for i, x in enumerate(inputs)]
    assert simsiam_loss(*shifted, similarity="cross_entropy").item() == pytest.approx(value, rel=1e-12)
    assert abs(simsiam_loss(*(2 * x for x in inputs), similarity="cross_entropy").item() - value) > 0.1


@pytest.mark.parametrize("bn", ["default", "none"])
def test_without_a_predictor_the_stop_gradient_only_halves_the_gradient(bn):
    """So the network minimises -cos(z1, z2), whose minimum is a collapse."""
    gradients = {}
    for stop_grad in (True, False):
        model = build("simsiam", predictor="none", pred_dim=512, bn=bn).double()
        z1, z2 = (model.projector(model.backbone(view.double())) for view in noisy_batch().views)
        simsiam_loss(z1, z2, z1, z2, stop_grad=stop_grad).backward()
        gradients[stop_grad] = {name: p.grad for name, p in model.named_parameters()}
    for name, whole in gradients[False].items():
        torch.testing.assert_close(gradients[True][name], whole / 2, rtol=1e-12, atol=1e-15)
    assert sum(float(whole.norm()) for whole in gradients[False].values()) > 1e-3


@pytest.mark.parametrize("change", [{"symmetric": False}, {"predictor": "mlp"}])
def test_with_a_predictor_or_one_direction_the_stop_gradient_does_more_than_halve_it(change):
    gradients = []
    for stop_grad in (True, False):
        model = build("simsiam", **({"predictor": "none", "pred_dim": 512} | change)).double()
        doubled = dataclasses.replace(noisy_batch(), views=[view.double() for view in noisy_batch().views])
        p1, p2, z1, z2 = outputs(model, doubled)
        simsiam_loss(p1, p2, z1, z2, stop_grad=stop_grad, symmetric=change.get("symmetric", True)).backward()
        gradients.append(model.backbone.layer.weight.grad)
    kept, whole = gradients
    assert float((kept - whole / 2).norm() / whole.norm()) > 0.01


@pytest.mark.parametrize("similarity", ["cosine", "cross_entropy"])
def test_an_asymmetric_loss_is_the_first_views_prediction_of_the_second_alone(similarity):
    p1, p2, z1, z2 = rows(4)
    found = simsiam_loss(p1, p2, z1, z2, symmetric=False, similarity=similarity).item()
    both = [simsiam_loss(p1, p1, z2, z2, similarity=similarity), simsiam_loss(p2, p2, z1, z1, similarity=similarity)]
    assert found == pytest.approx(both[0].item(), rel=1e-12)
    assert sum(both).item() / 2 == pytest.approx(simsiam_loss(p1, p2, z1, z2, similarity=similarity).item(), rel=1e-12)


def test_an_asymmetric_loss_gives_the_second_prediction_no_gradient():
    p1, p2, z1, z2 = (x.requires_grad_() for x in rows(4))
    simsiam_loss(p1, p2, z1, z2, symmetric=False).backward()
    assert float(p1.grad.norm()) > 0
    assert p2.grad is None


@pytest.mark.parametrize(
    "options",
    [
        {"symmetric": False},
        {"similarity": "cross_entropy"},
        {"predictor": "none", "pred_dim": 512},
        {"predictor": "fixed"},
    ],
    ids=str,
)
def test_the_options_reach_the_loss(options):
    model, batch = build("simsiam", **options), noisy_batch()
    given = {key: value for key, value in options.items() if "pred" not in key}
    wanted = simsiam_loss(*outputs(model, batch), **given).item()
    assert model(batch).loss.item() == pytest.approx(wanted, abs=1e-6)
    if given:
        assert wanted != pytest.approx(simsiam_loss(*outputs(model, batch)).item(), abs=1e-4)


def test_without_a_predictor_projections_predict_each_other():
    model, batch = build("simsiam", predictor="none", pred_dim=512), noisy_batch()
    p1, p2, z1, z2 = outputs(model, batch)
    assert torch.equal(p1, z1) and torch.equal(p2, z2)
    assert len(model.param_groups()) == 1
    with pytest.raises(SSLToolError, match="--layer predictor"):
        model.embed(batch.views[0], "predictor")


def test_a_fixed_predictor_passes_gradients_and_is_not_trained():
    model, batch = build("simsiam", predictor="fixed"), noisy_batch()
    assert layers(model.predictor) == layers(build("simsiam").predictor)
    model(batch).loss.backward()
    assert all(p.grad is None for p in model.predictor.parameters())
    assert float(model.projector[0].weight.grad.norm()) > 0
    (group,) = model.param_groups()
    held = {id(p) for p in group["params"]}
    assert held.isdisjoint(id(p) for p in model.predictor.parameters())
    assert model.embed(batch.views[0], "predictor").shape == (16, 6)


HIDDEN = ["linear 8-8", "bn+affine", "relu"]
PLAIN = ["linear 8-8+bias", "relu"]
BOTTLENECK = ["linear 6-4", "bn+affine", "relu"]


@pytest.mark.parametrize(
    ("bn", "projector", "predictor"),
    [
        ("none", [*PLAIN, *PLAIN, "linear 8-6+bias"], ["linear 6-4+bias", "relu", "linear 4-6+bias"]),
        ("hidden", [*HIDDEN, *HIDDEN, "linear 8-6+bias"], [*BOTTLENECK, "linear 4-6+bias"]),
        ("default", [*HIDDEN, *HIDDEN, "linear 8-6", "bn"], [*BOTTLENECK, "linear 4-6+bias"]),
        ("all", [*HIDDEN, *HIDDEN, "linear 8-6", "bn"], [*BOTTLENECK, "linear 4-6", "bn"]),
    ],
)
def test_batch_norm_is_where_table_3_has_it(bn, projector, predictor):
    model = build("simsiam", bn=bn)
    assert layers(model.projector) == projector
    assert layers(model.predictor) == predictor
    assert math.isfinite(model(noisy_batch()).loss.item())


@pytest.mark.parametrize(
    ("method", "options", "ineffective"),
    [
        ("simsiam", {"predictor": "none", "pred_dim": 4}, "--set pred_dim=4 .*predictor=none"),
        ("simsiam", {"predictor": "none", "pred_dim": 512, "fix_pred_lr": True}, "--set fix_pred_lr=True"),
        ("simsiam", {"predictor": "fixed", "fix_pred_lr": True}, "--set fix_pred_lr=True "),
        ("byol", {"predictor": "none", "fix_pred_lr": True}, "--set fix_pred_lr=True "),
        ("dino", {"centering": False, "center_momentum": 0.5}, "--set center_momentum=0.5 "),
        ("dino", {"warmup_teacher_temp": 0.01}, "--set warmup_teacher_temp=0.01 "),
        ("swav", {"queue": 0, "queue_start": 2}, "--set queue_start=2 .*queue=0"),
        ("swav", {"local_crops": 0, "local_size": 8}, "--set local_size=8 .*local_crops=0"),
        ("teacher", {"update": "sgd", "momentum": 0.5}, "--set momentum=0.5 .*update=sgd"),
    ],
)
def test_an_option_without_effect_is_refused(method, options, ineffective):
    with pytest.raises(SSLToolError, match=ineffective):
        build(method, **options)
