"""W-MSE: Ermolov et al., "Whitening for Self-Supervised Representation Learning", ICML 2021, arXiv:2007.06346.

Embeddings are whitened over a part of the batch, so they cannot collapse, and the views of an image shall agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool import seeds
from ssltool.data.loader import Batch
from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, RunFacts, same_shapes
from ssltool.methods.options import MethodOptions, width
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import widest, without_autocast


@without_autocast
def whiten(v: Tensor, eps: float = 0.0) -> Tensor:
    """Sec. 3 of arXiv:2007.06346: ``v`` (N, D) with mean 0 and, at eps 0, covariance the identity (N - 1 below).

    By the inverse Cholesky factor, in float64, of (1 - eps) S + eps I, S the covariance.

    Raises:
        SSLToolError: unless N > D, without which no covariance of N rows can be inverted, or eps > 0; or if the
            covariance has no Cholesky factor, because dimensions repeat each other or the values are not finite.
    """
    if v.dim() != 2 or len(v) < 2:
        raise SSLToolError(f"whiten takes (N, D) with 2 rows or more; found {tuple(v.shape)}")
    n, d = v.shape
    if n <= d and eps == 0.0:
        raise SSLToolError(f"{n} rows cannot be whitened in {d} dimensions; there must be more rows than dimensions")
    wide = v.to(widest(v.device))
    centred = wide - wide.mean(dim=0)
    covariance = centred.mT @ centred / (n - 1)
    shrunk = (1.0 - eps) * covariance + eps * torch.eye(d, dtype=centred.dtype, device=v.device)
    factor, failed = torch.linalg.cholesky_ex(shrunk)
    # The share of each dimension that the earlier ones do not explain; below this it is the rounding of ``v``.
    own = factor.detach().diagonal().square() / shrunk.detach().diagonal()
    noise = d * max(torch.finfo(v.dtype).eps ** 2, 10 * torch.finfo(wide.dtype).eps)
    if bool((failed > 0) | ~(own.min() > noise)):
        variances = covariance.diagonal().detach()
        state = (
            f"variances from {float(variances.min()):.2g} to {float(variances.max()):.2g}"
            if bool(v.detach().isfinite().all())
            else "values that are not finite"
        )
        raise SSLToolError(
            f"the embeddings cannot be whitened: the Cholesky factorisation of their {d} x {d} covariance fails, with "
            f"{state}. They are broken or have lost dimensions: lower --lr, lengthen --warmup-epochs, or try "
            "--set eps=0.01 or a smaller --set dim"
        )
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT.to(v.dtype)


@without_autocast
def wmse_loss(
    views: list[Tensor], w_size: int, generator: torch.Generator | None = None, *, eps: float = 0.0, iterations: int = 1
) -> Tensor:
    """Eq. 4 of arXiv:2007.06346: mean over pairs of views and over images of 2 - 2 cos of the whitened embeddings.

    In [0, 4]. The images are dealt at random into parts of ``w_size``, the same for all views, and each part of each
    view is whitened by itself; images left over after the last whole part are not used.

    Args:
        views: two or more embeddings of the same images, each (N, D).
        w_size: images whitened together, more than D and at most N.
        generator: a CPU generator that deals the images; torch's global one if None.
        eps: shrinks the covariance towards the identity.
        iterations: how often the images are dealt anew; the loss is the mean.

    Raises:
        SSLToolError: for shapes or sizes that do not fit, or embeddings that cannot be whitened.
    """
    if len(views) < 2:
        raise SSLToolError(f"wmse_loss takes two or more views; found {len(views)}")
    same_shapes("wmse_loss", *views)
    n = len(views[0])
    if w_size < 2 or iterations < 1:
        raise SSLToolError(
            f"wmse_loss takes w_size of 2 or more and iterations of 1 or more; found {w_size}, {iterations}"
        )
    if w_size > n:
        raise SSLToolError(f"parts of w_size={w_size} images cannot be cut from a batch of {n}")
    losses = []
    for _ in range(iterations):
        order = torch.randperm(n, generator=generator)[: n // w_size * w_size].to(views[0].device)
        parts = order.split(w_size)
        white = [torch.cat([whiten(view[part], eps) for part in parts]) for view in views]
        losses += [2.0 - 2.0 * F.cosine_similarity(a, b, dim=1).mean() for a, b in combinations(white, 2)]
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class WMSEOptions(MethodOptions):
    """The method's options; the defaults are the paper's for CIFAR."""

    dim: int = width(64)
    hidden: int = width(1024, "the projector's hidden layer")
    w_size: int = setting(128, "images that are whitened together; more than dim, at most the batch", minimum=2)
    w_iter: int = setting(1, "times that a batch is dealt into such parts", minimum=1)
    eps: float = setting(0.0, "shrinks the covariance towards the identity", minimum=0, maximum=1)
    n_augs: int = setting(2, "views of each image; the loss is the mean over their pairs", minimum=2)


class WMSE(Method):
    """Projector: a hidden layer with BN, and a linear one."""

    Options = WMSEOptions

    def __init__(self, backbone: nn.Module, dim: int, options: WMSEOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        if options.w_size <= options.dim and options.eps == 0:
            raise SSLToolError(
                f"--set w_size={options.w_size} is not larger than dim={options.dim}: so few images cannot be whitened "
                "in so many dimensions; raise w_size, lower dim, or try eps=0.01"
            )
        if options.w_size > run.batch_size:
            raise SSLToolError(
                f"--set w_size={options.w_size} is more than the batch of {run.batch_size}; lower w_size and dim, or "
                "raise --batch-size"
            )
        self.smallest_batch = options.w_size
        self.projector = mlp([dim, options.hidden, options.dim])

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        return [base] * self.options.n_augs

    def forward(self, batch: Batch) -> Output:
        o = self.options
        views = [gather(self.projector(self.backbone(view)).float()) for view in batch.views]
        generator = seeds.generator(self.run.seed, *self.now, seeds.Stream.WHITENING)
        return Output(wmse_loss(views, o.w_size, generator, eps=o.eps, iterations=o.w_iter), views[0].detach())

    def warnings(self) -> list[str]:
        found = super().warnings()
        if self.options.w_size < 2 * self.options.dim:
            found.append(
                f"w_size={self.options.w_size} is less than twice dim={self.options.dim}: whitening so few images is "
                "unstable; the paper's is twice the dimension"
            )
        return found

    def causes(self) -> dict[str, bool]:
        return super().causes() | {"nothing is whitened (eps=1)": self.options.eps == 1}
