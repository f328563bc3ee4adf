"""The student/teacher collapse study: the effect of the teacher's update rule on collapse.

The student sees a strongly augmented image and the teacher the plain image. The student matches the teacher's
distribution at each patch. No other term prevents collapse, so the teacher's update decides (``--set update=...``):

    sgd      trained with the same gradient: both collapse to one output
    frozen   keeps its initial weights
    copy     copies the student at the end of each epoch
    ema      moving average of the student, updated at each step with increasing momentum (DINO)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.data.views import PLAIN, Recipe
from ssltool.errors import SSLToolError
from ssltool.methods.base import EpochImages, Output, RunFacts
from ssltool.methods.options import Ineffective, MethodOptions, momentum, momentum_final, width
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.models.backbones import last_width, patch_tokens
from ssltool.models.heads import relu
from ssltool.settings import setting
from ssltool.training.precision import without_autocast


@without_autocast
def teacher_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over images and patches of -softmax(teacher) . log_softmax(student); at least 0, ln D if both are uniform.

    Args:
        student, teacher: logits of each patch, each (N, P, D). Both receive gradients.

    Raises:
        SSLToolError: if the shapes differ or are not (N, P, D).
    """
    if student.shape != teacher.shape or student.dim() != 3 or not len(student):
        raise SSLToolError(
            f"teacher_loss expects two (N, P, D) tensors of the same shape; found {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    return -(teacher.softmax(dim=2) * student.log_softmax(dim=2)).sum(dim=2).mean()


@dataclass(frozen=True)
class TeacherOptions(MethodOptions):
    """Options of the study. Defaults follow the study."""

    KEPT: ClassVar[tuple[str, ...]] = ("second_relu", "dropout")

    update: str = setting("ema", "update rule of the teacher", choices=("sgd", "frozen", "copy", "ema"))
    dim: int = width(128)
    hidden: int = width(2048, "the projector's hidden layers")
    second_relu: bool = setting(False, "ReLU after the second hidden layer of the projector too")
    dropout: float = setting(
        0.1, "fraction of the units of the projector's hidden layers set to 0 in training", minimum=0, maximum=0.99
    )
    momentum: float = momentum(0.996)
    momentum_final: float | None = momentum_final(1.0)

    @classmethod
    def completed(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        return {"second_relu": True, "dropout": 0.0} | dict(saved)  # earlier versions had no such options

    def ineffective(self) -> list[Ineffective]:
        return [Ineffective(("momentum", "momentum_final"), self.update != "ema", f"update={self.update}")]


def _head(dim: int, options: TeacherOptions) -> nn.Sequential:
    """Linear, ReLU, dropout, linear, dropout, linear: one ReLU, as in the study, unless ``second_relu`` adds one."""
    hidden, drop = options.hidden, options.dropout
    after_second = [relu()] if options.second_relu else []
    layers = [nn.Linear(dim, hidden), relu(), *_dropout(drop), nn.Linear(hidden, hidden), *after_second]
    return nn.Sequential(*layers, *_dropout(drop), nn.Linear(hidden, options.dim))


def _dropout(rate: float) -> list[nn.Module]:
    return [nn.Dropout(rate)] if rate else []


class Teacher(MomentumMethod):
    """Projector: three linear layers without BN, applied to each patch, with a ReLU after the first and dropout after
    the first two. The teacher has its own random weights, except with ``ema``, where it is initialised as a copy. The
    representation of an image is the mean over its patches."""

    Options = TeacherOptions
    compares_images = False

    def __init__(self, backbone: nn.Module, dim: int, options: TeacherOptions, run: RunFacts) -> None:
        dim = last_width(backbone, dim)
        super().__init__(backbone, dim, options, run)
        self.projector = _head(dim, options)
        second, _ = run.second_backbone()
        self.teacher = nn.ModuleDict({"backbone": second, "projector": _head(dim, options)})
        if options.update == "ema":
            self.update_teacher(0.0)
        own = [*self.backbone.parameters(), *self.projector.parameters()]
        for p, q in zip(self.teacher.parameters(), own, strict=True):
            p.requires_grad_(options.update == "sgd" and q.requires_grad)

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        """The run's recipe with rotation and erasing for the student; the plain image for the teacher."""
        strong = dataclasses.replace(base, rotation=15.0, erase_p=1.0, erase_scale=(0.4, 0.5))
        return [strong, dataclasses.replace(PLAIN, crop_scale=(1.0, 1.0), flip_p=0.0)]

    def forward(self, batch: Batch) -> Output:
        strong, plain = batch.views
        student = self.projector(patch_tokens(self.backbone, strong)).float()
        with torch.set_grad_enabled(self.options.update == "sgd" and torch.is_grad_enabled()):
            teacher = self.teacher["projector"](patch_tokens(self.teacher["backbone"], plain)).float()
        return Output(teacher_loss(student, teacher), student.detach().mean(dim=1))

    def start_epoch(self, images: EpochImages) -> None:
        if self.options.update == "copy" and self.now.epoch > 0:
            self.teacher["backbone"].load_state_dict(self.backbone.state_dict())
            self.teacher["projector"].load_state_dict(self.projector.state_dict())

    def after_step(self) -> None:
        if self.options.update == "ema":
            super().after_step()

    def outputs(self, images: Tensor, last: str = "predictor") -> dict[str, Tensor]:
        tokens = patch_tokens(self.backbone, images)
        found = {"backbone": tokens.mean(dim=1)}
        return found if last in found else found | {"projector": self.projector(tokens).mean(dim=1)}

    def collapse_causes(self) -> dict[str, bool]:
        update = self.options.update
        return (super().collapse_causes() if update == "ema" else {}) | {
            "the teacher is trained with the same gradient (update=sgd), which favours a constant output": update
            == "sgd",
            "the teacher copies the student at each epoch (update=copy), and no term prevents collapse": update
            == "copy",
            "the teacher has random weights (update=frozen)": update == "frozen",
        }

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return 0.0, math.log(self.options.dim)
