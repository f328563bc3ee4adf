"""Components of the clustering methods: unit prototypes, and a warning about uniform assignments."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.diagnosis.alarms import is_close
from ssltool.training.precision import without_autocast


class Prototypes(nn.Module):
    """``count`` unit vectors of width ``dim``; maps unit rows (N, dim) to cosines (N, count)."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.normalise()

    @torch.no_grad()
    def normalise(self) -> None:
        """L2-normalises the prototypes."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, rows: Tensor) -> Tensor:
        return cosines(rows.float(), self.weight)


@without_autocast
def cosines(rows: Tensor, others: Tensor) -> Tensor:
    """Products (N, K) of unit rows (N, D) and (K, D). Without autocast, because assignments depend on the precision."""
    return rows @ others.mT


def uniform_loss_warning(loss: float, count: int, epoch: int, remedy: str, cross_entropies: float = 1.0) -> str | None:
    """A warning if, after the first epoch, the loss is still that of a uniform output over ``count`` prototypes;
    ``cross_entropies`` is the sum of the weights of the cross-entropies in the loss."""
    uniform = cross_entropies * math.log(count)
    if epoch == 0 or not is_close(loss, uniform):
        return None
    formula = f"ln {count}" if cross_entropies == 1 else f"{cross_entropies:.3g} ln {count}"
    return (
        f"the loss of {loss:.3f} is that of a uniform output over {count} prototypes ({formula} = {uniform:.3f}): "
        f"the network does not distinguish images. {remedy}"
    )
