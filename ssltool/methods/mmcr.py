"""MMCR: Yerxa et al., "Learning Efficient Coding of Natural Images with Maximum Manifold Capacity Representations",
NeurIPS 2023, arXiv:2303.03307.

The loss maximises the nuclear norm of the matrix of the images' centroids: long centroids align the views of an image,
and many equal singular values spread the images. With the Frobenius norm instead (``--set norm=frobenius``) only the
alignment is left, and all embeddings become equal.
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
from ssltool.methods.parts.multicrop import forward_concatenated
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@without_autocast
def mmcr_loss(views: list[Tensor], lambd: float = 0.0, norm: str = "nuclear") -> Tensor:
    """The loss of arXiv:2303.03307: -|C|_* + lambd * mean over images i of |Z_i|_*.

    C (N, D) has the mean of each image's V embeddings of length 1, and Z_i (V, D) the embeddings themselves. In
    [-sqrt(N min(N, D)), 0] for ``lambd`` 0; -sqrt(N) + lambd * sqrt(V) for equal embeddings.

    Args:
        views: embeddings of V views of the same images, each (N, D).
        lambd: weight of the nuclear norms within images.
        norm: of C, "nuclear" or "frobenius".

    Raises:
        SSLToolError: for fewer than two views, different shapes, or embeddings that are not finite.
    """
    if len(views) < 2:
        raise SSLToolError(f"mmcr_loss expects two or more views; found {len(views)}")
    check_same_shape("mmcr_loss", *views)
    z = F.normalize(torch.stack(views, dim=1), dim=2)
    centroids = z.mean(dim=1)
    of_centroids = _nuclear_norms(centroids) if norm == "nuclear" else torch.linalg.matrix_norm(centroids)
    return -of_centroids + (lambd * _nuclear_norms(z).mean() if lambd else 0.0)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # the check reads a value
def _nuclear_norms(matrices: Tensor) -> Tensor:
    """The sums of the singular values of ``matrices`` (..., M, N). The gradient U V^T has no differences of singular
    values in a denominator."""
    if not bool(matrices.detach().isfinite().all()):
        raise SSLToolError(
            "the embeddings are not finite, so that they have no singular values; lower --lr, or increase "
            "--warmup-epochs"
        )
    return torch.linalg.svdvals(matrices).sum(dim=-1)


@dataclass(frozen=True)
class MMCROptions(SeveralViews):
    """Options of MMCR. Defaults follow the released code for CIFAR-10, except for its 40 views (``n_augs``)."""

    dim: int = width(128)
    hidden: int = width(512, "the projector's hidden layer")
    lambd: float = setting(0.0, "weight of the nuclear norms within images", minimum=0)
    norm: str = setting(
        "nuclear",
        "norm of the centroids that is maximised; with frobenius the network collapses",
        choices=("nuclear", "frobenius"),
    )


class MMCR(Method):
    """MMCR. Projector: a hidden layer with BN and a linear layer. All views share batch statistics."""

    Options = MMCROptions

    def __init__(self, backbone: nn.Module, dim: int, options: MMCROptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim], last_bias=False)

    def forward(self, batch: Batch) -> Output:
        views = forward_concatenated(lambda view: self.projector(self.backbone(view)).float(), batch.views)
        together = gather(torch.stack(views, dim=1)).unbind(dim=1)
        return Output(mmcr_loss(list(together), self.options.lambd, self.options.norm), views[0].detach())

    def collapse_causes(self) -> dict[str, bool]:
        cause = "the Frobenius norm does not spread the images (norm=frobenius)"
        return super().collapse_causes() | {cause: self.options.norm == "frobenius"}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (self.options.lambd * self.options.n_augs**0.5 - self.run.batch_size**0.5,)
