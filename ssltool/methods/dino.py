"""DINO: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021, arXiv:2104.14294.

A student matches the output distribution of a momentum teacher across crops. Centring prevents collapse to one output
and sharpening prevents collapse to the uniform distribution. Without centring (``--set centering=false``) or sharpening
(``--set teacher_temp=1``) the network collapses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Output, RunFacts, have_same_shape
from ssltool.methods.options import Ineffective
from ssltool.methods.parts.matching import multicrop_cross_entropy
from ssltool.methods.parts.multicrop import forward_by_size, forward_concatenated
from ssltool.methods.parts.prototype_distillation import PrototypeDistillation, PrototypeOptions
from ssltool.methods.parts.self_distillation import projection_head
from ssltool.settings import setting
from ssltool.training.precision import without_autocast


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
class DINOOptions(PrototypeOptions):
    """Options of DINO. Defaults follow the released code for ViT-S, except for its views (``asymmetric``)."""

    centering: bool = setting(True, "subtract the centre from the teacher's logits; without it the network collapses")
    head_bn: bool = setting(False, "use batch norm in the head")

    def ineffective(self) -> list[Ineffective]:
        return [*super().ineffective(), Ineffective(("center_momentum",), not self.centering, "centering=false")]


class DINO(PrototypeDistillation):
    """DINO. Projector: three layers with GELU, by default without BN; then L2-normalised prototypes. The teacher has
    the same modules."""

    Options = DINOOptions
    compares_images = False

    def __init__(self, backbone: nn.Module, dim: int, options: DINOOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        self.projector = projection_head([dim, o.hidden, o.hidden, o.dim], bn=o.head_bn)
        self.prototypes = self.new_prototypes()
        self.make_teacher()
        self.register_buffer("center", torch.zeros(o.prototypes))

    def forward(self, batch: Batch) -> Output:
        o = self.options
        z = [row.float() for row in forward_concatenated(self.projector, forward_by_size(self.backbone, batch.views))]
        student = forward_concatenated(self.prototypes, z)
        teacher = forward_by_size(self.teacher_forward, batch.views[:2])
        loss = dino_loss(student, teacher, self.center, o.student_temp, self.teacher_temp_tensor())
        mean = torch.cat(teacher).mean(dim=0, keepdim=True)
        return Output(loss, z[0].detach(), (mean,) if o.centering else ())

    def update_buffers(self, output: Output) -> None:
        for means in output.for_buffers:
            self.update_center(self.center, means)

    def collapse_causes(self) -> dict[str, bool]:
        o = self.options
        return super().collapse_causes() | {
            "the teacher is not centred (centering=false)": not o.centering,
            "the centre is never updated (center_momentum=1)": o.centering and o.center_momentum == 1,
        }
