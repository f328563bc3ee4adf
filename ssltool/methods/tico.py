"""TiCo: Zhu et al., "TiCo: Transformation Invariance and Covariance Contrast for Self-Supervised Visual Representation
Learning", arXiv:2206.10698.

The embedding of a view is aligned with a momentum teacher's embedding of the other view. It is kept away from the
directions in which recent embeddings are large, by a moving average of their second moments. Without that term
(``--set rho=0``) the network collapses, because it has no predictor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Output, RunFacts, check_same_shape
from ssltool.methods.options import AsymmetricViews, Ineffective, momentum, momentum_final, width
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@without_autocast
def tico_loss(z: Tensor, t: Tensor, c: Tensor, beta: float = 0.9, rho: float = 8.0) -> Tensor:
    """The loss of arXiv:2206.10698: -mean cos(z, t) + rho * mean z^T C z; in [-1, 1 + rho].

    C = beta * c + (1 - beta) * Z^T Z / N is the moving average of the second moments, of this batch too. z and t are
    L2-normalised. The gradient reaches all factors z.

    Args:
        z: embeddings of a view, (N, D).
        t: the teacher's embeddings of another view, (N, D); detached.
        c: the moving average up to the previous batch, (D, D).
        beta: its momentum.
        rho: weight of the covariance contrast.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D), or ``c`` is not (D, D).
    """
    check_same_shape("tico_loss", z, t)
    if c.shape != (z.shape[1], z.shape[1]):
        raise SSLToolError(f"tico_loss expects c of shape {(z.shape[1], z.shape[1])}; found {tuple(c.shape)}")
    z, t = F.normalize(z, dim=1), F.normalize(t.detach(), dim=1)
    average = beta * c + (1.0 - beta) * second_moment(z)
    return -(z * t).sum(dim=1).mean() + rho * (z @ average * z).sum(dim=1).mean()


@without_autocast
def second_moment(z: Tensor) -> Tensor:
    """Z^T Z / N (D, D) of the rows (N, D), which are L2-normalised."""
    z = F.normalize(z, dim=1)
    return z.mT @ z / len(z)


@dataclass(frozen=True)
class TiCoOptions(AsymmetricViews):
    """Options of TiCo. Defaults follow the paper, except for its views (``asymmetric``)."""

    dim: int = width(256)
    hidden: int = width(4096, "the projector's hidden layer")
    rho: float = setting(8.0, "weight of the covariance contrast; without it the network collapses", minimum=0)
    beta: float = setting(0.9, "momentum of the average of the second moments", minimum=0, maximum=1)
    momentum: float = momentum(0.99)
    momentum_final: float | None = momentum_final(1.0)

    def ineffective(self) -> list[Ineffective]:
        return [Ineffective(("beta",), self.rho == 0, "rho=0")]


class TiCo(MomentumMethod):
    """TiCo. Projector: a hidden layer with BN and a linear layer. The first view is the network's, the second the
    teacher's."""

    Options = TiCoOptions
    covariance: Tensor

    def __init__(self, backbone: nn.Module, dim: int, options: TiCoOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim])
        self.make_teacher()
        self.register_buffer("covariance", torch.zeros(options.dim, options.dim))

    def forward(self, batch: Batch) -> Output:
        o = self.options
        first, second = batch.views
        z = gather(self.projector(self.backbone(first)).float())
        loss = tico_loss(z, gather(self.teacher_forward(second)), self.covariance, o.beta, o.rho)
        return Output(loss, z.detach())

    @torch.no_grad()
    def update_buffers(self, output: Output) -> None:
        self.covariance.lerp_(second_moment(output.projection), 1.0 - self.options.beta)

    def collapse_causes(self) -> dict[str, bool]:
        o = self.options
        return super().collapse_causes() | {
            "there is no covariance contrast (rho=0)": o.rho == 0,
            "the average of the second moments stays 0 (beta=1)": o.rho > 0 and o.beta == 1,
        }

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        """When the average has become that of the constant output."""
        return (self.options.rho * (self.options.beta < 1) - 1.0,)
