"""VISReg: Wu, Balestriero and Levine, "VISReg: Variance-Invariance-Sketching Regularization for JEPA training",
arXiv:2606.02572.

All views of an image predict the mean of its global views. The regularisation keeps the mean of each dimension at 0
(centre), its standard deviation at 1 (scale), and random slices of the standardised embeddings normal (shape). Without
the scale term (``--set scale=0``) nothing keeps the embeddings from shrinking to one point.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.diagnosis.slices import squared_w2
from ssltool.methods.options import Ineffective, MultiCrop, width
from ssltool.methods.parts.global_views import (
    GlobalViewsMethod,
    check_views,
    global_invariance,
    global_views,
    lambd,
    slices,
)
from ssltool.settings import setting
from ssltool.training.precision import without_autocast

EPS = 1e-6
"""Added to the standard deviations, as in the released code."""


@without_autocast
def visreg_loss(
    views: list[Tensor],
    directions: Tensor,
    n_global: int = 4,
    lambd: float = 0.9,
    *,
    scale: float = 1.0,
    shape: float = 1.0,
    center: float = 1.0,
) -> Tensor:
    """Algorithm 1 of arXiv:2606.02572; at least 0.

    (1 - lambd) * mean over views, rows and dimensions of (z_v - mu)^2 + lambd * mean over views of R(z_v), where mu is
    the mean of the global views, and R is ``visreg_regularisation``.

    Args:
        views: embeddings z_v of all V views, the global ones first, each (N, D), N at least 2.
        directions: unit directions of the slices, (D, K).
        n_global: number of global views.
        lambd: weight of the regularisation, from 0 to 1.
        scale, shape, center: weights of the terms of the regularisation.

    Raises:
        SSLToolError: for fewer than two views, or wrong shapes.
    """
    check_views("visreg_loss", views, directions, n_global)
    terms = [visreg_regularisation(z, directions, scale, shape, center) for z in views]
    return (1.0 - lambd) * global_invariance(views, n_global) + lambd * torch.stack(terms).mean()


def visreg_regularisation(
    z: Tensor, directions: Tensor, scale: float = 1.0, shape: float = 1.0, center: float = 1.0
) -> Tensor:
    """Eq. 1, 5 and 6 of arXiv:2606.02572 for the rows ``z`` (N, D) and ``directions`` (D, K); at least 0.

    scale * mean (1 - sd_j)^2 + shape * sliced W2 + center * mean m_j^2, where m and sd are the means and standard
    deviations (denominator N, plus 1e-6) of the dimensions j. The sliced W2 is the mean squared distance of the slices
    of (z - m) / sd to the quantiles of a standard normal; its gradient does not reach sd.
    """
    m = z.mean(dim=0)
    centred = z - m
    sd = torch.linalg.vector_norm(centred, dim=0) / len(z) ** 0.5 + EPS  # its gradient for equal rows is 0, not NaN
    sliced_w2 = squared_w2(centred / sd.detach() @ directions).mean()
    return scale * (1.0 - sd).square().mean() + shape * sliced_w2 + center * m.square().mean()


@dataclass(frozen=True)
class VISRegOptions(MultiCrop):
    """Options of VISReg. Defaults follow the released code for ImageNet."""

    dim: int = width(256)
    hidden: int = width(2048, "the projector's hidden layers")
    lambd: float = lambd(0.9)
    scale: float = setting(1.0, "weight of the scale term; without it the network can collapse", minimum=0)
    shape: float = setting(1.0, "weight of the shape term; without it dimensions become correlated", minimum=0)
    center: float = setting(1.0, "weight of the centre term", minimum=0)
    slices: int = slices(4096)
    global_views: int = global_views(4)

    def ineffective(self) -> list[Ineffective]:
        return [
            *super().ineffective(),
            Ineffective(("scale", "shape", "center"), self.lambd == 0, "lambd=0"),
            Ineffective(("slices",), self.shape == 0, "shape=0"),
        ]


class VISReg(GlobalViewsMethod):
    """VISReg; the embeddings are the outputs of the projector."""

    Options = VISRegOptions

    def loss(self, views: list[Tensor], directions: Tensor) -> Tensor:
        o = self.options
        return visreg_loss(views, directions, o.global_views, o.lambd, scale=o.scale, shape=o.shape, center=o.center)

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {
            "there is no scale term (scale=0)": self.options.scale == 0,
            "there is no shape term (shape=0)": self.options.shape == 0,
        }

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        """The least loss of constant outputs, which are then 0."""
        o = self.options
        rows, directions = torch.zeros(self.run.batch_size, 1), torch.ones(1, 1)
        return (float(o.lambd * visreg_regularisation(rows, directions, o.scale, o.shape, o.center)),)
