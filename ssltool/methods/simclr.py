"""SimCLR: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
arXiv:2002.05709.

The two views of an image are contrasted with the 2 N - 2 views of the other images in the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import MethodOptions, temperature, width
from ssltool.models.heads import mlp
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@without_autocast
def nt_xent_loss(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """Eq. 1 of arXiv:2002.05709, averaged over all 2 N views. Google's code sums the means of both halves: twice this.

    For N images the loss is ln(2 N - 1) if all rows are equal.

    Args:
        z1, z2: projections of two views, each (N, D), not necessarily normalised.
        temperature: divides the cosines.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    check_same_shape("nt_xent_loss", z1, z2)
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


class SimCLR(Method):
    """SimCLR. Projector: a hidden layer and an output layer, both with BN. In Google's code the last BN also learns a
    scale."""

    Options = SimCLROptions

    def __init__(self, backbone: nn.Module, dim: int, options: SimCLROptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim], last_bn=True, last_bias=False)

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (gather(self.projector(self.backbone(view)).float()) for view in batch.views)
        return Output(nt_xent_loss(z1, z2, self.options.temperature), z1.detach())

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (math.log(2 * self.run.batch_size - 1),)
