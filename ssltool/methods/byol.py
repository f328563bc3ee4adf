"""BYOL: Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, arXiv:2006.07733.

The network predicts the momentum teacher's projection of the other view:

    loss = |p1 - t2|^2 + |p2 - t1|^2,   of L2-normalised rows, so each term is 2 - 2 cos

Without a predictor (``--set predictor=none``), or with a teacher that copies the network (``--set momentum=0
--set momentum_final=0``), it is one of SimSiam's ablations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Output, RunFacts, check_same_shape
from ssltool.methods.options import AsymmetricViews, Ineffective, fix_pred_lr, momentum, momentum_final, width
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.precision import without_autocast


@without_autocast
def byol_loss(p1: Tensor, p2: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    """Eq. 2 of arXiv:2006.07733 in both directions, averaged over the batch; in [0, 8].

    Args:
        p1, p2: predictions for two views, each (N, D).
        t1, t2: the teacher's projections of the same views, each (N, D); detached.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    check_same_shape("byol_loss", p1, p2, t1, t2)
    agreement = F.cosine_similarity(p1, t2.detach(), dim=1) + F.cosine_similarity(p2, t1.detach(), dim=1)
    return (4.0 - 2.0 * agreement).mean()


@dataclass(frozen=True)
class BYOLOptions(AsymmetricViews):
    """Options of BYOL. Defaults follow the paper (1000 epochs), except for its views (``asymmetric``)."""

    dim: int = width(256)
    hidden: int = width(4096, "the hidden layers of projector and predictor")
    momentum: float = momentum(0.996)
    momentum_final: float | None = momentum_final(1.0)
    predictor: str = setting("mlp", "predictor: an MLP or none", choices=("mlp", "none"))
    fix_pred_lr: bool = fix_pred_lr()
    independent_teacher: bool = setting(
        False, "initialise the teacher independently of the network, as the released code does; otherwise it is a copy"
    )

    def ineffective(self) -> list[Ineffective]:
        return [Ineffective(("fix_pred_lr",), self.predictor == "none", "predictor=none")]


class BYOL(MomentumMethod):
    """BYOL. Projector and predictor: a hidden layer with BN and a linear layer."""

    Options = BYOLOptions
    compares_images = False

    def __init__(self, backbone: nn.Module, dim: int, options: BYOLOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        widths = [dim, options.hidden, options.dim]
        self.projector = mlp(widths, last_bias=False)
        self.predictor = nn.Identity()
        if options.predictor == "mlp":
            self.predictor = mlp([options.dim, options.hidden, options.dim], last_bias=False)
        if options.independent_teacher:
            self.make_teacher(backbone=run.second_backbone()[0], projector=mlp(widths, last_bias=False))
        else:
            self.make_teacher()

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (self.projector(self.backbone(view)).float() for view in batch.views)
        p1, p2 = self.predictor(z1).float(), self.predictor(z2).float()
        t1, t2 = (self.teacher_forward(view) for view in batch.views)
        return Output(byol_loss(p1, p2, t1, t2), z1.detach())

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {"there is no predictor (predictor=none)": self.options.predictor == "none"}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (0.0,)
