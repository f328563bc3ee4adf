"""Barlow Twins: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021,
arXiv:2103.03230.

The cross-correlation of the two views' embeddings shall be the identity: each dimension agrees with itself and with
no other.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Method, Output, RunFacts, same_shapes
from ssltool.methods.options import AsymmetricViews, width
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

EPS = 1e-5
"""What is added to variances, that of the released code's batch norm."""


@without_autocast
def barlow_loss(z1: Tensor, z2: Tensor, lambd: float = 0.0051) -> Tensor:
    """Eq. 1 of arXiv:2103.03230: sum_i (C_ii - 1)^2 + lambd sum_{i != j} C_ij^2, at least 0.

    C is the cross-correlation over the batch, with biased variances. Where all rows are equal C is 0 and the loss D.

    Args:
        z1, z2: embeddings of two views, each (N, D).
        lambd: weight of the redundancy term.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    same_shapes("barlow_loss", z1, z2)
    c = _standardise(z1).mT @ _standardise(z2) / len(z1)
    diagonal = c.diagonal()
    off_diagonal = c.square().sum() - diagonal.square().sum()
    return (diagonal - 1.0).square().sum() + lambd * off_diagonal


def _standardise(z: Tensor) -> Tensor:
    return (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + EPS).sqrt()


@dataclass(frozen=True)
class BarlowOptions(AsymmetricViews):
    """The method's options; the defaults are the paper's, but for its views (``asymmetric``)."""

    dim: int = width(8192)
    hidden: int = width(8192, "the projector's hidden layers")
    lambd: float = setting(0.0051, "weight of the redundancy term", minimum=0)
    scale: float = setting(1.0, "what the loss is multiplied by; the released run had 0.024", above=0)


class Barlow(Method):
    """Projector: three layers, the first two with BN."""

    Options = BarlowOptions

    def __init__(self, backbone: nn.Module, dim: int, options: BarlowOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.hidden, options.dim], last_bias=False)

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (gather(self.projector(self.backbone(view)).float()) for view in batch.views)
        return Output(self.options.scale * barlow_loss(z1, z2, self.options.lambd), z1.detach())

    def causes(self) -> dict[str, bool]:
        return super().causes() | {"nothing keeps the dimensions apart (lambd=0)": self.options.lambd == 0}

    @property
    def collapsed_losses(self) -> tuple[float, ...]:
        return (self.options.scale * self.options.dim,)
