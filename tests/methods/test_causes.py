"""Collapse causes of each method: the settings that cause collapse, and the loss of a constant output."""

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
"""Number of prototypes and of rows of a queue."""

QUEUES = {"moco", "ressl", "nnclr", "nnsiam", "swav"}
CLUSTERS = {"swav", "dino", "ibot", "dinov2", "deepcluster"}


class Constant(nn.Module):
    """Outputs a row of ones for each image, or for each of its patches."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[:1] if x.dim() == 4 else x.shape[:-1]  # of images, or of vectors
        return x.new_ones(*rows, self.dim)


def made(name: str, **options: Any) -> Method:
    """A small method. ``Teacher`` is created directly, because ``build`` has no ViT."""
    if name != "teacher":
        extra = {"queue": 2 * K} if name in QUEUES else {}
        extra |= {"prototypes": K} if name in CLUSTERS else {}
        extra |= {"local_crops": 0} if name in CLUSTERS | {"paws"} else {}
        return build(name, facts(), **(extra | options))
    return Teacher(nn.Linear(WIDTH, WIDTH), WIDTH, TeacherOptions(**options), facts(second_backbone=linear))


def linear() -> tuple[nn.Module, int]:
    return nn.Linear(WIDTH, WIDTH), WIDTH


def found(name: str, **options: Any) -> list[str]:
    """The causes that the settings alone imply."""
    return made(name, **options).probable_causes(loss=math.inf)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"supervised"}))
def test_default_settings_have_no_collapse_cause(name):
    assert found(name) == []


@pytest.mark.parametrize(
    ("name", "options", "setting"),
    [
        ("simsiam", {"stop_grad": False}, "stop_grad=false"),
        ("simsiam", {"predictor": "none", "pred_dim": 512}, "predictor=none"),
        ("simsiam", {"predictor": "fixed"}, "predictor=fixed"),
        ("nnsiam", {"predictor": "none", "pred_dim": 512}, "predictor=none"),
        ("byol", {"predictor": "none"}, "predictor=none"),
        ("byol", {"momentum": 0}, "momentum=0"),
        ("byol", {"momentum": 1}, "momentum=1"),
        ("moco", {"momentum": 1}, "momentum=1"),
        ("moco", {"negatives": False, "queue": 65536}, "negatives=false"),
        ("simclr", {"negatives": False}, "negatives=false"),
        ("swav", {"iterations": 0, "queue": 3840}, "iterations=0"),
        ("ijepa", {"momentum": 0}, "momentum=0"),
        ("ijepa", {"momentum": 1}, "momentum=1"),
        ("ijepa", {"stop_grad": False}, "stop_grad=false"),
        ("vicreg", {"std": 0}, "std=0"),
        ("vicreg", {"cov": 0}, "cov=0"),
        ("vicregl", {"std": 0}, "std=0"),
        ("vicregl", {"cov": 0}, "cov=0"),
        ("barlow", {"lambd": 0}, "lambd=0"),
        ("wmse", {"eps": 1.0}, "eps=1"),
        ("tico", {"rho": 0}, "rho=0"),
        ("tico", {"beta": 1}, "beta=1"),
        ("mmcr", {"norm": "frobenius"}, "norm=frobenius"),
        ("frossl", {"frobenius": 0}, "frobenius=0"),
        ("empssl", {"tcr": 0}, "tcr=0"),
        ("lejepa", {"lambd": 0}, "lambd=0"),
        ("visreg", {"lambd": 0}, "lambd=0"),
        ("visreg", {"scale": 0}, "scale=0"),
        ("visreg", {"shape": 0}, "shape=0"),
        ("dino", {"centering": False}, "centering=false"),
        ("dino", {"center_momentum": 1}, "center_momentum=1"),
        ("dino", {"teacher_temp": 0.08}, "teacher_temp=0.08, student_temp=0.1"),
        ("ibot", {"centering": "none"}, "centering=none"),
        ("ibot", {"center_momentum": 1}, "center_momentum=1"),
        ("dinov2", {"centering": "none"}, "centering=none"),
        ("dinov2", {"momentum": 0}, "momentum=0"),
        ("simdino", {"gamma": 0}, "gamma=0"),
        ("simdino", {"momentum": 0}, "momentum=0"),
        ("swav", {"epsilon": 0.5}, "epsilon=0.5, temperature=0.1"),
        ("ressl", {"teacher_temp": 0.1}, "teacher_temp=0.1, student_temp=0.1"),
        ("paws", {"me_max": False}, "me_max=false"),
        ("paws", {"sharpening": 1.0}, "sharpening=1.0"),
        ("directclr", {"negatives": False}, "negatives=false"),
        ("directpred", {"predictor": "none"}, "predictor=none"),
        ("teacher", {"update": "sgd"}, "update=sgd"),
        ("teacher", {"update": "copy"}, "update=copy"),
        ("teacher", {"update": "frozen"}, "update=frozen"),
    ],
)
def test_a_setting_that_causes_collapse_is_the_only_cause_reported(name, options, setting):
    (cause,) = found(name, **options)
    assert f"({setting})" in cause


def test_the_largest_published_teacher_temperature_of_dino_is_not_a_cause():
    """0.07 for a student temperature of 0.1, as in the released ViT-S settings."""
    assert found("dino", teacher_temp=0.07, warmup_teacher_temp_epochs=30) == []


def test_supervised_reports_that_c_classes_require_c_minus_1_dimensions():
    (cause,) = found("supervised")
    assert "4 classes" in cause and "3 dimensions" in cause


COLLAPSED = sorted(
    METHODS.keys() - {"wmse", "paws", "dinov2", "mae", "teacher", "distill", "lejepa", "visreg", "tico", "ijepa"}
)
"""The first four have no such loss; the others have separate tests."""


@pytest.mark.parametrize("name", COLLAPSED)
def test_constant_output_losses_equal_the_loss_of_a_forward_pass_with_constant_outputs(name):
    method = made(name).train()
    collapse(method)
    batch = noisy_batch(sizes=(8,) if name == "supervised" else (8, 8), labels=torch.arange(16) % 4)
    loss = method(batch).loss.item()
    assert method.constant_output_losses == (pytest.approx(loss, rel=1e-4, abs=1e-5),)
    assert len(method.probable_causes(loss)) == len(method.probable_causes(math.inf)) + 1


@pytest.mark.parametrize("name", ["simclr", "moco", "mocov3", "nnclr", "directclr"])
def test_without_negatives_the_loss_of_constant_outputs_is_the_lowest_there_is(name):
    method = made(name, negatives=False, **({"queue": 65536} if name == "moco" else {})).train()
    before = method(noisy_batch()).loss.item()
    collapse(method)
    loss = method(noisy_batch()).loss.item()
    assert method.constant_output_losses == (pytest.approx(loss, rel=1e-5),)
    assert loss < before


def collapse(method: Method) -> None:
    """Makes all outputs constant: those of the network, its teacher and its queue."""
    for module in method.modules():
        if isinstance(module, Queue):
            module.rows.fill_(1.0 / module.rows.shape[1] ** 0.5)
    dim = getattr(method.options, "dim", method.run.classes)
    if isinstance(getattr(method, "projector", None), nn.Module):
        method.projector = Constant(dim)
    else:
        method.backbone = nn.Sequential(nn.Flatten(), Constant(method.backbone_dim))
    if hasattr(method, "map_projector"):
        method.map_projector = Constant(method.options.map_dim)
    if isinstance(getattr(method, "predictor", None), nn.Module):
        method.predictor = nn.Identity()
    teacher = getattr(method, "teacher", None)
    if isinstance(teacher, nn.ModuleDict):
        teacher["projector"] = Constant(dim)
    of_teacher = [teacher["prototypes"]] if isinstance(teacher, nn.ModuleDict) and "prototypes" in teacher else []
    for prototypes in [getattr(method, "prototypes", None), *getattr(method, "heads", []), *of_teacher]:
        if prototypes is not None:
            nn.init.constant_(prototypes.weight, dim**-0.5)


def test_distill_loss_of_a_constant_output_is_the_variance_of_the_standardised_targets():
    method = made("distill")
    batch = noisy_batch(sizes=(8,))
    seen = method.teacher(batch.views[0])
    method.mu.copy_(seen.mean(dim=0))
    method.sd.copy_(seen.std(dim=0, correction=0))
    nn.init.zeros_(method.projector.weight)
    nn.init.zeros_(method.projector.bias)
    loss = method(batch).loss.item()
    assert method.constant_output_losses == (pytest.approx(loss, rel=1e-3),)


def test_teacher_losses_of_constant_outputs_are_those_of_one_hot_and_uniform_distributions():
    uniform, one_hot = torch.zeros(4, 3, 128), torch.zeros(4, 3, 128)
    one_hot[..., 5] = 100.0
    losses = [teacher_loss(logits, logits).item() for logits in (one_hot, uniform)]
    assert made("teacher").constant_output_losses == pytest.approx(losses, abs=1e-6)


@pytest.mark.parametrize(("loss", "collapsed"), [(-1.0, True), (-0.995, True), (-0.9, False)])
def test_only_a_loss_close_to_that_of_a_constant_output_is_a_probable_cause(loss, collapsed):
    assert bool(made("simsiam").probable_causes(loss)) is collapsed


def test_no_loss_of_the_cross_entropy_similarity_is_a_probable_cause():
    method = made("simsiam", similarity="cross_entropy")
    assert all(method.probable_causes(loss) == [] for loss in (-1.0, 0.0, 1.0))
