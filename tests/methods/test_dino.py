"""DINO: loss against a plain loop, centre and teacher in closed form, gradient clipping, freezing, weight decay."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods_helpers import build, defaults, facts, forward_and_update, layers, noisy_batch, rows, shake, unit
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.methods import method_class, method_options
from ssltool.methods.base import Method, Now
from ssltool.methods.dino import dino_loss
from ssltool.methods.parts.crops import large_views
from ssltool.methods.parts.prototype_distillation import UnitPrototypes
from ssltool.models.backbones import build_backbone
from target_helpers import array, cross_entropy, softmax


def inputs(crops: int = 4, seed: int = 0) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Student logits of several crops, teacher logits of two crops, and a centre."""
    logits = [row.tanh() for row in rows(crops + 2, seed=seed)]
    return logits[2:], logits[:2], torch.linspace(-0.3, 0.4, 5, dtype=torch.float64)


def by_hand(student, teacher, center, student_temp: float = 0.1, teacher_temp: float = 0.04) -> float:
    """Algorithm 1 of arXiv:2104.14294 by pairs of different crops."""
    losses = []
    for t, target in enumerate(teacher):
        p = softmax((array(target) - array(center)) / teacher_temp)
        for s, logits in enumerate(student):
            if s != t:
                losses.append(cross_entropy(p, array(logits) / student_temp).mean())
    return float(np.mean(losses))


@pytest.mark.parametrize("crops", [2, 3, 10])
@pytest.mark.parametrize("temperatures", [(0.1, 0.04), (0.5, 0.07), (1.0, 1.0)])
def test_the_loss_equals_algorithm_1_by_loops(crops, temperatures):
    given = inputs(crops)
    assert dino_loss(*given, *temperatures).item() == pytest.approx(by_hand(*given, *temperatures), rel=1e-12)


def test_the_loss_of_a_hand_worked_row():
    # Less the centre, the teacher says (3/4, 1/4) of both crops; the student (1/2, 1/2) and (1/4, 3/4).
    center = torch.tensor([5.0, 5.0 + 0.04 * math.log(3)])
    teacher = [torch.tensor([[5.0 + 0.04 * math.log(3), 5.0 + 0.04 * math.log(3)]])] * 2
    student = [torch.zeros(1, 2), torch.tensor([[0.0, 0.1 * math.log(3)]])]
    second = 0.75 * math.log(4) + 0.25 * math.log(4 / 3)
    assert dino_loss(student, teacher, center).item() == pytest.approx((math.log(2) + second) / 2, rel=1e-5)


@pytest.mark.parametrize("k", [2, 5, 65536])
def test_a_uniform_student_output_has_the_loss_ln_k(k):
    _, teacher, _ = inputs()
    teacher = [torch.zeros(8, k, dtype=torch.float64).index_copy_(1, torch.arange(2), t[:, :2]) for t in teacher]
    student = [torch.full((8, k), value, dtype=torch.float64) for value in (0.3, -2.0)]
    assert dino_loss(student, teacher, torch.zeros(k)).item() == pytest.approx(math.log(k), rel=1e-12)


def test_networks_collapsed_to_one_output_have_the_loss_0():
    one = [torch.eye(5)[[2] * 8] * 10] * 2
    assert dino_loss(one, one, torch.zeros(5)).item() == pytest.approx(0.0, abs=1e-6)


def test_the_centre_cancels_a_shift_of_the_teachers_logits():
    student, teacher, center = inputs()
    (shift,) = rows(1, n=1, seed=7)
    found = dino_loss(student, [t + shift for t in teacher], center + shift[0]).item()
    assert found == pytest.approx(by_hand(student, teacher, center), rel=1e-10)


def test_the_loss_is_invariant_to_output_order_row_shifts_and_centre_shape():
    student, teacher, center = inputs()
    wanted, columns = dino_loss(student, teacher, center).item(), torch.tensor([3, 1, 4, 0, 2])
    renamed = dino_loss([s[:, columns] for s in student], [t[:, columns] for t in teacher], center[columns])
    assert renamed.item() == pytest.approx(wanted, rel=1e-12)
    (shift,) = rows(1, d=1)
    assert dino_loss([s + shift for s in student], [t - shift for t in teacher], center).item() == pytest.approx(wanted)
    assert dino_loss(student, teacher, center[None]).item() == wanted


