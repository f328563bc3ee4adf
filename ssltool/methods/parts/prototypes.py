"""What the clustering methods share: unit prototypes, and the sign that nothing is being told apart."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.methods.base import is_near
from ssltool.training.precision import without_autocast


class Prototypes(nn.Module):
    """``count`` directions in ``dim`` dimensions; maps unit rows (N, dim) to cosines (N, count)."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        """Scales every prototype to length 1."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, rows: Tensor) -> Tensor:
        return cosines(rows.float(), self.weight)


@without_autocast
def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Products (N, K) of unit rows (N, D) and (K, D), in their own precision: assignments feel the last digits."""
    return rows @ others.mT


def stuck_at_uniform(loss: float, count: int, epoch: int, remedy: str) -> str | None:
    """The warning for a loss that, after the first epoch, is still that of answering all ``count`` prototypes alike."""
    uniform = math.log(count)
    if epoch == 0 or not is_near(loss, uniform):
        return None
    return (
        f"the loss is {loss:.3f}, and ln {count} = {uniform:.3f} is what a network has that gives all {count} "
        f"prototypes the same probability whatever the image: nothing is told apart. {remedy}"
    )
