"""SimCLR: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020,
arXiv:2002.05709.

The two views of an image shall be more alike than any of them is to the 2 N - 2 views of other images in the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.methods.base import Method, Output, RunFacts, same_shapes
from ssltool.methods.options import MethodOptions, temperature, width
from ssltool.models.heads import mlp
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@without_autocast
def nt_xent_loss(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """Eq. 1 of arXiv:2002.05709, the mean over all 2 N views (Google's code adds the two halves' means: twice this).

    With N images the loss is ln(2 N - 1) where all rows are equal.

    Args:
        z1, z2: projections of two views, each (N, D), of any length.
        temperature: what cosines are divided by.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    same_shapes("nt_xent_loss", z1, z2)
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.mT / temperature).masked_fill(itself, -torch.inf)
    other_view = torch.arange(len(z), device=z.device).roll(len(z1))
    return F.cross_entropy(logits, other_view)


@dataclass(frozen=True)
class SimCLROptions(MethodOptions):
    """The method's options."""

    dim: int = width(128)
    hidden: int = width(2048, "the projector's hidden layer")
    temperature: float = temperature(0.5)


class SimCLR(Method):
    """Projector: a hidden layer and a last one, both with BN; Google's last BN also
    learns a scale."""

    Options = SimCLROptions

    def __init__(self, backbone: nn.Module, dim: int, options: SimCLROptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.dim], last_bn=True, last_bias=False)

    def forward(self, batch: Batch) -> Output:
        z1, z2 = (gather(self.projector(self.backbone(view)).float()) for view in batch.views)
        return Output(nt_xent_loss(z1, z2, self.options.temperature), z1.detach())

    @property
    def collapsed_losses(self) -> tuple[float, ...]:
        return (math.log(2 * self.run.batch_size - 1),)