@pytest.mark.parametrize(
    ("student", "teacher", "found"),
    [
        ([], [], "found 0 and 0 of shapes []"),
        ([(4, 3)], [(4, 3)], "found 1 and 1 of shapes [(4, 3)]"),
        ([(4, 3)] * 2, [], "found 2 and 0 of shapes [(4, 3)]"),
        ([(4, 3)] * 2, [(4, 3)] * 3, "found 2 and 3 of shapes [(4, 3)]"),
        ([(4, 3)] * 2, [(4, 2)], "found 2 and 1 of shapes [(4, 2), (4, 3)]"),
    ],
)
def test_mismatched_crops_are_refused(student, teacher, found):
    with pytest.raises(SSLToolError, match="dino_loss ") as caught:
        dino_loss([torch.zeros(s) for s in student], [torch.zeros(s) for s in teacher], torch.zeros(3))
    assert str(caught.value).endswith(found)


def test_a_centre_of_the_wrong_width_is_refused():
    with pytest.raises(SSLToolError) as caught:
        dino_loss([torch.zeros(4, 3)] * 2, [torch.zeros(4, 3)], torch.zeros(1, 2))
    assert str(caught.value).startswith("dino_loss ") and str(caught.value).endswith("found (1, 2)")


def dino(run=None, **options) -> Method:
    """A method whose student and teacher have different weights."""
    return shake(build("dino", run, **{"prototypes": 5, **options}))


def logits(part: nn.Module, views: list[Tensor]) -> list[np.ndarray]:
    """Logits of views from backbone, projector and prototypes of the student or the teacher, without BN."""
    found = []
    for view in views:
        z = part["projector"](part["backbone"](view))
        found.append(unit(z) @ unit(part["prototypes"].weight).T)
    return found


def student_of(model: Method) -> dict[str, nn.Module]:
    return {name: getattr(model, name) for name in ("backbone", "projector", "prototypes")}


def test_the_defaults_are_the_released_codes_for_vit_s():
    assert defaults("dino") == {
        "asymmetric": False, "dim": 256, "hidden": 2048, "prototypes": 65536, "student_temp": 0.1, "teacher_temp": 0.04,
        "warmup_teacher_temp": 0.04, "warmup_teacher_temp_epochs": 0, "momentum": 0.996, "momentum_final": 1.0,
        "centering": True, "center_momentum": 0.9, "freeze": 1, "clip_grad": 3.0, "head_bn": False, "local_crops": 8,
        "local_size": None, "norm_last_layer": True, "drop_path": 0.0,
    }  # fmt: skip


@pytest.mark.parametrize("bn", [False, True])
def test_the_projector_has_three_layers_with_gelu_and_optional_batch_norm(bn):
    linear = "linear 8-10", "linear 10-10"
    hidden = [[layer, "bn+affine", "gelu"] if bn else [f"{layer}+bias", "gelu"] for layer in linear]
    assert layers(dino(head_bn=bn).projector) == [*hidden[0], *hidden[1], "linear 10-6+bias"]


def test_projector_weights_are_initialised_small_and_biases_at_zero():
    for layer in build("dino", hidden=200, prototypes=5).projector:
        if isinstance(layer, nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.15)
            assert not layer.bias.any()


def test_prototypes_are_invariant_to_their_length():
    layer, (x,) = UnitPrototypes(5, 7), rows(1)
    found = layer(x.float()).detach().double().numpy()
    assert found == pytest.approx(unit(x) @ unit(layer.weight).T, abs=1e-6)
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(0.1, 20, 7)[:, None])
    assert layer(9 * x.float()).detach().double().numpy() == pytest.approx(found, abs=1e-6)


