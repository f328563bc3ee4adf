"""What DINO, iBOT and DINOv2 share: a student that matches its teacher's distribution over prototypes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.methods.options import Ineffective, temperature, width
from ssltool.methods.parts.prototypes import cosines, uniform_loss_warning
from ssltool.methods.parts.self_distillation import SelfDistillation, SelfDistillationOptions
from ssltool.settings import setting
from ssltool.training.distributed import gather

MAX_TEMPERATURE_RATIO = 0.7
"""Largest stable ratio of teacher to student temperature. DINO's code calls more than 0.07 to 0.1 unstable."""


def prototype_count(default: int) -> int:
    """The number of outputs of the head."""
    count: int = setting(default, "number of outputs of the head", minimum=2)
    return count


@dataclass(frozen=True)
class PrototypeOptions(SelfDistillationOptions):
    """Options of a student that matches its teacher's distribution over prototypes. Defaults are DINO's for ViT-S."""

    dim: int = width(256, "the projection before the prototypes")
    prototypes: int = prototype_count(65536)
    student_temp: float = temperature(0.1, "the student's logits are")
    teacher_temp: float = temperature(0.04, "the teacher's logits are")
    warmup_teacher_temp: float = temperature(0.04, "the teacher's logits are initially")
    warmup_teacher_temp_epochs: int = setting(
        0, "epochs over which the teacher's temperature increases to teacher_temp", minimum=0
    )
    center_momentum: float = setting(0.9, "momentum of the centre", minimum=0, maximum=1)
    freeze: int = setting(1, "number of initial epochs in which the last layer is frozen", minimum=0)
    norm_last_layer: bool = setting(
        True, "keep the prototypes at length 1; otherwise their lengths are trained, as was done for ViT-S"
    )

    def ineffective(self) -> list[Ineffective]:
        none = self.warmup_teacher_temp_epochs == 0
        return [
            *super().ineffective(),
            Ineffective(("warmup_teacher_temp",), none, "warmup_teacher_temp_epochs=0"),
        ]


class UnitPrototypes(nn.Linear):
    """A linear layer without bias, applied to L2-normalised rows with L2-normalised weights.

    With ``scaled``, each output is multiplied by a trained number, which is 1 at first.
    """

    def __init__(self, dim: int, count: int, *, scaled: bool = False) -> None:
        super().__init__(dim, count, bias=False)
        self.scale = nn.Parameter(torch.ones(count, 1)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        return cosines(F.normalize(x.float(), dim=1), self._vectors())

    def mean(self, x: Tensor) -> Tensor:
        """The mean (1, K) of the outputs for the rows ``x`` (N, D), without computing each."""
        return cosines(F.normalize(x.float(), dim=1).mean(dim=0, keepdim=True), self._vectors())

    def _vectors(self) -> Tensor:
        prototypes = F.normalize(self.weight, dim=1)
        return prototypes if self.scale is None else prototypes * self.scale


class PrototypeDistillation(SelfDistillation):
    """Base class of the methods whose options are ``PrototypeOptions``. ``center`` (K,) is the running mean of the
    teacher's logits."""

    TEACHER_MODULES: ClassVar[tuple[str, ...]] = ("backbone", "projector", "prototypes")
    center: Tensor
    prototypes: UnitPrototypes

    def new_prototypes(self) -> UnitPrototypes:
        """Prototypes as the options ask for."""
        o = self.options
        return UnitPrototypes(o.dim, o.prototypes, scaled=not o.norm_last_layer)

    @torch.no_grad()
    def update_center(self, center: Tensor, means: Tensor) -> None:
        """center <- m * center + (1 - m) * the mean of ``means`` (N, K) over rows and ranks."""
        center.lerp_(gather(means).mean(dim=0), 1.0 - self.options.center_momentum)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def teacher_temp_tensor(self) -> Tensor:
        """The teacher's temperature; a compiled forward pass would be compiled for each number."""
        return torch.tensor(self.teacher_temp(), device=self.prototypes.weight.device)

    def teacher_temp(self) -> float:
        """The teacher's temperature, with a linear warm-up per epoch."""
        o = self.options
        epochs = o.warmup_teacher_temp_epochs
        if self.now.epoch >= epochs:
            return float(o.teacher_temp)
        share = self.now.epoch / max(1, epochs - 1)
        return float(o.warmup_teacher_temp + share * (o.teacher_temp - o.warmup_teacher_temp))

    def before_update(self) -> None:
        super().before_update()
        if self.now.epoch < self.options.freeze:
            self.prototypes.zero_grad()

    def diagnose(self, loss: float) -> str | None:
        remedy = "Try a lower teacher_temp, a longer warm-up, or a lower lr"
        return uniform_loss_warning(loss, self.options.prototypes, self.now.epoch, remedy, self.cross_entropies)

    @property
    def cross_entropies(self) -> float:
        """The sum of the weights of the cross-entropies in the loss."""
        return 1.0

    def collapse_causes(self) -> dict[str, bool]:
        o = self.options
        soft = f"the teacher is not sharpened enough (teacher_temp={o.teacher_temp}, student_temp={o.student_temp})"
        return super().collapse_causes() | {soft: round(o.teacher_temp / o.student_temp, 6) > MAX_TEMPERATURE_RATIO}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (self.cross_entropies * math.log(self.options.prototypes),)
