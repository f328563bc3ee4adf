"""SwAV: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", NeurIPS 2020,
arXiv:2006.09882.

Each large crop is assigned to prototypes so that all are used equally (Sinkhorn-Knopp), and every other crop of the
image has to predict the assignment.
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
from ssltool.methods.base import LARGEST_LOGIT, Method, Output, RunFacts, of_one_shape
from ssltool.methods.options import Ineffective, MultiCrop, temperature, width
from ssltool.methods.parts.matching import across_crops
from ssltool.methods.parts.multicrop import by_size, together
from ssltool.methods.parts.prototypes import Prototypes, stuck_at_uniform
from ssltool.methods.parts.queue import Queue, queue_warnings
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather, mine
from ssltool.training.precision import without_autocast


@torch.no_grad()
@without_autocast
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    """Assignments (N, K) of N rows to K prototypes by Eq. 3 to 5 of arXiv:2006.09882.

    exp(scores / epsilon), scaled in turns so that the prototypes have equal shares and the rows sum to 1; the rows come
    last. Computed with logarithms, so that no epsilon overflows.

    Args:
        scores: similarity of each row to each prototype (N, K).
        epsilon: entropy of the assignment; small is hard.
        iterations: turns.

    Raises:
        SSLToolError: if ``scores`` is no matrix with rows and columns.
    """
    if scores.dim() != 2 or not scores.numel():
        raise SSLToolError(f"sinkhorn takes scores (N, K); found {tuple(scores.shape)}")
    log_q = scores / epsilon
    for _ in range(iterations):
        log_q = log_q - log_q.logsumexp(dim=0)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.exp()


@without_autocast
def swav_loss(scores: list[Tensor], codes: list[Tensor], temperature: float = 0.1) -> Tensor:
    """Eq. 6 of arXiv:2006.09882 for several crops; ln K where all prototypes score alike.

    The mean over the assigned crops i and over all other crops v of -sum_k codes_i log softmax(scores_v / T).

    Args:
        scores: cosines of each of V crops with the prototypes, V times (N, K).
        codes: assignments of the first crops, at most V times (N, K); constants whose rows sum to 1.
        temperature: T.

    Raises:
        SSLToolError: if there are fewer than two crops, more codes than crops, or the shapes differ.
    """
    shapes = {tuple(t.shape) for t in [*scores, *codes]}
    if len(scores) < 2 or not 1 <= len(codes) <= len(scores) or not of_one_shape(*scores, *codes):
        raise SSLToolError(
            f"swav_loss takes two or more scores (N, K), and codes of the first of them; found {len(scores)} and "
            f"{len(codes)} of shapes {sorted(shapes)}"
        )
    return across_crops([s / temperature for s in scores], [code.detach() for code in codes])


@dataclass(frozen=True)
class SwAVOptions(MultiCrop):
    """The method's options; the defaults are the paper's, the queue that for small batches."""

    dim: int = width(128)
    hidden: int = width(2048, "the projector's hidden layer")
    prototypes: int = setting(3000, "number of prototypes", minimum=2)
    temperature: float = temperature(0.1)
    epsilon: float = setting(0.05, "entropy of the assignments; small is hard", above=0)
    iterations: int = setting(3, "turns of Sinkhorn-Knopp", minimum=1)
    queue: int = setting(3840, "earlier embeddings that are assigned along with the batch; 0 for none", minimum=0)
    queue_start: int = setting(15, "completed epochs before the queue is filled", minimum=0)
    freeze: int = setting(313, "steps at the start in which the prototypes stay as they are", minimum=0)

    def ineffective(self) -> list[Ineffective]:
        return [*super().ineffective(), Ineffective(("queue_start",), self.queue == 0, "queue=0")]


class SwAV(Method):
    """Projector: a hidden layer with BN, and a linear one; then prototypes of length 1."""

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
        z = [F.normalize(z.float(), dim=1) for z in together(self.projector, by_size(self.backbone, batch.views))]
        scores = together(self.prototypes, z)
        codes = [self._assign(number, z[number], scores[number]) for number in range(2)]
        return Output(swav_loss(scores, codes, o.temperature), z[0].detach())

    @torch.no_grad()
    def _assign(self, number: int, z: Tensor, scores: Tensor) -> Tensor:
        """The codes (N, K) of this rank's part of a large crop; all ranks' and the queue's rows take part."""
        o = self.options
        assigned = gather(scores)
        count = len(assigned)
        if o.queue and self.now.epoch >= o.queue_start:
            queue = cast(Queue, self.queues[number])
            if queue.is_full():
                assigned = torch.cat([self.prototypes(queue.rows), assigned])
            if self.training:
                queue.add(z)
        return mine(sinkhorn(assigned, o.epsilon, o.iterations)[-count:])

    def before_update(self) -> None:
        if self.now.step < self.options.freeze:
            self.prototypes.weight.grad = None

    def after_step(self) -> None:
        self.prototypes.normalise()

    def warnings(self) -> list[str]:
        o, run, found = self.options, self.run, super().warnings()
        if run.batch_size < o.prototypes and not (o.queue and o.queue_start < run.epochs):
            found.append(
                f"{o.prototypes} prototypes share batches of {run.batch_size} without a queue (queue={o.queue}, "
                f"queue_start={o.queue_start}, {run.epochs} epochs): most get nothing; try fewer, or an earlier queue"
            )
        if 1.0 / o.epsilon > LARGEST_LOGIT:
            found.append(
                f"epsilon={o.epsilon} makes assignments so hard that exp(1 / epsilon) overflows float32; here "
                "logarithms keep them finite, but each row gets one prototype"
            )
        return found + (queue_warnings(o, run) if o.queue else [])

    def diagnose(self, loss: float) -> str | None:
        remedy = "Try a smaller epsilon or lr, a longer freeze, or fewer prototypes"
        return stuck_at_uniform(loss, self.options.prototypes, self.now.epoch, remedy)

    def causes(self) -> dict[str, bool]:
        o = self.options
        soft = f"assignments are no sharper than predictions (epsilon={o.epsilon}, temperature={o.temperature})"
        return super().causes() | {soft: o.epsilon >= o.temperature}

    @property
    def collapsed_losses(self) -> tuple[float, ...]:
        return (math.log(self.options.prototypes),)
