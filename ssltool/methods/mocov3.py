"""MoCo v3: Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021,
arXiv:2104.02057.

Contrast within the batch, a predictor, and a slowly following teacher that makes the keys. Also what the collapse
paper's script trains with ``--alg moco``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Output, RunFacts, same_shapes
from ssltool.methods.options import AsymmetricViews, fix_pred_lr, momentum, momentum_final, temperature, width
from ssltool.methods.parts.matching import own_row_among
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.models.heads import mlp
from ssltool.models.vit import is_vit
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@without_autocast
def mocov3_loss(q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, temperature: float = 1.0) -> Tensor:
    """Algorithm 1 of arXiv:2104.02057: ctr(q1, k2) + ctr(q2, k1), each the mean over the batch times 2 T.

    With N images it is 4 T ln N where all rows are equal.

    Args:
        q1, q2: predictions of two views, each (N, D), of any length.
        k1, k2: the teacher's projections of the same views, each (N, D); constants.
        temperature: T, what cosines are divided by.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    same_shapes("mocov3_loss", q1, q2, k1, k2)
    both = own_row_among(q1, k2.detach(), temperature) + own_row_among(q2, k1.detach(), temperature)
    return both * (2 * temperature)


@dataclass(frozen=True)
class MoCoV3Options(AsymmetricViews):
    """The method's options; the defaults are the paper's for a ResNet, but for its views (``asymmetric``). A ViT takes
    temperature 0.2."""

    dim: int = width(256)
    hidden: int = width(4096, "the hidden layers of projector and predictor")
    temperature: float = temperature(1.0)
    momentum: float = momentum(0.99)
    momentum_final: float | None = momentum_final(1.0)
    fix_pred_lr: bool = fix_pred_lr()


class MoCoV3(MomentumMethod):
    """On a ResNet: a projector of two layers that ends on a BN, and a predictor of two that does not. On a ViT: one
    layer more in the projector, and a BN at the end of the predictor too."""

    Options = MoCoV3Options

    def __init__(self, backbone: nn.Module, dim: int, options: MoCoV3Options, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o, vit = options, is_vit(backbone)
        layers = [dim, *[o.hidden] * (2 if vit else 1), o.dim]
        self.projector = mlp(layers, last_bn=True, last_bias=False)
        self.predictor = mlp([o.dim, o.hidden, o.dim], last_bn=vit, last_bias=False)
        self.make_teacher()

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (self.projector(self.backbone(view)).float() for view in batch.views)
        q1, q2 = gather(self.predictor(z1).float()), gather(self.predictor(z2).float())
        k1, k2 = (gather(self.teach(view)) for view in batch.views)
        return Output(mocov3_loss(q1, q2, k1, k2, self.options.temperature), z1.detach())

    @property
    def collapsed_losses(self) -> tuple[float, ...]:
        return (4 * self.options.temperature * math.log(self.run.batch_size),)
