"""The student/teacher study: loss against a plain loop, and the effect of each update rule."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from methods_helpers import defaults, layers, noisy_batch, rows, shake
from ssltool.data.views import PAPER
from ssltool.errors import SSLToolError
from ssltool.methods import method_class, saved_options
from ssltool.methods.base import EpochImages, Method, Now
from ssltool.methods.teacher import teacher_loss
from target_helpers import array, cross_entropy, softmax, study

UPDATES = ("sgd", "frozen", "copy", "ema")
NO_IMAGES = EpochImages(torch.arange(64), lambda rows: iter(()))


def inputs(d: int = 5, seed: int = 0) -> list[Tensor]:
    """Logits of four images of three patches, of student and teacher."""
    return [x.view(4, 3, d) for x in rows(2, n=12, d=d, seed=seed)]


def by_hand(student, teacher) -> float:
    """The study's loss, patch by patch."""
    losses = []
    for s_image, t_image in zip(array(student), array(teacher), strict=True):
        for s, t in zip(s_image, t_image, strict=True):
            losses.append(cross_entropy(softmax(t), s))
    return float(np.mean(losses))


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_equals_the_studys_by_loops(seed):
    assert teacher_loss(*inputs(seed=seed)).item() == pytest.approx(by_hand(*inputs(seed=seed)), rel=1e-12)


def test_the_loss_of_two_hand_worked_patches():
    # The teacher says (3/4, 1/4) of both; the student (1/2, 1/2) and (1/4, 3/4).
    teacher = torch.tensor([[[math.log(3), 0.0]] * 2])
    student = torch.tensor([[[0.0, 0.0], [0.0, math.log(3)]]])
    wanted = (math.log(2) + 0.75 * math.log(4) + 0.25 * math.log(4 / 3)) / 2
    assert teacher_loss(student, teacher).item() == pytest.approx(wanted)


@pytest.mark.parametrize("d", [2, 128])
def test_where_both_answer_all_outputs_alike_the_loss_is_ln_d(d):
    assert teacher_loss(torch.zeros(2, 3, d), torch.ones(2, 3, d)).item() == pytest.approx(math.log(d))


def test_where_both_collapsed_onto_one_output_there_is_no_loss():
    logits = 100 * torch.eye(5)[torch.full((4, 3), 2)]
    assert teacher_loss(logits, logits).item() == pytest.approx(0.0, abs=1e-30)


def test_a_student_that_answers_as_the_teacher_has_the_entropy_of_its_answer_and_none_has_less():
    _, teacher = inputs()
    found = teacher_loss(teacher, teacher).item()
    p = softmax(teacher)
    assert found == pytest.approx(-(p * np.log(p)).sum(axis=-1).mean(), rel=1e-12)
    assert all(teacher_loss(inputs(seed=seed)[0], teacher).item() > found for seed in range(5))


def test_the_loss_is_invariant_to_patch_order_output_order_and_shifts():
    student, teacher = inputs()
    wanted, columns = teacher_loss(student, teacher).item(), torch.tensor([3, 1, 4, 0, 2])
    for change in (lambda x: x.flip(1), lambda x: x.flip(0), lambda x: x[..., columns]):
        assert teacher_loss(change(student), change(teacher)).item() == pytest.approx(wanted, rel=1e-12)
    shift = rows(1, n=12, d=1)[0].view(4, 3, 1)
    assert teacher_loss(student + shift, teacher - shift).item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("shapes", [[(4, 3, 5), (4, 3, 4)], [(4, 3, 5), (4, 2, 5)], [(4, 5), (4, 5)], [(5,), (5,)]])
def test_logits_of_different_shapes_are_refused(shapes):
    with pytest.raises(SSLToolError) as caught:
        teacher_loss(*(torch.zeros(shape) for shape in shapes))
    assert str(caught.value).startswith("teacher_loss ")
    assert str(caught.value).endswith(f"found {shapes[0]} and {shapes[1]}")


