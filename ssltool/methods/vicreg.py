"""VICReg: Bardes, Ponce and LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
Learning", ICLR 2022, arXiv:2105.04906.

The loss aligns the embeddings of the views (invariance), keeps the standard deviation of each dimension at 1 or more
(variance), and decorrelates dimensions (covariance). Without the variance term (``--set std=0``) all embeddings become
equal; without the covariance term (``--set cov=0``) all dimensions become equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import AsymmetricViews, width
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

EPS = 1e-4
"""Added to the variance before the square root."""


@without_autocast
def vicreg_loss(z1: Tensor, z2: Tensor, sim: float = 25.0, std: float = 25.0, cov: float = 1.0) -> Tensor:
    """Eq. 6 of arXiv:2105.04906, with the conventions of the released code; at least 0.

    sim * mean (z1 - z2)^2 + std * (v(z1) + v(z2)) / 2 + cov * (c(z1) + c(z2)), where v is the mean over dimensions of
    max(0, 1 - sqrt(variance + 1e-4)), c the sum of squared covariances over D, and both have N - 1 in the denominator.

    Args:
        z1, z2: embeddings of two views, each (N, D), N at least 2.
        sim, std, cov: weights of invariance, variance and covariance.

    Raises:
        SSLToolError: if the shapes differ, are not (N, D), or N is 1.
    """
    check_same_shape("vicreg_loss", z1, z2)
    if len(z1) < 2:
        raise SSLToolError("vicreg_loss expects at least 2 rows; found 1")
    return weighted_terms(z1, z2, sim, std, cov)


def weighted_terms(z1: Tensor, z2: Tensor, sim: float, std: float, cov: float) -> Tensor:
    """``vicreg_loss`` of several pairs of embeddings (..., N, D), averaged over the pairs; shapes are not checked."""
    variance = 0.5 * (_variance(z1) + _variance(z2))
    return sim * F.mse_loss(z1, z2) + std * variance + cov * (_covariance(z1) + _covariance(z2))


def _variance(z: Tensor) -> Tensor:
    return F.relu(1.0 - (z.var(dim=-2) + EPS).sqrt()).mean()


def _covariance(z: Tensor) -> Tensor:
    centred = z - z.mean(dim=-2, keepdim=True)
    c = centred.mT @ centred / (z.shape[-2] - 1)
    off_diagonal = c.square().sum() - c.diagonal(dim1=-2, dim2=-1).square().sum()
    return off_diagonal / (z.numel() // z.shape[-2])


@dataclass(frozen=True)
class VICRegOptions(AsymmetricViews):
    """Options of VICReg. Defaults follow the paper, except for its views (``asymmetric``)."""

    dim: int = width(8192)
    hidden: int = width(8192, "the projector's hidden layers")
    sim: float = setting(25.0, "weight of the invariance term", minimum=0)
    std: float = setting(25.0, "weight of the variance term; without it the network collapses", minimum=0)
    cov: float = setting(1.0, "weight of the covariance term; without it dimensions become correlated", minimum=0)


class VICReg(Method):
    """VICReg. Projector (the paper's expander): three linear layers, BN after the first two."""

    Options = VICRegOptions

    def __init__(self, backbone: nn.Module, dim: int, options: VICRegOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.hidden, options.dim], last_bias=False)

    def forward(self, batch: Batch) -> Output:
        o = self.options
        z1, z2 = (gather(self.projector(self.backbone(view)).float()) for view in batch.views)
        return Output(vicreg_loss(z1, z2, o.sim, o.std, o.cov), z1.detach())

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {
            "there is no variance term (std=0)": self.options.std == 0,
            "there is no covariance term (cov=0)": self.options.cov == 0,
        }

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (self.options.std * (1.0 - EPS**0.5),)
