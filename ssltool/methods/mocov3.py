"""MoCo v3: Chen, Xie and He, "An Empirical Study of Training Self-Supervised Vision Transformers", ICCV 2021,
arXiv:2104.02057.

Contrastive learning within the batch, with a predictor and a momentum teacher for the keys. The collapse paper's script
trains this method for ``--alg moco``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Output, RunFacts, check_same_shape
from ssltool.methods.options import (
    AsymmetricViews,
    fix_pred_lr,
    momentum,
    momentum_final,
    negatives,
    temperature,
    width,
)
from ssltool.methods.parts.matching import info_nce
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.models.backbones import token_layout
from ssltool.models.heads import mlp
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@without_autocast
def mocov3_loss(
    q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, temperature: float = 1.0, *, negatives: bool = True
) -> Tensor:
    """Algorithm 1 of arXiv:2104.02057: ctr(q1, k2) + ctr(q2, k1), each averaged over the batch and times 2 T.

    For N images the loss is 4 T ln N if all rows are equal.

    Args:
        q1, q2: predictions for two views, each (N, D), not necessarily normalised.
        k1, k2: the teacher's projections of the same views, each (N, D); detached.
        temperature: T, divides the cosines.
        negatives: whether the other images repel; otherwise the loss is -2 (cos(q1, k2) + cos(q2, k1)), BYOL's but for
            a constant.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    check_same_shape("mocov3_loss", q1, q2, k1, k2)
    first = info_nce(q1, k2.detach(), temperature, negatives=negatives)
    second = info_nce(q2, k1.detach(), temperature, negatives=negatives)
    return (first + second) * (2 * temperature)


@dataclass(frozen=True)
class MoCoV3Options(AsymmetricViews):
    """Options of MoCo v3. Defaults follow the paper for a ResNet, except for its views (``asymmetric``). For a ViT the
    paper uses temperature 0.2."""

    dim: int = width(256)
    hidden: int = width(4096, "the hidden layers of projector and predictor")
    temperature: float = temperature(1.0)
    negatives: bool = negatives()
    momentum: float = momentum(0.99)
    momentum_final: float | None = momentum_final(1.0)
    fix_pred_lr: bool = fix_pred_lr()


class MoCoV3(MomentumMethod):
    """MoCo v3. With a ResNet: a two-layer projector with a final BN, and a two-layer predictor without. With a ViT: a
    three-layer projector, and a final BN in the predictor too."""

    Options = MoCoV3Options

    def __init__(self, backbone: nn.Module, dim: int, options: MoCoV3Options, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o, vit = options, token_layout(backbone) is not None
        layers = [dim, *[o.hidden] * (2 if vit else 1), o.dim]
        self.projector = mlp(layers, last_bn=True, last_bias=False)
        self.predictor = mlp([o.dim, o.hidden, o.dim], last_bn=vit, last_bias=False)
        self.make_teacher()

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (self.projector(self.backbone(view)).float() for view in batch.views)
        q1, q2 = gather(self.predictor(z1).float()), gather(self.predictor(z2).float())
        k1, k2 = (gather(self.teacher_forward(view)) for view in batch.views)
        o = self.options
        return Output(mocov3_loss(q1, q2, k1, k2, o.temperature, negatives=o.negatives), z1.detach())

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        o = self.options
        return (4 * o.temperature * math.log(self.run.batch_size) if o.negatives else -4.0,)
