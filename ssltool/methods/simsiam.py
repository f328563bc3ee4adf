"""SimSiam: Chen and He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv:2011.10566.

Two views of an image pass through one network. The predictor is applied to one view and a stop-gradient to the other:

    z1, z2 = f(x1), f(x2)          backbone and projector
    p1, p2 = h(z1), h(z2)          predictor
    loss = D(p1, sg z2) / 2 + D(p2, sg z1) / 2,   D(p, z) = -cos(p, z)

The paper's ablations are options. Without the stop-gradient (``--set stop_grad=false``) the network collapses within a
few hundred steps. It also does without the predictor (``--set predictor=none``), more slowly: the gradient of the
symmetrised loss is then half of that without the stop-gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import unknown
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.options import Ineffective, SeveralViews, fix_pred_lr, width
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.precision import without_autocast


@without_autocast
def simsiam_loss(
    p1: Tensor,
    p2: Tensor,
    z1: Tensor,
    z2: Tensor,
    *,
    stop_grad: bool = True,
    symmetric: bool = True,
    similarity: str = "cosine",
) -> Tensor:
    """Eq. 4 of arXiv:2011.10566, in [-1, 1]. A loss of -1 does not imply collapse.

    Args:
        p1, p2: predictions for two views, each (N, D).
        z1, z2: projections of the same views, each (N, D); detached unless ``stop_grad`` is False.
        symmetric: whether both views predict each other; otherwise only the first predicts the second (Sec. 4.6).
        similarity: "cosine", or "cross_entropy" of softmaxes over the dimensions (Sec. 4.5), which is at least 0.

    Raises:
        SSLToolError: if the shapes differ or are not (N, D), or the similarity is unknown.
    """
    check_same_shape("simsiam_loss", p1, p2, z1, z2)
    if stop_grad:
        z1, z2 = z1.detach(), z2.detach()
    if similarity not in DISTANCES:
        raise unknown("similarity", similarity, DISTANCES)
    distance = DISTANCES[similarity]
    if not symmetric:
        return distance(p1, z2)
    return 0.5 * (distance(p1, z2) + distance(p2, z1))


def _cosine(p: Tensor, z: Tensor) -> Tensor:
    return -F.cosine_similarity(p, z, dim=1).mean()


def _cross_entropy(p: Tensor, z: Tensor) -> Tensor:
    return -(z.softmax(dim=1) * p.log_softmax(dim=1)).sum(dim=1).mean()


DISTANCES = {"cosine": _cosine, "cross_entropy": _cross_entropy}


@dataclass(frozen=True)
class SimSiamOptions(SeveralViews):
    """Options of SimSiam. Defaults follow the paper."""

    dim: int = width(2048)
    pred_dim: int = width(512, "the predictor's hidden layer")
    fix_pred_lr: bool = fix_pred_lr()
    stop_grad: bool = setting(True, "stop the gradient through the target; without it the network collapses")
    predictor: str = setting(
        "mlp", "predictor: an MLP, none, or an MLP with fixed weights", choices=("mlp", "none", "fixed")
    )
    symmetric: bool = setting(True, "both views predict each other; otherwise only the first predicts the second")
    bn: str = setting(
        "default",
        "batch norm in the heads: as in the paper (default), none, after hidden layers, or after all layers",
        choices=("default", "none", "hidden", "all"),
    )
    similarity: str = setting(
        "cosine", "similarity of prediction and target that the loss maximises", choices=tuple(DISTANCES)
    )

    def ineffective(self) -> list[Ineffective]:
        return [
            Ineffective(("pred_dim", "fix_pred_lr"), self.predictor == "none", "predictor=none"),
            Ineffective(("fix_pred_lr",), self.predictor == "fixed", "predictor=fixed"),
        ]


class SimSiam(Method):
    """SimSiam. Projector: three linear layers with BN, the last BN without affine parameters. Predictor: a two-layer
    bottleneck."""

    Options = SimSiamOptions
    compares_images = False

    def __init__(self, backbone: nn.Module, dim: int, options: SimSiamOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        hidden, last = options.bn != "none", options.bn in ("default", "all")
        # The released code freezes the bias before the last BN, which has no effect; here there is no bias.
        self.projector = mlp([dim, dim, dim, options.dim], hidden_bn=hidden, last_bn=last, last_bias=not last)
        self.predictor = nn.Identity()
        if options.predictor != "none":
            widths = [options.dim, options.pred_dim, options.dim]
            after = options.bn == "all"
            self.predictor = mlp(widths, hidden_bn=hidden, last_bn=after, last_bias=not after)
        if options.predictor == "fixed":
            self.predictor.requires_grad_(False)

    def forward(self, batch: Batch) -> Output:
        o = self.options
        z = [self.projector(self.backbone(view)).float() for view in batch.views]  # the loss is always computed in fp32
        p = [self.predictor(projection).float() for projection in z]
        t = self.targets(z)
        losses = [
            simsiam_loss(p[i], p[j], t[i], t[j], stop_grad=o.stop_grad, symmetric=o.symmetric, similarity=o.similarity)
            for i, j in combinations(range(len(z)), 2)
        ]
        return Output(torch.stack(losses).mean(), z[0].detach())

    def collapse_causes(self) -> dict[str, bool]:
        o = self.options
        return super().collapse_causes() | {
            "there is no stop-gradient (stop_grad=false)": not o.stop_grad,
            "there is no predictor (predictor=none)": o.predictor == "none",
            "the predictor is not trained (predictor=fixed)": o.predictor == "fixed",
        }

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (-1.0,) if self.options.similarity == "cosine" else ()

    def targets(self, projections: list[Tensor]) -> list[Tensor]:
        """The target of each view: its projection."""
        return projections
