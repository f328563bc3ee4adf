"""SimCLR: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
arXiv:2002.05709.

The two views of an image are contrasted with the 2 N - 2 views of the other images in the batch. Without these
negatives (``--set negatives=false``) the network collapses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import MethodOptions, negatives, temperature, width
from ssltool.methods.parts.matching import NO_NEGATIVES, attraction
from ssltool.models.heads import mlp
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@without_autocast
def nt_xent_loss(z1: Tensor, z2: Tensor, temperature: float = 0.5, *, negatives: bool = True) -> Tensor:
    """Eq. 1 of arXiv:2002.05709, averaged over all 2 N views. Google's code sums the means of both halves: twice this.

    For N images the loss is ln(2 N - 1) if all rows are equal.

    Args:
        z1, z2: projections of two views, each (N, D), not necessarily normalised.
        temperature: divides the cosines.
        negatives: whether the other images repel; otherwise the loss is the mean of -cosine / temperature of the two
            views, which equal rows minimise.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    check_same_shape("nt_xent_loss", z1, z2)
    if not negatives:
        return attraction(z1, z2, temperature)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    diagonal = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.mT / temperature).masked_fill(diagonal, -torch.inf)
    other_view = torch.arange(len(z), device=z.device).roll(len(z1))
    return F.cross_entropy(logits, other_view)


@dataclass(frozen=True)
class SimCLROptions(MethodOptions):
    """Options of SimCLR."""

    dim: int = width(128)
    hidden: int = width(2048, "the projector's hidden layer")
    temperature: float = temperature(0.5)
    negatives: bool = negatives()


class SimCLR(Method):
    """SimCLR. Projector: a hidden layer and an output layer, both with BN. In Google's code the last BN also learns a
    scale."""

    Options = SimCLROptions

    def __init__(self, backbone: nn.Module, dim: int, options: SimCLROptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim], last_bn=True, last_bias=False)

    def forward(self, batch: Batch) -> Output:
        o = self.options
        z1, z2 = (gather(self.projector(self.backbone(view)).float()) for view in batch.views)
        return Output(nt_xent_loss(z1, z2, o.temperature, negatives=o.negatives), z1.detach())

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {NO_NEGATIVES: not self.options.negatives}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        o = self.options
        return (math.log(2 * self.run.batch_size - 1) if o.negatives else -1.0 / o.temperature,)
