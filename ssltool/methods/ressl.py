"""ReSSL: Zheng et al., "ReSSL: Relational Self-Supervised Learning with Weak Augmentation", NeurIPS 2021,
arXiv:2107.09282.

A strongly augmented view is trained to match the similarities of a weakly augmented view to a queue of other images,
as computed by a momentum teacher.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.data.views import PLAIN, Recipe
from ssltool.methods.base import Output, RunFacts, check_same_shape
from ssltool.methods.options import MethodOptions, momentum, momentum_final, queue_size, temperature, width
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.methods.parts.queue import Queue, check_queue, queue_warnings
from ssltool.models.heads import mlp
from ssltool.training.precision import without_autocast


@without_autocast
def ressl_loss(q: Tensor, k: Tensor, queue: Tensor, student_temp: float = 0.1, teacher_temp: float = 0.04) -> Tensor:
    """Eq. 5 of arXiv:2107.09282, the mean over the batch of -softmax(k Q / tau_t) . log_softmax(q Q / tau_s).

    ln K if all rows are equal.

    Args:
        q: embeddings of the strong views (N, D), not necessarily normalised.
        k: the teacher's embeddings of the weak views (N, D); detached.
        queue: Q, the teacher's embeddings of other images (K, D); detached.
        student_temp, teacher_temp: tau_s and tau_t.

    Raises:
        SSLToolError: if the shapes do not match.
    """
    check_same_shape("ressl_loss", q, k)
    check_queue("ressl_loss", q, queue)
    q, k, queue = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1), F.normalize(queue.detach(), dim=1)
    target = (k @ queue.mT / teacher_temp).softmax(dim=1)
    return -(target * (q @ queue.mT / student_temp).log_softmax(dim=1)).sum(dim=1).mean()


@dataclass(frozen=True)
class ReSSLOptions(MethodOptions):
    """Options of ReSSL. Defaults follow the released code."""

    dim: int = width(512)
    hidden: int = width(4096, "the projector's hidden layer")
    queue: int = queue_size(131072)
    student_temp: float = temperature(0.1, "the student's similarities are")
    teacher_temp: float = temperature(0.04, "the teacher's similarities are")
    momentum: float = momentum(0.999)
    momentum_final: float | None = momentum_final(None)


class ReSSL(MomentumMethod):
    """ReSSL. Projector: a hidden layer and a linear layer, without BN."""

    Options = ReSSLOptions
    compares_images = False

    def __init__(self, backbone: nn.Module, dim: int, options: ReSSLOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim], hidden_bn=False)
        self.make_teacher()
        self.queue = Queue(options.queue, options.dim, run.batch_size)

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        """The run's recipe for the strong view; a crop and a flip for the weak view."""
        weak = dataclasses.replace(PLAIN, crop_scale=base.crop_scale, flip_p=base.flip_p)
        return [base, weak]

    def forward(self, batch: Batch) -> Output:
        o = self.options
        strong, weak = batch.views
        q, k = self.projector(self.backbone(strong)).float(), self.teacher_forward(weak)
        loss = ressl_loss(q, k, self.queue.rows, o.student_temp, o.teacher_temp)
        return Output(loss, q.detach(), (k,))

    def update_buffers(self, output: Output) -> None:
        self.queue.add(*output.for_buffers)

    def warnings(self) -> list[str]:
        return super().warnings() + queue_warnings(self.options, self.run)

    def collapse_causes(self) -> dict[str, bool]:
        o = self.options
        temperatures = f"teacher_temp={o.teacher_temp}, student_temp={o.student_temp}"
        not_sharper = f"the teacher is not sharper than the student ({temperatures})"
        return super().collapse_causes() | {not_sharper: o.teacher_temp >= o.student_temp}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (math.log(self.options.queue),)
