"""MoCo v2 and v2+: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
arXiv:1911.05722; Chen et al., "Improved Baselines with Momentum Contrastive Learning", arXiv:2003.04297; v2+ is the
symmetric version of arXiv:2011.10566, Table 5.

Each query is contrasted with the key of its image and a queue of earlier keys, computed by a momentum teacher. In v2+
the loss is the mean of both directions, and the keys of the second view enter the queue. The papers shuffle images
between GPUs so that batch norm does not leak information. Here batch norm uses the statistics of the whole batch over
all ranks, separately for queries and keys, and images are not shuffled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Output, RunFacts, check_same_shape
from ssltool.methods.options import MethodOptions, momentum, momentum_final, queue_size, temperature, width
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.methods.parts.queue import Queue, check_queue, queue_warnings
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.precision import without_autocast


@without_autocast
def moco_loss(q: Tensor, k: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """Eq. 1 of arXiv:1911.05722, averaged over the batch; ln(K + 1) if all rows are equal.

    Args:
        q: queries (N, D), not necessarily normalised.
        k: the teacher's keys of the same images (N, D); detached.
        queue: keys of earlier images (K, D); detached.
        temperature: divides the cosines.

    Raises:
        SSLToolError: if the shapes do not match.
    """
    check_same_shape("moco_loss", q, k)
    check_queue("moco_loss", q, queue)
    q, k, queue = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1), F.normalize(queue.detach(), dim=1)
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.mT], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


@dataclass(frozen=True)
class MoCoOptions(MethodOptions):
    """Options of MoCo. Defaults follow MoCo v2."""

    dim: int = width(128)
    hidden: int = width(2048, "the projector's hidden layer")
    queue: int = queue_size(65536)
    temperature: float = temperature(0.2)
    momentum: float = momentum(0.999)
    momentum_final: float | None = momentum_final(None)
    symmetric: bool = setting(
        False, "use both views as queries and keys (v2+); the loss is the mean of both directions"
    )


class MoCo(MomentumMethod):
    """MoCo v2. Projector: a hidden layer and a linear layer, without BN."""

    Options = MoCoOptions
    compares_images = False

    def __init__(self, backbone: nn.Module, dim: int, options: MoCoOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim], hidden_bn=False)
        self.make_teacher()
        self.queue = Queue(options.queue, options.dim, run.batch_size)

    def forward(self, batch: Batch) -> Output:
        x1, x2 = batch.views
        queue, t = self.queue.rows, self.options.temperature
        q1, k2 = self.projector(self.backbone(x1)).float(), self.teacher_forward(x2)
        loss, keys = moco_loss(q1, k2, queue, t), k2
        if self.options.symmetric:
            q2, k1 = self.projector(self.backbone(x2)).float(), self.teacher_forward(x1)
            loss = 0.5 * (loss + moco_loss(q2, k1, queue, t))
        return Output(loss, q1.detach(), (keys,))

    def update_buffers(self, output: Output) -> None:
        self.queue.add(*output.for_buffers)

    def warnings(self) -> list[str]:
        return super().warnings() + queue_warnings(self.options, self.run)

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (math.log(self.options.queue + 1),)
