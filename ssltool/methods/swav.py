"""SwAV: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020,
arXiv:2006.09882.

Sinkhorn-Knopp assigns each large crop to prototypes such that all prototypes are used equally. All other crops of the
image are trained to predict the assignment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import LARGEST_LOGIT, Method, Output, RunFacts, have_same_shape
from ssltool.methods.options import Ineffective, MultiCrop, temperature, width
from ssltool.methods.parts.matching import multicrop_cross_entropy
from ssltool.methods.parts.multicrop import forward_by_size, forward_concatenated
from ssltool.methods.parts.prototypes import Prototypes, uniform_loss_warning
from ssltool.methods.parts.queue import Queue, queue_warnings
from ssltool.methods.parts.sinkhorn import sinkhorn
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather, local_rows
from ssltool.training.precision import without_autocast


@without_autocast
def swav_loss(scores: list[Tensor], codes: list[Tensor], temperature: float = 0.1) -> Tensor:
    """Eq. 6 of arXiv:2006.09882 for several crops; ln K if all scores are equal.

    The mean over the assigned crops i and all other crops v of -sum_k codes_i log softmax(scores_v / T).

    Args:
        scores: cosines of V crops with the prototypes, each (N, K).
        codes: assignments of the first crops, each (N, K), at most V; detached. Rows sum to 1.
        temperature: T.

    Raises:
        SSLToolError: if there are fewer than two crops, more codes than crops, or the shapes differ.
    """
    shapes = {tuple(t.shape) for t in [*scores, *codes]}
    if len(scores) < 2 or not 1 <= len(codes) <= len(scores) or not have_same_shape(*scores, *codes):
        raise SSLToolError(
            f"swav_loss expects scores (N, K) of two or more crops and codes of the first; found {len(scores)} and "
            f"{len(codes)} of shapes {sorted(shapes)}"
        )
    return multicrop_cross_entropy([s / temperature for s in scores], [code.detach() for code in codes])


@dataclass(frozen=True)
class SwAVOptions(MultiCrop):
    """Options of SwAV. Defaults follow the paper, with its queue for small batches."""

    dim: int = width(128)
    hidden: int = width(2048, "the projector's hidden layer")
    prototypes: int = setting(3000, "number of prototypes", minimum=2)
    temperature: float = temperature(0.1)
    epsilon: float = setting(
        0.05, "entropy regularisation of the assignments; smaller values give harder assignments", above=0
    )
    iterations: int = setting(
        3, "iterations of Sinkhorn-Knopp; with 0 prototypes can be left unused", minimum=0, maximum=10_000
    )
    queue: int = setting(
        3840, "number of earlier embeddings assigned together with the batch; 0 disables the queue", minimum=0
    )
    queue_start: int = setting(15, "completed epochs before the queue is filled", minimum=0)
    freeze: int = setting(313, "number of initial steps in which the prototypes are frozen", minimum=0)

    def ineffective(self) -> list[Ineffective]:
        unused = self.iterations == 0  # each row is assigned alone
        return [
            *super().ineffective(),
            Ineffective(("queue_start",), self.queue == 0, "queue=0"),
            Ineffective(("queue", "queue_start"), unused, "iterations=0"),
        ]


class SwAV(Method):
    """SwAV. Projector: a hidden layer with BN and a linear layer; then L2-normalised prototypes."""

    Options = SwAVOptions
    queues: nn.ModuleList

    def __init__(self, backbone: nn.Module, dim: int, options: SwAVOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim])
        self.prototypes = Prototypes(options.dim, options.prototypes)
        if options.queue:  # one for each large crop
            self.queues = nn.ModuleList(Queue(options.queue, options.dim, run.batch_size) for _ in range(2))

    def forward(self, batch: Batch) -> Output:
        o = self.options
        z = [
            F.normalize(z.float(), dim=1)
            for z in forward_concatenated(self.projector, forward_by_size(self.backbone, batch.views))
        ]
        scores = forward_concatenated(self.prototypes, z)
        codes = [self._assign(number, scores[number]) for number in range(2)]
        return Output(swav_loss(scores, codes, o.temperature), z[0].detach(), (z[1].detach(),))

    @property
    def _uses_queue(self) -> bool:
        return bool(self.options.queue) and self.now.epoch >= self.options.queue_start

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the epoch and the queue decide what is assigned
    @torch.no_grad()
    def _assign(self, number: int, scores: Tensor) -> Tensor:
        """The codes (N, K) of this rank's rows of a large crop, assigned jointly with all ranks and the queue."""
        o = self.options
        assigned = gather(scores)
        count = len(assigned)
        if self._uses_queue:
            queue = cast(Queue, self.queues[number])
            if queue.is_full():
                assigned = torch.cat([self.prototypes(queue.rows), assigned])
        return local_rows(sinkhorn(assigned, o.epsilon, o.iterations)[-count:])

    def update_buffers(self, output: Output) -> None:
        if self._uses_queue:
            for queue, rows in zip(self.queues, (output.projection, *output.for_buffers), strict=True):
                cast(Queue, queue).add(rows)

    def before_update(self) -> None:
        if self.now.step < self.options.freeze:
            self.prototypes.weight.grad = None

    def after_step(self) -> None:
        self.prototypes.normalise()

    def warnings(self) -> list[str]:
        o, run, found = self.options, self.run, super().warnings()
        if run.batch_size < o.prototypes and not (o.queue and o.queue_start < run.epochs):
            found.append(
                f"{o.prototypes} prototypes for batches of {run.batch_size} without a queue (queue={o.queue}, "
                f"queue_start={o.queue_start}, {run.epochs} epochs): most prototypes are not assigned; try fewer "
                "prototypes, or a smaller queue_start"
            )
        if 1.0 / o.epsilon > LARGEST_LOGIT:
            found.append(
                f"epsilon={o.epsilon} is so small that exp(1 / epsilon) overflows float32; assignments stay finite, "
                "but each row is assigned to a single prototype"
            )
        return found + (queue_warnings(o, run) if o.queue else [])

    def diagnose(self, loss: float) -> str | None:
        remedy = "Try a smaller epsilon or lr, a longer freeze, or fewer prototypes"
        return uniform_loss_warning(loss, self.options.prototypes, self.now.epoch, remedy)

    def collapse_causes(self) -> dict[str, bool]:
        o = self.options
        soft = f"assignments are not sharper than predictions (epsilon={o.epsilon}, temperature={o.temperature})"
        return super().collapse_causes() | {
            "nothing makes the prototypes equally used (iterations=0)": o.iterations == 0,
            soft: o.epsilon >= o.temperature,
        }

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (math.log(self.options.prototypes),)
