"""NNCLR: Dwibedi et al., "With a Little Help from My Friends: Nearest-Neighbor Contrastive Learning of Visual
Representations", ICCV 2021, arXiv:2104.14548.

SimCLR, with the nearest neighbour of one view in a queue of earlier embeddings as the positive.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import AsymmetricViews, fix_pred_lr, negatives, queue_size, temperature, width
from ssltool.methods.parts.matching import info_nce
from ssltool.methods.parts.queue import Queue, queue_warnings
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@without_autocast
def nnclr_loss(
    nn1: Tensor, nn2: Tensor, p1: Tensor, p2: Tensor, temperature: float = 0.1, *, negatives: bool = True
) -> Tensor:
    """Eq. 4 of arXiv:2104.14548 in both directions: CE(nn1 p2^T / T) / 2 + CE(nn2 p1^T / T) / 2.

    For N images the loss is ln N if all rows are equal.

    Args:
        nn1, nn2: nearest neighbours of the projections of two views, each (N, D); detached.
        p1, p2: predictions for the views, each (N, D), not necessarily normalised.
        temperature: T, divides the cosines.
        negatives: whether the other images repel; otherwise the loss is -(cos(nn1, p2) + cos(nn2, p1)) / 2 T.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    check_same_shape("nnclr_loss", nn1, nn2, p1, p2)
    first = info_nce(nn1.detach(), p2, temperature, negatives=negatives)
    return 0.5 * (first + info_nce(nn2.detach(), p1, temperature, negatives=negatives))


@dataclass(frozen=True)
class NNCLROptions(AsymmetricViews):
    """Options of NNCLR. Defaults follow the paper, except for its views (``asymmetric``)."""

    dim: int = width(256)
    hidden: int = width(2048, "the projector's hidden layers")
    pred_hidden: int = width(4096, "the predictor's hidden layer")
    queue: int = queue_size(98304)
    temperature: float = temperature(0.1)
    negatives: bool = negatives()
    fix_pred_lr: bool = fix_pred_lr()
    last_bn_affine: bool = setting(
        False, "scale and shift in the projector's last batch norm, as in solo-learn and lightly"
    )


class NNCLR(Method):
    """NNCLR. Projector: three linear layers, each with BN. Predictor: a hidden layer with BN and a linear layer."""

    Options = NNCLROptions

    def __init__(self, backbone: nn.Module, dim: int, options: NNCLROptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        widths = [dim, o.hidden, o.hidden, o.dim]
        self.projector = mlp(widths, last_bn=True, last_affine=o.last_bn_affine, last_bias=False)
        self.predictor = mlp([o.dim, o.pred_hidden, o.dim])
        self.queue = Queue(o.queue, o.dim, run.batch_size)

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (self.projector(self.backbone(view)).float() for view in batch.views)
        p1, p2 = gather(self.predictor(z1).float()), gather(self.predictor(z2).float())
        nn1, nn2 = gather(self.queue.nearest(z1)), gather(self.queue.nearest(z2))
        o = self.options
        return Output(nnclr_loss(nn1, nn2, p1, p2, o.temperature, negatives=o.negatives), z1.detach())

    def update_buffers(self, output: Output) -> None:
        self.queue.add(output.projection)

    def warnings(self) -> list[str]:
        return super().warnings() + queue_warnings(self.options, self.run)

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        o = self.options
        return (math.log(self.run.batch_size) if o.negatives else -1.0 / o.temperature,)
