"""FroSSL: Skean et al., "FroSSL: Frobenius Norm Minimization for Efficient Multiview Self-Supervised Learning",
ECCV 2024, arXiv:2310.02903.

The loss minimises the Frobenius norm of each view's normalised covariance, which spreads its eigenvalues, and aligns
the views with their mean. Without the norm (``--set frobenius=0``) all embeddings can become equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import SeveralViews, width
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

PUBLISHED_RATIO = 4
"""The width of the embeddings relative to the batch, in the released settings: 1024 and 256."""


@without_autocast
def frossl_loss(views: list[Tensor], sim: float = 1.0, frobenius: float = 1.0) -> Tensor:
    """Eq. 3 and 6 of arXiv:2310.02903 for V views, with the conventions of the released code.

    The sum over views of frobenius * log |C_v / tr C_v|_F^2 + sim * V * (mean over rows of |z_v - mean of views|^2),
    where C_v = Z_v^T Z_v, and each dimension of a view is scaled to length 1 over the batch, but not centred. At least
    -V * frobenius * log min(N, D), and at most 0 for equal views.

    Args:
        views: embeddings of V views of the same images, each (N, D).
        sim, frobenius: weights of the invariance and of the Frobenius norm.

    Raises:
        SSLToolError: for fewer than two views, or different shapes.
    """
    if len(views) < 2:
        raise SSLToolError(f"frossl_loss expects two or more views; found {len(views)}")
    check_same_shape("frossl_loss", *views)
    z = F.normalize(torch.stack(views), dim=1)
    invariance = len(views) * (z - z.mean(dim=0)).square().sum(dim=2).mean(dim=1)
    return (frobenius * _log_norm(z) + sim * invariance).sum()


def _log_norm(z: Tensor) -> Tensor:
    """log |C / tr C|_F^2 (V,) of each of V views ``z`` (V, N, D), from the smaller of C = Z^T Z and Z Z^T."""
    c = z.mT @ z if z.shape[1] > z.shape[2] else z @ z.mT
    trace = c.diagonal(dim1=1, dim2=2).sum(dim=1)
    return (c.square().sum(dim=(1, 2)) / trace.square()).log()


@dataclass(frozen=True)
class FroSSLOptions(SeveralViews):
    """Options of FroSSL. Defaults follow the released code for CIFAR-10."""

    dim: int = width(1024)
    hidden: int = width(2048, "the projector's hidden layers")
    sim: float = setting(1.0, "weight of the invariance term", minimum=0)
    frobenius: float = setting(1.0, "weight of the Frobenius norm; without it the network can collapse", minimum=0)


class FroSSL(Method):
    """FroSSL. Projector: three linear layers, BN after the first two."""

    Options = FroSSLOptions

    def __init__(self, backbone: nn.Module, dim: int, options: FroSSLOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.hidden, options.dim])

    def forward(self, batch: Batch) -> Output:
        views = [gather(self.projector(self.backbone(view)).float()) for view in batch.views]
        return Output(frossl_loss(views, self.options.sim, self.options.frobenius), views[0].detach())

    def warnings(self) -> list[str]:
        dim, batch = self.options.dim, self.run.batch_size
        found = super().warnings()
        if dim > PUBLISHED_RATIO * batch:
            found.append(
                f"dim={dim} is {dim / batch:.3g} times the batch size ({batch}), {PUBLISHED_RATIO} times in published "
                "runs: the invariance term grows with that and can outweigh the Frobenius norm; try --set "
                f"dim={PUBLISHED_RATIO * batch}"
            )
        return found

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {"there is no Frobenius norm (frobenius=0)": self.options.frobenius == 0}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (0.0,)