def test_without_norm_last_layer_the_prototypes_are_weight_normalised_with_trained_lengths():
    layer, (x,) = UnitPrototypes(5, 7, scaled=True), rows(1)
    reference = nn.utils.parametrizations.weight_norm(nn.Linear(5, 7, bias=False))
    with torch.no_grad():
        layer.scale.copy_(torch.linspace(0.5, 2, 7)[:, None])
        reference.parametrizations.weight.original0.copy_(layer.scale)
        reference.parametrizations.weight.original1.copy_(layer.weight)
    rows_of_unit_length = torch.from_numpy(unit(x)).float()
    wanted = reference(rows_of_unit_length)
    torch.testing.assert_close(layer(x.float()), wanted)
    wanted.square().sum().backward()
    layer(x.float()).square().sum().backward()
    torch.testing.assert_close(layer.scale.grad, reference.parametrizations.weight.original0.grad)


def test_trained_lengths_start_at_1_decay_as_matrices_and_are_frozen_with_the_last_layer():
    model = dino(norm_last_layer=False)
    assert torch.equal(build("dino", prototypes=5, norm_last_layer=False).prototypes.scale, torch.ones(5, 1))
    decaying, _ = model.param_groups()
    assert any(p is model.prototypes.scale for p in decaying["params"])
    model(noisy_batch()).loss.backward()
    assert float(model.prototypes.scale.grad.norm()) > 0
    model.before_update()
    assert model.prototypes.scale.grad is None


def vit_dino(**options) -> Method:
    options = method_options("dino", {"dim": 6, "hidden": 10, "prototypes": 5, **options})
    torch.manual_seed(0)
    backbone, width = build_backbone("vit_small_depth3", image_size=8)
    return method_class("dino")(backbone, width, options, facts())


def test_drop_path_leaves_out_residual_branches_of_images_more_often_with_depth():
    block = vit_dino(drop_path=0.5).backbone.encoder.layers
    x = torch.randn(400, 2, 384)
    for number, rate in enumerate((0.0, 0.25, 0.5)):
        for branch in (block[number].dropout, block[number].mlp[-1]):
            found = branch(x)
            kept = (found != 0).flatten(1).any(dim=1)
            assert float(kept.float().mean()) == pytest.approx(1 - rate, abs=0.1)
            torch.testing.assert_close(found[kept], x[kept] / (1 - rate))


def test_drop_path_is_of_the_students_training_only_and_keeps_the_names_of_parameters():
    model, plain = vit_dino(drop_path=0.5), vit_dino()
    view = noisy_batch(sizes=(8,)).views[0]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not torch.equal(model.backbone(view), plain.backbone(view))
    torch.testing.assert_close(model.teacher_forward(view), plain.teacher_forward(view))
    torch.testing.assert_close(model.eval().backbone(view), plain.eval().backbone(view))


def test_drop_path_without_a_vit_is_refused():
    with pytest.raises(SSLToolError, match=r"drop_path=0\.1"):
        build("dino", drop_path=0.1)


@pytest.mark.parametrize("sizes", [(8, 8), (8, 8, 4, 4)])
def test_a_forward_pass_is_algorithm_1_with_small_crops_for_the_student_only(sizes):
    model, batch = dino(teacher_temp=0.07), noisy_batch(sizes=sizes)
    out = model(batch)
    student, teacher = logits(student_of(model), batch.views), logits(model.teacher, batch.views[:2])
    assert out.loss.item() == pytest.approx(by_hand(student, teacher, [0.0] * 5, 0.1, 0.07), rel=1e-4)
    torch.testing.assert_close(out.projection, model.projector(model.backbone(batch.views[0])))


def test_the_centre_is_updated_with_the_teachers_mean_after_use():
    model, wanted = dino(), np.zeros(5)
    for seed in range(3):
        batch = noisy_batch(sizes=(8, 8, 4), seed=seed)
        teacher = logits(model.teacher, batch.views[:2])
        before = by_hand(logits(student_of(model), batch.views), teacher, wanted)
        assert forward_and_update(model, batch).loss.item() == pytest.approx(before, rel=1e-4)
        wanted = 0.9 * wanted + 0.1 * np.concatenate(teacher).mean(axis=0)
        assert model.center.numpy() == pytest.approx(wanted, abs=1e-6)


