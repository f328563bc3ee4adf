"""What each method knows of its own collapse: the settings that bring it about, and the loss it ends on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from methods_helpers import WIDTH, build, facts, noisy_batch
from ssltool.methods import METHODS
from ssltool.methods.base import Method
from ssltool.methods.parts.queue import Queue
from ssltool.methods.teacher import Teacher, TeacherOptions, teacher_loss

K = 20
"""Prototypes, and rows of a queue."""

QUEUES = {"moco", "ressl", "nnclr", "nnsiam", "swav"}
CLUSTERS = {"swav", "dino", "deepcluster"}


class Constant(nn.Module):
    """Puts out the same row of ones for every image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x.new_ones(len(x), self.dim)


def made(name: str, **options: Any) -> Method:
    """A small method; the teacher is a ViT's, so it stands on its options alone."""
    if name != "teacher":
        extra = {"queue": 2 * K} if name in QUEUES else {}
        extra |= {"prototypes": K} if name in CLUSTERS else {}
        extra |= {"local_crops": 0} if name in CLUSTERS | {"paws"} else {}
        return build(name, facts(), **(extra | options))
    return Teacher(nn.Linear(WIDTH, WIDTH), WIDTH, TeacherOptions(**options), facts(second_backbone=linear))


def linear() -> tuple[nn.Module, int]:
    return nn.Linear(WIDTH, WIDTH), WIDTH


def found(name: str, **options: Any) -> list[str]:
    """The causes that the settings have."""
    return made(name, **options).suspects(loss=math.inf)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"supervised"}))
def test_default_settings_have_no_cause_of_collapse(name):
    assert found(name) == []


@pytest.mark.parametrize(
    ("name", "options", "clause"),
    [
        ("simsiam", {"stop_grad": False}, "there is no stop-gradient (stop_grad=false)"),
        ("simsiam", {"predictor": "none", "pred_dim": 512}, "nothing predicts (predictor=none)"),
        ("simsiam", {"predictor": "fixed"}, "the predictor never learns (predictor=fixed)"),
        ("nnsiam", {"predictor": "none", "pred_dim": 512}, "nothing predicts (predictor=none)"),
        ("byol", {"predictor": "none"}, "nothing predicts (predictor=none)"),
        ("byol", {"momentum": 0}, "the teacher is a copy of the network (momentum=0)"),
        ("byol", {"momentum": 1}, "the teacher stays as random as it began (momentum=1)"),
        ("moco", {"momentum": 1}, "the teacher stays as random as it began (momentum=1)"),
        ("vicreg", {"std": 0}, "nothing keeps the embeddings apart (std=0)"),
        ("vicreg", {"cov": 0}, "nothing keeps the dimensions apart (cov=0)"),
        ("barlow", {"lambd": 0}, "nothing keeps the dimensions apart (lambd=0)"),
        ("wmse", {"eps": 1.0}, "nothing is whitened (eps=1)"),
        ("dino", {"centering": False}, "nothing is centred (centering=false)"),
        ("dino", {"center_momentum": 1}, "the centre never moves (center_momentum=1)"),
        ("dino", {"teacher_temp": 0.08}, "the teacher's temperature of 0.08 is too high beside the student's 0.1"),
        ("swav", {"epsilon": 0.5}, "assignments are no sharper than predictions (epsilon=0.5, temperature=0.1)"),
        ("ressl", {"teacher_temp": 0.1}, "the teacher is no sharper than the student (teacher_temp=0.1, 0.1)"),
        ("paws", {"me_max": False}, "one class may take all (me_max=false)"),
        ("paws", {"sharpening": 1.0}, "targets are not sharpened (sharpening=1.0)"),
        ("teacher", {"update": "sgd"}, "the teacher learns by the same gradient (update=sgd)"),
        ("teacher", {"update": "copy"}, "the teacher becomes the student at each epoch (update=copy)"),
        ("teacher", {"update": "frozen"}, "the teacher's answers are those of random weights (update=frozen)"),
    ],
)
def test_setting_that_lets_a_method_collapse_is_the_one_cause_named(name, options, clause):
    (cause,) = found(name, **options)
    assert cause.startswith(clause)


