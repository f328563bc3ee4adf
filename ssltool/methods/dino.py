"""DINO: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294.

A student matches the output distribution of a momentum teacher across crops. Centring prevents collapse to one output
and sharpening prevents collapse to the uniform distribution. Without centring (``--set centering=false``) or sharpening
(``--set teacher_temp=1``) the network collapses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Output, RunFacts, have_same_shape
from ssltool.methods.options import Ineffective, temperature, width
from ssltool.methods.parts.matching import multicrop_cross_entropy
from ssltool.methods.parts.multicrop import forward_by_size, forward_concatenated
from ssltool.methods.parts.prototypes import cosines, uniform_loss_warning
from ssltool.methods.parts.self_distillation import SelfDistillation, SelfDistillationOptions, projection_head
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

MAX_TEMPERATURE_RATIO = 0.7
"""Largest stable ratio of teacher to student temperature. The released code calls more than 0.07 to 0.1 unstable."""


@without_autocast
def dino_loss(
    student: list[Tensor],
    teacher: list[Tensor],
    center: Tensor,
    student_temp: float = 0.1,
    teacher_temp: float | Tensor = 0.04,
) -> Tensor:
    """Algorithm 1 of arXiv:2104.14294 for several crops; ln K if the student's output is uniform.

    The mean over the teacher's crops t and all other crops s of -softmax((t - c) / tau_t) . log_softmax(s / tau_s).

    Args:
        student: logits of V crops, each (N, K).
        teacher: logits of the first crops, each (N, K), at most V; detached.
        center: c, (K,) or (1, K).
        student_temp, teacher_temp: tau_s and tau_t.

    Raises:
        SSLToolError: if there is no pair of different crops, or the shapes do not match.
    """
    shapes = {tuple(t.shape) for t in [*student, *teacher]}
    if len(student) < 2 or not 1 <= len(teacher) <= len(student) or not have_same_shape(*student, *teacher):
        raise SSLToolError(
            f"dino_loss expects student logits (N, K) of two or more crops and teacher logits of the first; found "
            f"{len(student)} and {len(teacher)} of shapes {sorted(shapes)}"
        )
    if center.numel() != student[0].shape[1]:
        raise SSLToolError(f"dino_loss expects a center of shape ({student[0].shape[1]},); found {tuple(center.shape)}")
    targets = [((logits.detach() - center) / teacher_temp).softmax(dim=1) for logits in teacher]
    return multicrop_cross_entropy([s / student_temp for s in student], targets)


@dataclass(frozen=True)
class DINOOptions(SelfDistillationOptions):
    """Options of DINO. Defaults follow the released code for ViT-S, except for its views (``asymmetric``)."""

    dim: int = width(256, "the projection before the prototypes")
    prototypes: int = setting(65536, "number of outputs of the head", minimum=2)
    student_temp: float = temperature(0.1, "the student's logits are")
    teacher_temp: float = temperature(0.04, "the teacher's logits are")
    warmup_teacher_temp: float = temperature(0.04, "the teacher's logits are initially")
    warmup_teacher_temp_epochs: int = setting(
        0, "epochs over which the teacher's temperature increases to teacher_temp", minimum=0
    )
    centering: bool = setting(True, "subtract the centre from the teacher's logits; without it the network collapses")
    center_momentum: float = setting(0.9, "momentum of the centre", minimum=0, maximum=1)
    freeze: int = setting(1, "number of initial epochs in which the last layer is frozen", minimum=0)
    head_bn: bool = setting(False, "use batch norm in the head")
    norm_last_layer: bool = setting(
        True, "keep the prototypes at length 1; otherwise their lengths are trained, as was done for ViT-S"
    )

    def ineffective(self) -> list[Ineffective]:
        return [
            *super().ineffective(),
            Ineffective(("center_momentum",), not self.centering, "centering=false"),
            Ineffective(("warmup_teacher_temp",), self.warmup_teacher_temp_epochs == 0, "warmup_teacher_temp_epochs=0"),
        ]


class UnitPrototypes(nn.Linear):
    """A linear layer without bias, applied to L2-normalised rows with L2-normalised weights.

    With ``scaled``, each output is multiplied by a trained number, which is 1 at first.
    """

    def __init__(self, dim: int, count: int, *, scaled: bool = False) -> None:
        super().__init__(dim, count, bias=False)
        self.scale = nn.Parameter(torch.ones(count, 1)) if scaled else None

    def forward(self, x: Tensor) -> Tensor:
        prototypes = F.normalize(self.weight, dim=1)
        if self.scale is not None:
            prototypes = prototypes * self.scale
        return cosines(F.normalize(x.float(), dim=1), prototypes)


class DINO(SelfDistillation):
    """DINO. Projector: three layers with GELU, by default without BN; then L2-normalised prototypes. The teacher has
    the same modules."""

    Options = DINOOptions
    compares_images = False
    TEACHER_MODULES = ("backbone", "projector", "prototypes")
    center: Tensor

    def __init__(self, backbone: nn.Module, dim: int, options: DINOOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        self.projector = projection_head([dim, o.hidden, o.hidden, o.dim], bn=o.head_bn)
        self.prototypes = UnitPrototypes(o.dim, o.prototypes, scaled=not o.norm_last_layer)
        self.make_teacher()
        self.register_buffer("center", torch.zeros(o.prototypes))

    def forward(self, batch: Batch) -> Output:
        o = self.options
        z = [row.float() for row in forward_concatenated(self.projector, forward_by_size(self.backbone, batch.views))]
        student = forward_concatenated(self.prototypes, z)
        teacher = forward_by_size(self.teacher_forward, batch.views[:2])
        loss = dino_loss(student, teacher, self.center, o.student_temp, self._teacher_temp_tensor())
        mean = torch.cat(teacher).mean(dim=0, keepdim=True)
        return Output(loss, z[0].detach(), (mean,) if o.centering else ())

    @torch.no_grad()
    def update_buffers(self, output: Output) -> None:
        for means in output.for_buffers:
            self.center.lerp_(gather(means).mean(dim=0), 1.0 - self.options.center_momentum)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _teacher_temp_tensor(self) -> Tensor:
        """The teacher's temperature; a compiled forward pass would be compiled for each number."""
        return torch.tensor(self._teacher_temp(), device=self.center.device)

    def _teacher_temp(self) -> float:
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
        return uniform_loss_warning(loss, self.options.prototypes, self.now.epoch, remedy)

    def collapse_causes(self) -> dict[str, bool]:
        o = self.options
        soft = f"the teacher is not sharpened enough (teacher_temp={o.teacher_temp}, student_temp={o.student_temp})"
        return super().collapse_causes() | {
            "the teacher is not centred (centering=false)": not o.centering,
            "the centre is never updated (center_momentum=1)": o.centering and o.center_momentum == 1,
            soft: round(o.teacher_temp / o.student_temp, 6) > MAX_TEMPERATURE_RATIO,
        }

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (math.log(self.options.prototypes),)
