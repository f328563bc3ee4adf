"""DirectCLR: Jing, Vincent, LeCun and Tian, "Understanding Dimensional Collapse in Contrastive Self-supervised
Learning", ICLR 2022, arXiv:2110.09348.

Contrastive learning without a projector: the loss sees only the first d0 dimensions of the representation. If it sees
all of them (``--set dim=`` the backbone's width), the representation has a dimensional collapse, like that of SimCLR
without a projector. Without negatives (``--set negatives=false``) it collapses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import AsymmetricViews, negatives, temperature
from ssltool.methods.parts.matching import NO_NEGATIVES, info_nce
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

SHARE = 360 / 2048
"""The part of the representation that the loss sees: 360 dimensions of a ResNet-50."""


@without_autocast
def directclr_loss(r1: Tensor, r2: Tensor, d0: int, temperature: float = 0.1, *, negatives: bool = True) -> Tensor:
    """InfoNCE of z = r[0 : d0] in both directions, averaged; arXiv:2110.09348 and its released code.

    The negatives of a row are the other images' rows of the other view. For N images the loss is ln N if all rows are
    equal.

    Args:
        r1, r2: representations of two views, each (N, D), not necessarily normalised.
        d0: the dimensions that the loss sees, from 1 to D.
        temperature: divides the cosines.
        negatives: whether the other images repel; otherwise the loss is the mean of -cosine / temperature.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D), or ``d0`` is out of range.
    """
    check_same_shape("directclr_loss", r1, r2)
    if not 1 <= d0 <= r1.shape[1]:
        raise SSLToolError(f"directclr_loss: d0 is {d0}; it must be from 1 to the {r1.shape[1]} dimensions of the rows")
    z1, z2 = r1[:, :d0], r2[:, :d0]
    first = info_nce(z1, z2, temperature, negatives=negatives)
    return 0.5 * (first + info_nce(z2, z1, temperature, negatives=negatives))


@dataclass(frozen=True)
class DirectCLROptions(AsymmetricViews):
    """Options of DirectCLR. Defaults follow the paper, except for its views (``asymmetric``)."""

    dim: int | None = setting(
        None,
        "first dimensions of the representation that the loss sees [default: 360 of 2048, or that part]",
        minimum=1,
    )
    temperature: float = temperature(0.1)
    negatives: bool = negatives()


class DirectCLR(Method):
    """DirectCLR. There is no projector.

    Raises:
        UsageError: if ``dim`` is larger than the representation.
    """

    Options = DirectCLROptions

    def __init__(self, backbone: nn.Module, dim: int, options: DirectCLROptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.d0 = max(1, round(SHARE * dim)) if options.dim is None else options.dim
        if self.d0 > dim:
            raise UsageError(f"--set dim={self.d0}: the backbone's output has {dim} dimensions; lower it")

    def forward(self, batch: Batch) -> Output:
        o = self.options
        r1, r2 = (gather(self.backbone(view).float()) for view in batch.views)
        return Output(directclr_loss(r1, r2, self.d0, o.temperature, negatives=o.negatives), r1[:, : self.d0].detach())

    def collapse_causes(self) -> dict[str, bool]:
        whole = f"the loss acts on the whole representation, without a projector (dim={self.d0})"
        return super().collapse_causes() | {
            NO_NEGATIVES: not self.options.negatives,
            whole: self.d0 == self.backbone_dim,
        }

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        o = self.options
        return (math.log(self.run.batch_size) if o.negatives else -1.0 / o.temperature,)
