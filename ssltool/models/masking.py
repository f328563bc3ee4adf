"""The patches that a vision transformer sees of an image: all, some of them, or mask tokens in the place of others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Masking(NamedTuple):
    """Which of the P patches of each of N images a transformer sees. Patches are counted from 0, row by row.

    Attributes:
        masked: (N, P) bool, the patches whose embedding ``mask_token`` replaces before positions are added, as in iBOT.
        mask_token: (D,), trained by the method.
        kept: (N, K) int64, the numbers of the patches that enter the first block, in their order; others are left out
            (MAE, I-JEPA). The class token and the registers always enter it.
    """

    masked: Tensor | None = None
    mask_token: Tensor | None = None
    kept: Tensor | None = None

    def replace(self, patches: Tensor) -> Tensor:
        """The embeddings ``patches`` (N, P, D), without positions, with the mask token in the place of those masked."""
        if self.masked is None or self.mask_token is None:
            return patches
        return torch.where(self.masked.unsqueeze(2), self.mask_token.to(patches.dtype), patches)

    def select(self, patches: Tensor) -> Tensor:
        """The kept ones (N, K, D) of ``patches`` (N, P, D)."""
        return patches if self.kept is None else take(patches, self.kept)


NOTHING = Masking()
"""All patches are seen."""


def take(patches: Tensor, numbers: Tensor) -> Tensor:
    """The rows ``numbers`` (N, K) of each image's ``patches`` (N, P, D): (N, K, D)."""
    return patches.gather(1, numbers.unsqueeze(2).expand(-1, -1, patches.shape[2]))
