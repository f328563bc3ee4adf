"""MoCo v2 and v2+: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
arXiv:1911.05722; Chen et al., "Improved Baselines with Momentum Contrastive Learning", arXiv:2003.04297; v2+ is the
symmetric version of arXiv:2011.10566, Table 5.

A view's query shall be closer to its image's key than to a queue of earlier keys, which a slowly following teacher
makes. In v2+ the loss is the mean of both directions; the one queue takes the second view's keys. The papers shuffle
images among GPUs so that the teacher's batch norm gives no answer away; here batch statistics are those of the whole
batch on all ranks, for queries and keys apart, and nothing is shuffled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Output, RunFacts, same_shapes
from ssltool.methods.options import MethodOptions, momentum, momentum_final, queue_size, temperature, width
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.methods.parts.queue import Queue, check_queue, queue_warnings
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.precision import without_autocast


@without_autocast
def moco_loss(q: Tensor, k: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """Eq. 1 of arXiv:1911.05722, the mean over the batch; ln(K + 1) where all rows are equal.

    Args:
        q: queries (N, D), of any length.
        k: the teacher's keys of the same images (N, D); constants.
        queue: keys of earlier images (K, D); constants.
        temperature: what cosines are divided by.

    Raises:
        SSLToolError: if the shapes do not fit.
    """
    same_shapes("moco_loss", q, k)
    check_queue("moco_loss", q, queue)
    q, k, queue = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1), F.normalize(queue.detach(), dim=1)
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.mT], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


@dataclass(frozen=True)
class MoCoOptions(MethodOptions):
    """The method's options; the defaults are MoCo v2's."""

    dim: int = width(128)
    hidden: int = width(2048, "the projector's hidden layer")
    queue: int = queue_size(65536)
    temperature: float = temperature(0.2)
    momentum: float = momentum(0.999)
    momentum_final: float | None = momentum_final(None)
    symmetric: bool = setting(False, "v2+: let each view be query and key; the loss is the mean of both directions")


class MoCo(MomentumMethod):
    """Projector: a hidden layer and a linear one, without BN."""

    Options = MoCoOptions

    def __init__(self, backbone: nn.Module, dim: int, options: MoCoOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim], hidden_bn=False)
        self.make_teacher()
        self.queue = Queue(options.queue, options.dim, run.batch_size)

    def forward(self, batch: Batch) -> Output:
        x1, x2 = batch.views
        queue, t = self.queue.rows, self.options.temperature
        q1, k2 = self.projector(self.backbone(x1)).float(), self.teach(x2)
        loss, keys = moco_loss(q1, k2, queue, t), k2
        if self.options.symmetric:
            q2, k1 = self.projector(self.backbone(x2)).float(), self.teach(x1)
            loss = 0.5 * (loss + moco_loss(q2, k1, queue, t))
        if self.training:
            self.queue.add(keys)
        return Output(loss, q1.detach())

    def warnings(self) -> list[str]:
        return super().warnings() + queue_warnings(self.options, self.run)

    @property
    def collapsed_losses(self) -> tuple[float, ...]:
        return (math.log(self.options.queue + 1),)
