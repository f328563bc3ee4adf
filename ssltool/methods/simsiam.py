"""SimSiam: Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566.

Two views, one network, a predictor on one side and a stop-gradient on the other:

    z1, z2 = f(x1), f(x2)          backbone and projector
    p1, p2 = h(z1), h(z2)          predictor
    loss = D(p1, sg z2) / 2 + D(p2, sg z1) / 2,   D(p, z) = -cos(p, z)

Without the stop-gradient (``--set stop_grad=false``) the constant solution is reached in a few hundred steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, trainable
from ssltool.models.heads import mlp
from ssltool.settings import Checked, setting


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, *, stop_grad: bool = True) -> Tensor:
    """Eq. 4 of arXiv:2011.10566, in [-1, 1]; -1 says nothing about collapse.

    Args:
        p1, p2: predictions of two views, each (N, D).
        z1, z2: projections of the same views, each (N, D); constants unless ``stop_grad`` is False.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D).
    """
    shapes = {tuple(t.shape) for t in (p1, p2, z1, z2)}
    if len(shapes) > 1 or p1.dim() != 2:
        raise SSLToolError(f"simsiam_loss takes four (N, D) tensors of one shape; found {sorted(shapes)}")
    if stop_grad:
        z1, z2 = z1.detach(), z2.detach()
    similarity = F.cosine_similarity(p1, z2, dim=1).mean() + F.cosine_similarity(p2, z1, dim=1).mean()
    return -0.5 * similarity


@dataclass(frozen=True)
class SimSiamOptions(Checked):
    """The method's options; the defaults are the paper's."""

    dim: int = setting(2048, "width of the projection", minimum=1)
    pred_dim: int = setting(512, "hidden width of the predictor", minimum=1)
    fix_pred_lr: bool = setting(False, "keep the predictor's learning rate constant")
    n_augs: int = setting(2, "views of each image; the loss is the mean over their pairs", minimum=2)
    stop_grad: bool = setting(True, "stop the gradient through the target; without it the network collapses")


class SimSiam(Method):
    """Projector: three linear layers with BN, the last BN without scale and shift. Predictor: a bottleneck of two."""

    Options = SimSiamOptions

    def __init__(self, backbone: nn.Module, dim: int, options: SimSiamOptions) -> None:
        super().__init__(backbone, dim, options)
        # The released code freezes the bias before the last BN, which has no effect: it is left out here.
        self.projector = mlp([dim, dim, dim, options.dim], last_bn=True, last_bias=False)
        self.predictor = mlp([options.dim, options.pred_dim, options.dim], last_bn=False, last_bias=True)

    def recipes(self, base: Recipe) -> list[Recipe]:
        return [base] * self.options.n_augs

    def forward(self, views: list[Tensor], rows: Tensor) -> Output:
        z = [self.projector(self.backbone(view)).float() for view in views]  # the loss is in fp32 at any precision
        p = [self.predictor(projection).float() for projection in z]
        pairs = list(combinations(range(len(views)), 2))
        losses = [simsiam_loss(p[i], p[j], z[i], z[j], stop_grad=self.options.stop_grad) for i, j in pairs]
        return Output(torch.stack(losses).mean(), z[0].detach())

    def param_groups(self) -> list[dict[str, Any]]:
        fixed = (
            self.options.fix_pred_lr
        )  # App. B of the paper: a predictor that keeps its rate tracks the latest projections
        return [
            {"params": trainable(self.backbone, self.projector), "fixed_lr": False, "is_encoder": True},
            {"params": trainable(self.predictor), "fixed_lr": fixed, "is_encoder": False},
        ]
