"""EMP-SSL: Tong, Chen, Ma and LeCun, "EMP-SSL: Towards Self-Supervised Learning in One Training Epoch",
arXiv:2304.03977.

Many patches of an image are aligned with their mean, while the coding rate of the embeddings of each patch position is
maximised. Without the coding rate (``--set tcr=0``) all embeddings become equal.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import MethodOptions, width
from ssltool.methods.parts.coding_rate import coding_rate
from ssltool.methods.parts.multicrop import forward_concatenated
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


@without_autocast
def empssl_loss(views: list[Tensor], sim: float = 200.0, tcr: float = 1.0, eps2: float = 0.2) -> Tensor:
    """The objective of arXiv:2304.03977 with the opposite sign: -(tcr * mean R(z_v, eps) + sim * mean cos(z_v, mean)).

    R is the coding rate of the rows of one view, of length 1; the means are over views, and for the cosine over images.
    At least -(tcr * R of rows that use all directions equally + sim).

    Args:
        views: embeddings of n patches of the same images, each (N, D); they are L2-normalised.
        sim, tcr: weights of the cosine and of the coding rate.
        eps2: eps^2 of the coding rate.

    Raises:
        SSLToolError: for fewer than two views, or different shapes.
    """
    if len(views) < 2:
        raise SSLToolError(f"empssl_loss expects two or more views; found {len(views)}")
    check_same_shape("empssl_loss", *views)
    z = F.normalize(torch.stack(views), dim=2)
    rate = torch.stack([coding_rate(view, math.sqrt(eps2)) for view in z]).mean()
    return -(tcr * rate + sim * F.cosine_similarity(z, z.mean(dim=0, keepdim=True), dim=2).mean())


@dataclass(frozen=True)
class EMPSSLOptions(MethodOptions):
    """Options of EMP-SSL. Defaults follow the released code for one epoch."""

    dim: int = width(1024)
    hidden: int = width(4096, "the projector's hidden layers")
    n_patches: int = setting(20, "patches of an image, each of the area --crop-min", minimum=2, maximum=1000)
    sim: float = setting(200.0, "weight of the cosine to the mean of the patches", minimum=0)
    tcr: float = setting(1.0, "weight of the coding rate; without it the network collapses", minimum=0)
    eps2: float = setting(0.2, "squared distortion eps^2 of the coding rate", above=0)


class EMPSSL(Method):
    """EMP-SSL. Projector: three linear layers, BN after the first two. All patches share batch statistics."""

    Options = EMPSSLOptions

    def __init__(self, backbone: nn.Module, dim: int, options: EMPSSLOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.hidden, options.dim])

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        """Patches of one area, the smallest of the run's crops, resized to the run's image size."""
        area = base.crop_scale[0]
        return [dataclasses.replace(base, crop_scale=(area, area))] * self.options.n_patches

    def forward(self, batch: Batch) -> Output:
        o = self.options
        views = forward_concatenated(lambda view: self.projector(self.backbone(view)).float(), batch.views)
        together = gather(torch.stack(views, dim=1)).unbind(dim=1)
        return Output(empssl_loss(list(together), o.sim, o.tcr, o.eps2), views[0].detach())

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {"the coding rate is not maximised (tcr=0)": self.options.tcr == 0}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        o = self.options
        return (-(o.tcr * 0.5 * math.log1p(o.dim / o.eps2) + o.sim),)
