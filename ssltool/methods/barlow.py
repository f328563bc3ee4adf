"""Barlow Twins: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML 2021,
arXiv:2103.03230.

The loss drives the cross-correlation matrix of the two views' embeddings towards the identity.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import AsymmetricViews, width
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

EPS = 1e-5
"""Added to variances, as by the batch norm of the released code."""


@without_autocast
def barlow_loss(z1: Tensor, z2: Tensor, lambd: float = 0.0051) -> Tensor:
    """Eq. 1 of arXiv:2103.03230: sum_i (C_ii - 1)^2 + lambd sum_{i != j} C_ij^2, at least 0.

    C is the cross-correlation over the batch, with biased variances. If all rows are equal, C is 0 and the loss is D.

    Args:
        z1, z2: embeddings of two views, each (N, D).
        lambd: weight of the redundancy term.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    check_same_shape("barlow_loss", z1, z2)
    c = _standardise(z1).mT @ _standardise(z2) / len(z1)
    diagonal = c.diagonal()
    off_diagonal = c.square().sum() - diagonal.square().sum()
    return (diagonal - 1.0).square().sum() + lambd * off_diagonal


def _standardise(z: Tensor) -> Tensor:
    return (z - z.mean(dim=0)) / (z.var(dim=0, correction=0) + EPS).sqrt()


@dataclass(frozen=True)
class BarlowOptions(AsymmetricViews):
    """Options of Barlow Twins. Defaults follow the paper, except for its views (``asymmetric``)."""

    dim: int = width(8192)
    hidden: int = width(8192, "the projector's hidden layers")
    lambd: float = setting(0.0051, "weight of the redundancy term", minimum=0)
    scale: float = setting(1.0, "factor of the loss; 0.024 in the released code", above=0)


class Barlow(Method):
    """Barlow Twins. Projector: three linear layers, BN after the first two."""

    Options = BarlowOptions

    def __init__(self, backbone: nn.Module, dim: int, options: BarlowOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.hidden, options.dim], last_bias=False)

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (gather(self.projector(self.backbone(view)).float()) for view in batch.views)
        return Output(self.options.scale * barlow_loss(z1, z2, self.options.lambd), z1.detach())

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {"no term decorrelates the dimensions (lambd=0)": self.options.lambd == 0}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (self.options.scale * self.options.dim,)