def weights(*modules: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for module in modules for p in module.parameters()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def students(model: Method) -> list[Tensor]:
    return weights(model.backbone, model.projector)


def train(model: Method, steps: int, first: int = 0) -> None:
    """Steps by gradient, with epochs of four, as the loop makes them."""
    groups = model.param_groups()
    optimizer = torch.optim.SGD(groups, 0.5)
    for step in range(first, first + steps):
        model.now = Now(step // 4, step)
        if step % 4 == 0:
            model.start_epoch(NO_IMAGES)
        optimizer.zero_grad()
        model(noisy_batch(seed=step)).loss.backward()
        optimizer.step()
        model.after_step()


def test_the_defaults_are_the_studys():
    assert defaults("teacher") == {
        "update": "ema", "dim": 128, "hidden": 2048, "second_relu": False, "dropout": 0.1,
        "momentum": 0.996, "momentum_final": 1.0,
    }  # fmt: skip


def test_an_unknown_update_is_refused():
    with pytest.raises(SSLToolError, match=r"update .*sometimes.* sgd, frozen, copy, ema"):
        study(update="sometimes")


@pytest.mark.parametrize("second_relu", [False, True])
def test_the_head_has_three_layers_one_relu_or_two_and_dropout_after_both_hidden_layers(second_relu):
    model = study(dropout=0.25, second_relu=second_relu)
    first, hidden, last = "linear 8-10+bias", "linear 10-10+bias", "linear 10-6+bias"
    second = ["relu"] if second_relu else []
    wanted = [first, "relu", "dropout 0.25", hidden, *second, "dropout 0.25", last]
    assert layers(model.projector) == layers(model.teacher["projector"]) == wanted


def test_a_run_of_an_earlier_version_has_two_relus_and_no_dropout():
    options = saved_options("teacher", {"update": "ema", "dim": 128, "hidden": 2048, "momentum": 0.996})
    assert (options["second_relu"], options["dropout"]) == (True, 0.0)
    assert {"second_relu", "dropout"} <= set(method_class("teacher").Options.KEPT)


def test_a_forward_pass_compares_the_students_patches_of_the_first_view_with_the_teachers_of_the_second():
    model, batch = study(update="frozen"), noisy_batch()
    strong, plain = batch.views
    student = model.projector(model.backbone.tokens(strong)[:, 1:])  # without the class token
    teacher = model.teacher["projector"](model.teacher["backbone"].tokens(plain)[:, 1:])
    out = model(batch)
    assert student.shape == (16, 4, 6)
    assert out.loss.item() == pytest.approx(by_hand(student, teacher), rel=1e-5)
    torch.testing.assert_close(out.projection, student.mean(dim=1))


def test_the_teacher_is_initialised_as_a_copy_only_with_ema():
    for update in UPDATES:
        model = study(update=update)
        assert equal(weights(model.teacher), students(model)) is (update == "ema")


@pytest.mark.parametrize("update", UPDATES)
def test_gradients_reach_the_teacher_only_with_sgd(update):
    model, learns = study(update=update), update == "sgd"
    model(noisy_batch()).loss.backward()
    token = model.teacher["backbone"].class_token
    found = {p.grad is not None for p in model.teacher["projector"].parameters()}
    assert found == {learns}
    assert (token.grad is not None) is learns
    grouped = {id(p) for group in model.param_groups() for p in group["params"]}
    assert (id(token) in grouped) is learns
    assert all(p.grad is not None for p in model.projector.parameters())


def test_sgd_trains_teacher_and_student():
    model = study(update="sgd")
    before = weights(model.teacher), students(model)
    train(model, 1)
    assert not equal(weights(model.teacher), before[0])
    assert not equal(students(model), before[1])


def test_frozen_does_not_change_the_teacher():
    model = study(update="frozen")
    before = weights(model.teacher)
    train(model, 8)
    assert equal(weights(model.teacher), before)


def test_copy_updates_the_teacher_only_at_the_end_of_an_epoch():
    model = study(update="copy")
    first = weights(model.teacher)
    train(model, 4)
    assert equal(weights(model.teacher), first)
    ended = students(model)
    train(model, 3, first=4)
    assert equal(weights(model.teacher), ended)
    assert not equal(students(model), ended)


@pytest.mark.parametrize("step", [0, 4, 7])
def test_ema_updates_the_teacher_with_increasing_momentum(step):
    model = study(update="ema", momentum=0.9)
    shake(model.teacher)
    before, student = weights(model.teacher), students(model)
    model.now = Now(step // 4, step)
    model.after_step()
    m = 1 - 0.1 * (math.cos(math.pi * step / 8) + 1) / 2  # of two epochs of four steps
    for found, old, new in zip(weights(model.teacher), before, student, strict=True):
        torch.testing.assert_close(found, m * old + (1 - m) * new)


@pytest.mark.parametrize(("update", "collapses"), [("sgd", True), ("frozen", False), ("ema", False)])
def test_both_networks_collapse_to_one_output_only_with_sgd(update, collapses):
    model = study(update=update)
    train(model, 40)
    batch = noisy_batch(seed=999)
    answers = softmax(model.embed(batch.views[0], "projector")).mean(axis=0)
    found = answers.max() > 0.95, model(batch).loss.item() < 0.1 * math.log(6)
    assert found == (collapses, collapses)


def test_the_student_view_is_rotated_and_erased_and_the_teacher_view_is_plain():
    strong, plain = study().view_recipes(PAPER)
    assert strong == dataclasses.replace(PAPER, rotation=15.0, erase_p=1.0, erase_scale=(0.4, 0.5))
    assert (plain.crop_scale, plain.flip_p) == ((1.0, 1.0), 0.0)
    changes = (plain.jitter_p, plain.gray_p, plain.blur_p, plain.solarize_p, plain.rotation, plain.erase_p)
    assert changes == (0.0,) * 6


def test_the_representation_of_an_image_is_the_mean_over_its_patches():
    model, view = study(), noisy_batch().views[0]
    patches = model.backbone.tokens(view)[:, 1:]
    torch.testing.assert_close(model.embed(view, "backbone"), patches.mean(dim=1))
    torch.testing.assert_close(model.embed(view, "projector"), model.projector(patches).mean(dim=1))
    with pytest.raises(SSLToolError, match="--layer predictor"):
        model.embed(view, "predictor")
