"""LeJEPA: Balestriero and LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics",
arXiv:2511.08544.

All views of an image predict the mean of its global views, and SIGReg keeps the embeddings of each view standard
normal. There is no teacher and no stop-gradient: without SIGReg (``--set lambd=0``) all embeddings become equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.diagnosis.slices import epps_pulley
from ssltool.methods.options import MultiCrop, width
from ssltool.methods.parts.global_views import (
    GlobalViewsMethod,
    check_views,
    global_invariance,
    global_views,
    lambd,
    slices,
)
from ssltool.methods.parts.sigreg import sigreg
from ssltool.training.precision import without_autocast


@without_autocast
def lejepa_loss(views: list[Tensor], directions: Tensor, n_global: int = 2, lambd: float = 0.05) -> Tensor:
    """Algorithm 2 of arXiv:2511.08544; at least 0.

    (1 - lambd) * mean over views, rows and dimensions of (z_v - mu)^2 + lambd * mean over views of SIGReg(z_v), where
    mu is the mean of the global views. SIGReg is a sum over rows: for N equal rows it is at least 0.40 N.

    Args:
        views: embeddings z_v of all V views, the global ones first, each (N, D), N at least 2.
        directions: unit directions of the slices, (D, K).
        n_global: number of global views.
        lambd: weight of SIGReg, from 0 to 1.

    Raises:
        SSLToolError: for fewer than two views, or wrong shapes.
    """
    check_views("lejepa_loss", views, directions, n_global)
    regularisation = torch.stack([sigreg(z, directions) for z in views]).mean()
    return (1.0 - lambd) * global_invariance(views, n_global) + lambd * regularisation


@dataclass(frozen=True)
class LeJEPAOptions(MultiCrop):
    """Options of LeJEPA. Defaults follow the paper and the released code."""

    dim: int = width(512)
    hidden: int = width(2048, "the projector's hidden layers")
    lambd: float = lambd(0.05)
    slices: int = slices(1024)
    global_views: int = global_views(2)


class LeJEPA(GlobalViewsMethod):
    """LeJEPA; the embeddings are the outputs of the projector."""

    Options = LeJEPAOptions

    def loss(self, views: list[Tensor], directions: Tensor) -> Tensor:
        return lejepa_loss(views, directions, self.options.global_views, self.options.lambd)

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        """The least loss of constant outputs, which are then 0."""
        rows = torch.zeros(self.run.batch_size, 1)
        return (float(self.options.lambd * epps_pulley(rows)),)
