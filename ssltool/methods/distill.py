"""Distillation, from the collapse paper's code (arXiv:2209.15007, ``distill.py``): a student regresses the
standardised representations of a trained backbone.

    loss = mean (s - (t - mu) / (sd + 1e-6))^2

mu and sd are running averages of the batch means and standard deviations of the teacher, updated after use.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import TrainedTeacher
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

EPS = 1e-6


@without_autocast
def distill_loss(student: Tensor, teacher: Tensor, mu: Tensor, sd: Tensor) -> Tensor:
    """Mean squared error between the student's rows and the teacher's standardised rows; at least 0.

    Args:
        student: (N, D).
        teacher: (N, D); detached.
        mu, sd: means and standard deviations of the teacher's dimensions, each (D,).

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    check_same_shape("distill_loss", student, teacher)
    if not mu.shape == sd.shape == student.shape[1:]:
        found = f"{tuple(mu.shape)} and {tuple(sd.shape)}"
        raise SSLToolError(f"distill_loss expects mu and sd of shape ({student.shape[1]},); found {found}")
    return F.mse_loss(student, (teacher.detach() - mu) / (sd + EPS))


@dataclass(frozen=True)
class DistillOptions(TrainedTeacher):
    """Options of distillation. Defaults follow the paper."""

    alpha: float = setting(0.05, "weight of a batch in the running means and standard deviations", minimum=0, maximum=1)


class Distill(Method):
    """Distillation. Projector: a linear layer from the student's width to the teacher's. One view per image."""

    Options = DistillOptions
    compares_images = False
    mu: Tensor
    sd: Tensor

    def __init__(self, backbone: nn.Module, dim: int, options: DistillOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.teacher, width = run.second_backbone()
        self.teacher.requires_grad_(False).eval()
        self.projector = nn.Linear(dim, width)
        self.register_buffer("mu", torch.zeros(width))
        self.register_buffer("sd", torch.ones(width))

    def train(self, mode: bool = True) -> Distill:
        """The teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        return [base]

    def forward(self, batch: Batch) -> Output:
        (view,) = batch.views
        s = self.projector(self.backbone(view)).float()
        with torch.no_grad():
            t = self.teacher(view).float()
        loss = distill_loss(s, t, self.mu, self.sd)
        return Output(loss, s.detach(), (t,))

    @torch.no_grad()
    def update_buffers(self, output: Output) -> None:
        (t,) = map(gather, output.for_buffers)
        self.mu.lerp_(t.mean(dim=0), self.options.alpha)
        self.sd.lerp_(t.std(dim=0), self.options.alpha)

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (1.0,)  # the variance of the standardised targets