def test_the_centre_is_not_updated_in_evaluation_or_without_centring():
    dino_in_evaluation, without = dino().eval(), dino(centering=False)
    dino_in_evaluation(noisy_batch())
    forward_and_update(without, noisy_batch())
    assert not dino_in_evaluation.center.any()
    assert not without.center.any()


def test_center_momentum_is_used():
    model, batch = dino(center_momentum=0.25), noisy_batch()
    forward_and_update(model, batch)
    mean = np.concatenate(logits(model.teacher, batch.views)).mean(axis=0)
    assert model.center.numpy() == pytest.approx(0.75 * mean, abs=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 2, 4])
def test_the_teacher_temperature_warm_up_equals_numpy_linspace(warmup):
    options = {"warmup_teacher_temp": 0.04, "teacher_temp": 0.07, "warmup_teacher_temp_epochs": warmup}
    model, batch = dino(facts(epochs=6), centering=False, **options), noisy_batch()
    schedule = np.concatenate([np.linspace(0.04, 0.07, warmup), np.full(6 - warmup, 0.07)])
    student, teacher = logits(student_of(model), batch.views), logits(model.teacher, batch.views)
    for epoch, temperature in enumerate(schedule):
        model.now = Now(epoch, 4 * epoch)
        wanted = by_hand(student, teacher, [0.0] * 5, 0.1, temperature)
        assert model(batch).loss.item() == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("limit", "wanted"), [(3.0, [0.5, 2.9, 3.0, 3.0]), (1.0, [0.5, 1.0, 1.0, 1.0]), (0.0, [0.5, 2.9, 3.1, 300.0])]
)
def test_gradients_are_clipped_per_parameter_unless_disabled(limit, wanted):
    model = dino(clip_grad=limit, freeze=0)
    parameters = [p for p in model.parameters() if p.requires_grad][:4]
    for p, norm in zip(parameters, [0.5, 2.9, 3.1, 300.0], strict=True):
        p.grad = torch.randn_like(p)
        p.grad *= norm / p.grad.norm()
    directions = [p.grad / p.grad.norm() for p in parameters]
    model.before_update()
    for p, direction, norm in zip(parameters, directions, wanted, strict=True):
        torch.testing.assert_close(p.grad, norm * direction, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("epoch", "freeze", "learns"), [(0, 1, False), (1, 1, True), (1, 2, False), (0, 0, True)])
def test_the_last_layer_is_frozen_in_the_first_epochs(epoch, freeze, learns):
    model = dino(freeze=freeze)
    model(noisy_batch()).loss.backward()
    model.now = Now(epoch, 4 * epoch)
    model.before_update()
    assert (model.prototypes.weight.grad is not None) is learns
    assert float(model.projector[0].weight.grad.norm()) > 0


def test_biases_and_norms_have_no_weight_decay():
    model = dino(head_bn=True)
    decaying, resting = model.param_groups()
    assert (decaying["decays"], resting["decays"]) == (True, False)
    assert {p.ndim for p in decaying["params"]} == {2}
    assert {p.ndim for p in resting["params"]} == {1}
    assert len(decaying["params"]) == 5  # backbone, three layers, prototypes
    assert len(resting["params"]) == 6  # the backbone's bias, two norms' two, the last layer's bias


def test_asymmetric_views_are_byols():
    model = dino(asymmetric=True, local_crops=1)
    small = dataclasses.replace(PAPER, crop_scale=(0.05, 0.2), size=4, saturation=0.2)  # one jitter for all crops
    assert model.view_recipes(PAPER) == [*large_views(PAPER, model.options), small]


def test_a_loss_of_ln_k_after_the_first_epoch_gives_a_warning():
    model = dino()
    assert model.diagnose(math.log(5)) is None
    model.now = Now(epoch=1, step=4)
    assert "lower teacher_temp" in model.diagnose(math.log(5))
    assert model.diagnose(math.log(5) - 0.1) is None
