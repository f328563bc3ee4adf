"""MoCo v2 and v2+: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
arXiv:1911.05722; Chen et al., "Improved Baselines with Momentum Contrastive Learning", arXiv:2003.04297; v2+ is the
symmetric version of arXiv:2011.10566, Table 5.

Each query is contrasted with the key of its image and a queue of earlier keys, computed by a momentum teacher. In v2+
the loss is the sum of both directions, and the keys of both views enter the queue, as in the authors' CIFAR notebook.
The papers shuffle images between GPUs so that batch norm does not leak information. Here batch norm uses the statistics
of the whole batch over all ranks, separately for queries and keys, and images are not shuffled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Output, RunFacts, check_same_shape
from ssltool.methods.options import (
    Ineffective,
    MethodOptions,
    momentum,
    momentum_final,
    negatives,
    queue_size,
    temperature,
    width,
)
from ssltool.methods.parts.matching import NO_NEGATIVES, attraction
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.methods.parts.queue import Queue, check_queue, queue_warnings
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.precision import without_autocast


@without_autocast
def moco_loss(q: Tensor, k: Tensor, queue: Tensor, temperature: float = 0.2, *, negatives: bool = True) -> Tensor:
    """Eq. 1 of arXiv:1911.05722, averaged over the batch; ln(K + 1) if all rows are equal.

    Args:
        q: queries (N, D), not necessarily normalised.
        k: the teacher's keys of the same images (N, D); detached.
        queue: keys of earlier images (K, D); detached.
        temperature: divides the cosines.
        negatives: whether the keys in the queue repel; otherwise the loss is the mean of -cosine / temperature of query
            and key.

    Raises:
        SSLToolError: if the shapes do not match.
    """
    check_same_shape("moco_loss", q, k)
    check_queue("moco_loss", q, queue)
    if not negatives:
        return attraction(q, k.detach(), temperature)
    q, k, queue = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1), F.normalize(queue.detach(), dim=1)
    logits = torch.cat([(q * k).sum(dim=1, keepdim=True), q @ queue.mT], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


@dataclass(frozen=True)
class MoCoOptions(MethodOptions):
    """Options of MoCo. Defaults follow MoCo v2."""

    KEPT: ClassVar[tuple[str, ...]] = ("hidden", "queued")

    dim: int = width(128)
    hidden: int | None = setting(
        None, "width of the projector's hidden layer [default: that of the backbone's output]", minimum=1
    )
    queue: int = queue_size(65536)
    temperature: float = temperature(0.2)
    negatives: bool = negatives()
    momentum: float = momentum(0.999)
    momentum_final: float | None = momentum_final(None)
    symmetric: bool = setting(False, "use both views as queries and keys (v2+)")
    queued: str = setting(
        "both",
        "keys that are queued with symmetric=true: of both views in one queue, and the loss is the sum of both "
        "directions; of each view in a queue of its own (separate) or of the second view, and the loss is their mean",
        choices=("both", "separate", "second"),
    )

    @property
    def sums_both(self) -> bool:
        """Whether the loss is the sum of both directions."""
        return self.symmetric and self.queued == "both"

    def ineffective(self) -> list[Ineffective]:
        return [
            Ineffective(("queued",), not self.symmetric, "symmetric=false"),
            Ineffective(("queue",), not self.negatives, "negatives=false"),
        ]

    @classmethod
    def completed(cls, saved: Mapping[str, Any]) -> dict[str, Any]:
        """Earlier versions queued the keys of the second view only."""
        return super().completed(({"queued": "second"} if saved.get("symmetric") else {}) | {**saved})


class MoCo(MomentumMethod):
    """MoCo v2. Projector: a hidden layer and a linear layer, without BN."""

    Options = MoCoOptions
    compares_images = False

    def __init__(self, backbone: nn.Module, dim: int, options: MoCoOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        self.projector = mlp([dim, o.hidden or dim, o.dim], hidden_bn=False)
        self.make_teacher()
        self.queue = Queue(o.queue, o.dim, run.batch_size)
        if o.symmetric and o.queued == "separate":
            self.queue_of_first = Queue(o.queue, o.dim, run.batch_size)

    @property
    def _queues(self) -> list[Queue]:
        """The queues that get the keys of the second view and, if these are queued, of the first."""
        o = self.options
        if not o.symmetric or o.queued == "second":
            return [self.queue]
        return [self.queue, self.queue if o.queued == "both" else self.queue_of_first]

    def forward(self, batch: Batch) -> Output:
        (x1, x2), o = batch.views, self.options
        q1, k2 = self.projector(self.backbone(x1)).float(), self.teacher_forward(x2)
        loss = moco_loss(q1, k2, self.queue.rows, o.temperature, negatives=o.negatives)
        if not o.symmetric:
            return Output(loss, q1.detach(), (k2,))
        q2, k1 = self.projector(self.backbone(x2)).float(), self.teacher_forward(x1)
        both = loss + moco_loss(q2, k1, self._queues[-1].rows, o.temperature, negatives=o.negatives)
        return Output(both if o.sums_both else 0.5 * both, q1.detach(), (k2, k1))

    def update_buffers(self, output: Output) -> None:
        for queue, keys in zip(self._queues, output.for_buffers, strict=False):  # the first view's may not be queued
            queue.add(keys)

    def warnings(self) -> list[str]:
        return super().warnings() + queue_warnings(self.options, self.run)

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {NO_NEGATIVES: not self.options.negatives}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        o = self.options
        one = math.log(o.queue + 1) if o.negatives else -1.0 / o.temperature
        return ((2 if o.sums_both else 1) * one,)
