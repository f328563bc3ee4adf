"""W-MSE: Ermolov et al., "Whitening for Self-Supervised Representation Learning", ICML 2021, arXiv:2007.06346.

Embeddings are whitened within parts of the batch, which prevents collapse. The loss aligns the views of each image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool import seeds
from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import SeveralViews, width
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import widest_float, without_autocast


@without_autocast
def whiten(v: Tensor, eps: float = 0.0) -> Tensor:
    """Sec. 3 of arXiv:2007.06346: ``v`` (N, D) with zero mean and, for eps 0, identity covariance (unbiased).

    Uses the inverse Cholesky factor, in float64, of (1 - eps) S + eps I, where S is the covariance.

    Raises:
        SSLToolError: if N <= D and eps is 0, because S is singular; or if the Cholesky factorisation fails, because
            dimensions are linearly dependent or values are not finite.
    """
    if v.dim() != 2 or len(v) < 2:
        raise SSLToolError(f"whiten expects (N, D) with at least 2 rows; found {tuple(v.shape)}")
    n, d = v.shape
    if n <= d and eps == 0.0:
        raise SSLToolError(f"whiten expects more rows than dimensions; found {n} rows and {d} dimensions")
    wide = v.to(widest_float(v.device))
    centred = wide - wide.mean(dim=0)
    covariance = centred.mT @ centred / (n - 1)
    shrunk = (1.0 - eps) * covariance + eps * torch.eye(d, dtype=centred.dtype, device=v.device)
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    # Fraction of each dimension's variance that the previous ones do not explain. Below ``noise`` it is rounding error.
    own = factor.detach().diagonal().square() / shrunk.detach().diagonal()
    noise = d * max(torch.finfo(v.dtype).eps ** 2, 10 * torch.finfo(wide.dtype).eps)
    if bool((failed > 0) | ~(own.min() > noise)):
        variances = covariance.diagonal().detach()
        state = (
            f"variances from {float(variances.min()):.2g} to {float(variances.max()):.2g}"
            if bool(v.detach().isfinite().all())
            else "non-finite values"
        )
        raise SSLToolError(
            f"the embeddings cannot be whitened: the Cholesky factorisation of their {d} x {d} covariance failed, with "
            f"{state}. They are not finite or rank-deficient: lower --lr, increase --warmup-epochs, or try "
            "--set eps=0.01 or a smaller --set dim"
        )
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT.to(v.dtype)


@without_autocast
def wmse_loss(
    views: list[Tensor], w_size: int, generator: torch.Generator | None = None, *, eps: float = 0.0, iterations: int = 1
) -> Tensor:
    """Eq. 4 of arXiv:2007.06346: mean over pairs of views and over images of 2 - 2 cos of the whitened embeddings.

    In [0, 4]. The images are randomly split into parts of ``w_size``, identical for all views. Each part of each view
    is whitened separately; a last incomplete part is dropped.

    Args:
        views: two or more embeddings of the same images, each (N, D).
        w_size: number of images whitened together, more than D and at most N.
        generator: CPU generator for the random split; the global generator if None.
        eps: shrinkage of the covariance towards the identity.
        iterations: number of random splits; the loss is their mean.

    Raises:
        SSLToolError: for invalid shapes or sizes, or embeddings that cannot be whitened.
    """
    if len(views) < 2:
        raise SSLToolError(f"wmse_loss expects two or more views; found {len(views)}")
    check_same_shape("wmse_loss", *views)
    n = len(views[0])
    if w_size < 2 or iterations < 1:
        raise SSLToolError(
            f"wmse_loss expects w_size of at least 2 and iterations of at least 1; found {w_size}, {iterations}"
        )
    if w_size > n:
        raise SSLToolError(f"wmse_loss expects w_size of at most the batch size ({n}); found {w_size}")
    losses = []
    for _ in range(iterations):
        order = torch.randperm(n, generator=generator)[: n // w_size * w_size].to(views[0].device)
        parts = order.split(w_size)
        white = [torch.cat([whiten(view[part], eps) for part in parts]) for view in views]
        losses += [2.0 - 2.0 * F.cosine_similarity(a, b, dim=1).mean() for a, b in combinations(white, 2)]
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class WMSEOptions(SeveralViews):
    """Options of W-MSE. Defaults follow the paper for CIFAR."""

    dim: int = width(64)
    hidden: int = width(1024, "the projector's hidden layer")
    w_size: int = setting(128, "number of images whitened together; more than dim, at most the batch size", minimum=2)
    w_iter: int = setting(1, "number of random splits of a batch into such parts", minimum=1, maximum=10_000)
    eps: float = setting(0.0, "shrinkage of the covariance towards the identity", minimum=0, maximum=1)


class WMSE(Method):
    """W-MSE. Projector: a hidden layer with BN and a linear layer."""

    Options = WMSEOptions

    def __init__(self, backbone: nn.Module, dim: int, options: WMSEOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        if options.w_size <= options.dim and options.eps == 0:
            raise SSLToolError(
                f"--set w_size={options.w_size} must be larger than dim={options.dim}: the covariance would be "
                "singular; raise w_size, lower dim, or try eps=0.01"
            )
        if options.w_size > run.batch_size:
            raise SSLToolError(
                f"--set w_size={options.w_size} must be at most the batch size ({run.batch_size}); lower w_size and "
                "dim, or raise --batch-size"
            )
        self.min_batch_size = options.w_size
        self.projector = mlp([dim, options.hidden, options.dim])

    def forward(self, batch: Batch) -> Output:
        views = [gather(self.projector(self.backbone(view)).float()) for view in batch.views]
        return Output(self._loss(views), views[0].detach())

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the split of the batch depends on the step
    def _loss(self, views: list[Tensor]) -> Tensor:
        o = self.options
        generator = seeds.generator(self.run.seed, *self.now, seeds.Stream.WHITENING)
        return wmse_loss(views, o.w_size, generator, eps=o.eps, iterations=o.w_iter)

    def warnings(self) -> list[str]:
        found = super().warnings()
        if self.options.w_size < 2 * self.options.dim:
            found.append(
                f"w_size={self.options.w_size} is less than twice dim={self.options.dim}: whitening is unstable for "
                "so few images; the paper uses twice the dimension"
            )
        return found

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {"embeddings are not whitened (eps=1)": self.options.eps == 1}