def test_dinos_largest_published_temperature_is_not_too_high():
    """0.07 beside 0.1, as in its released ViT-S settings."""
    assert found("dino", teacher_temp=0.07, warmup_teacher_temp_epochs=30) == []


def test_labels_bound_the_directions_that_a_classifier_needs():
    (cause,) = found("supervised")
    assert cause.startswith("labels of 4 classes ask for 3 directions")


COLLAPSED = sorted(METHODS.keys() - {"wmse", "paws", "teacher", "distill"})
"""The first two have no such loss, the others have tests of their own."""


@pytest.mark.parametrize("name", COLLAPSED)
def test_loss_of_outputs_that_are_the_same_for_all_images_is_the_one_that_counts_as_collapsed(name):
    """By the method's own forward pass, behind a projector that puts out ones."""
    method = made(name).train()
    collapse(method)
    batch = noisy_batch(sizes=(8,) if name == "supervised" else (8, 8), labels=torch.arange(16) % 4)
    loss = method(batch).loss.item()
    assert method.collapsed_losses == (pytest.approx(loss, rel=1e-4, abs=1e-5),)
    assert any("the same for all images" in clause for clause in method.suspects(loss))


def collapse(method: Method) -> None:
    """Makes all outputs the same: those of the network, of its teacher, and those that a queue remembers."""
    for module in method.modules():
        if isinstance(module, Queue):
            module.rows.fill_(1.0 / module.rows.shape[1] ** 0.5)
    dim = getattr(method.options, "dim", method.run.classes)
    method.projector = Constant(dim)
    if isinstance(getattr(method, "predictor", None), nn.Module):
        method.predictor = nn.Identity()
    teacher = getattr(method, "teacher", None)
    if isinstance(teacher, nn.ModuleDict):
        teacher["projector"] = Constant(dim)
    of_teacher = [teacher["prototypes"]] if isinstance(teacher, nn.ModuleDict) and "prototypes" in teacher else []
    for prototypes in [getattr(method, "prototypes", None), *getattr(method, "heads", []), *of_teacher]:
        if prototypes is not None:
            nn.init.constant_(prototypes.weight, dim**-0.5)


def test_student_that_answers_the_mean_has_the_variance_of_a_standardised_teacher_as_its_loss():
    method = made("distill")
    batch = noisy_batch(sizes=(8,))
    seen = method.teacher(batch.views[0])
    method.mu.copy_(seen.mean(dim=0))
    method.sd.copy_(seen.std(dim=0, correction=0))
    nn.init.zeros_(method.projector.weight)
    nn.init.zeros_(method.projector.bias)
    loss = method(batch).loss.item()
    assert method.collapsed_losses == (pytest.approx(loss, rel=1e-3),)


def test_teacher_and_student_that_answer_all_alike_or_one_thing_surely_have_the_two_losses_of_collapse():
    alike, sure = torch.zeros(4, 3, 128), torch.zeros(4, 3, 128)
    sure[..., 5] = 100.0
    losses = [teacher_loss(logits, logits).item() for logits in (sure, alike)]
    assert made("teacher").collapsed_losses == pytest.approx(losses, abs=1e-6)


@pytest.mark.parametrize(("loss", "collapsed"), [(-1.0, True), (-0.995, True), (-0.9, False)])
def test_loss_near_its_collapsed_value_is_a_suspect_and_another_is_not(loss, collapsed):
    assert bool(made("simsiam").suspects(loss)) is collapsed


def test_similarity_without_a_collapsed_value_suspects_no_loss():
    method = made("simsiam", similarity="cross_entropy")
    assert all(method.suspects(loss) == [] for loss in (-1.0, 0.0, 1.0))
