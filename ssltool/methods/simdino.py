"""SimDINO: Wu et al., "Simplifying DINO via Coding Rate Regularization", ICML 2025, arXiv:2502.10385.

DINO without prototypes, temperatures and centring: the student's embeddings move towards those of a momentum teacher
across crops. A coding rate, which is large if a batch uses many directions, prevents collapse. Without it
(``--set gamma=0``) equal outputs for all images are the minimum.
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
from ssltool.methods.parts.coding_rate import coding_rate
from ssltool.methods.parts.multicrop import forward_by_size, forward_concatenated
from ssltool.methods.parts.self_distillation import SelfDistillation, SelfDistillationOptions, projection_head
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

EPS = 0.2236
"""The distortion of the released command, whose ``--eps 0.05`` stands in the place of eps^2."""


@without_autocast
def simdino_loss(
    student: list[Tensor],
    teacher: list[Tensor],
    gamma: float = 1.0,
    eps: float = EPS,
    rate_of: str = "mean",
) -> Tensor:
    """The loss of arXiv:2502.10385 with the weight of the released code; its cosines are 1 - distance here.

    The mean over the teacher's crops t and all other crops s of 1/2 |z_s - z_t|^2, minus gamma (d + n) / (d n) times
    the mean over the teacher's crops of R(Z, eps) = 1/2 log det(I + d / (n eps^2) Z^T Z). Rows are L2-normalised.

    Args:
        student: embeddings of V crops, each (n, d).
        teacher: embeddings of the first crops, each (n, d), at most V; detached.
        gamma: weight of the coding rate, relative to (d + n) / (d n).
        eps: the distortion of the coding rate.
        rate_of: the rows of Z: "student", as in the paper, or "mean", the means of student and teacher, as in the
            released code.

    Raises:
        SSLToolError: if there is no pair of different crops, or the shapes do not match.
    """
    if len(student) < 2 or not 1 <= len(teacher) <= len(student) or not have_same_shape(*student, *teacher):
        raise SSLToolError(
            f"simdino_loss expects student embeddings (N, D) of two or more crops and teacher embeddings of the first; "
            f"found {len(student)} and {len(teacher)} of shapes "
            f"{sorted({tuple(t.shape) for t in [*student, *teacher]})}"
        )
    z_s = [F.normalize(z, dim=1) for z in student]
    z_t = [F.normalize(z.detach(), dim=1) for z in teacher]
    distances = [
        0.5 * (s - t).square().sum(dim=1).mean() for i, t in enumerate(z_t) for v, s in enumerate(z_s) if v != i
    ]
    coded = [s if rate_of == "student" else (s + t) / 2 for s, t in zip(z_s, z_t, strict=False)]
    rate = torch.stack([coding_rate(z, eps) for z in coded]).mean()
    return torch.stack(distances).mean() - gamma * _unit(*z_s[0].shape) * rate


def _unit(n: int, d: int) -> float:
    """The weight (d + n) / (d n) of the coding rate."""
    return (d + n) / (d * n)


@dataclass(frozen=True)
class SimDINOOptions(SelfDistillationOptions):
    """Options of SimDINO. Defaults follow the released code, except for its views (``asymmetric``)."""

    gamma: float = setting(
        1.0, "weight of the coding rate, relative to 1/dim + 1/batch; without it the network collapses", minimum=0
    )
    eps: float = setting(EPS, "distortion of the coding rate; the released code's --eps is its square", above=0)
    rate_of: str = setting(
        "mean",
        "embeddings whose coding rate is maximised: the student's, or their mean with the teacher's",
        choices=("mean", "student"),
    )
    head_bn: bool = setting(False, "use batch norm in the head")


class SimDINO(SelfDistillation):
    """SimDINO. Projector: three layers with GELU, by default without BN. The teacher has the same modules."""

    Options = SimDINOOptions

    def __init__(self, backbone: nn.Module, dim: int, options: SimDINOOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        self.projector = projection_head([dim, o.hidden, o.hidden, o.dim], bn=o.head_bn)
        self.make_teacher()

    def forward(self, batch: Batch) -> Output:
        o = self.options
        student = forward_concatenated(self.projector, forward_by_size(self.backbone, batch.views))
        teacher = forward_by_size(self.teacher_forward, batch.views[:2])
        z = [gather(rows.float()) for rows in student]
        loss = simdino_loss(z, [gather(rows) for rows in teacher], o.gamma, o.eps, o.rate_of)
        return Output(loss, z[0].detach())

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {"there is no coding rate (gamma=0)": self.options.gamma == 0}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        o = self.options
        rate = 0.5 * math.log1p(o.dim / o.eps**2)  # of equal rows, of any number
        return (-o.gamma * _unit(self.run.batch_size, o.dim) * rate,)
