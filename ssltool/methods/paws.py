"""PAWS: Assran et al., "Semi-Supervised Learning of Visual Features by Non-Parametrically Predicting View Assignments
with Support Samples", ICCV 2021, arXiv:2104.13963.

Each view of an unlabelled image is classified by its likeness to a few labelled images, and each view has to predict
the sharpened answer of another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, RunFacts, of_one_shape
from ssltool.methods.options import LabelledSupport, MultiCrop, temperature, width
from ssltool.methods.parts.multicrop import by_size, together
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

NEGLIGIBLE = 1e-4
"""Probabilities of a target below this are taken as 0, as in the released code."""


@without_autocast
def soft_neighbours(rows: Tensor, support: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Class probabilities (N, C) of rows (N, D): the labels (S, C) of the support (S, D), by softmax of cosines / T."""
    likeness = F.normalize(rows, dim=1) @ F.normalize(support, dim=1).mT / temperature
    return likeness.softmax(dim=1) @ labels


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T), scaled so that rows sum to 1."""
    powered = p ** (1.0 / temperature)
    return powered / powered.sum(dim=1, keepdim=True)


@without_autocast
def paws_loss(
    anchors: list[Tensor],
    support: Tensor,
    targets: list[Tensor],
    target_support: Tensor,
    labels: Tensor,
    temperature: float = 0.1,
    sharpening: float = 0.25,
    me_max: bool = True,
) -> Tensor:
    """Eq. 2 of arXiv:2104.13963: mean cross-entropy H(sharpened target, anchor), minus the entropy of the mean answer.

    A large view's target is the other one's answer, a small view's the mean of both. The mean answer is over all
    anchors, sharpened.

    Args:
        anchors: predictions of two large views, then of any small ones, each (N, D).
        support: predictions of the labelled images (S, D).
        targets: projections of the two large views, each (N, D); constants.
        target_support: projections of the labelled images (S, D); constants.
        labels: the labelled images' classes (S, C), rows summing to 1, perhaps smoothed.
        temperature: what cosines are divided by.
        sharpening: T of ``sharpen``.
        me_max: whether the entropy counts.

    Raises:
        SSLToolError: if there are not two targets, or the shapes do not fit.
    """
    shapes = {tuple(t.shape) for t in [*anchors, *targets]}
    if len(targets) != 2 or len(anchors) < 2 or not of_one_shape(*anchors, *targets):
        raise SSLToolError(
            f"paws_loss takes two or more anchors and two targets, each (N, D); found {len(anchors)} and "
            f"{len(targets)} of shapes {sorted(shapes)}"
        )
    if (
        support.shape != target_support.shape
        or support.shape[1:] != anchors[0].shape[1:]
        or len(labels) != len(support)
    ):
        found = [tuple(t.shape) for t in (support, target_support, labels)]
        raise SSLToolError(
            f"paws_loss takes two supports (S, D) and as many labels (S, C) for anchors (N, D); found {found}"
        )
    answers = [soft_neighbours(anchor, support, labels, temperature) for anchor in anchors]
    with torch.no_grad():
        second, first = (sharpen(soft_neighbours(t, target_support, labels, temperature), sharpening) for t in targets)
        wanted = [first, second, *[0.5 * (first + second)] * (len(anchors) - 2)]
        wanted = [w.masked_fill(w < NEGLIGIBLE, 0.0) for w in wanted]
    smallest = torch.finfo(answers[0].dtype).tiny  # a probability of 0 would have a gradient of 0 / 0
    losses = [-torch.xlogy(w, p.clamp(min=smallest)).sum(dim=1).mean() for w, p in zip(wanted, answers, strict=True)]
    loss = torch.stack(losses).mean()
    if me_max:
        mean = sharpen(torch.cat(answers), sharpening).mean(dim=0)
        loss = loss - torch.special.entr(mean.clamp(min=smallest)).sum()
    return loss


@dataclass(frozen=True)
class PAWSOptions(LabelledSupport, MultiCrop):
    """The method's options; the defaults are the released code's for ImageNet."""

    dim: int = width(2048)
    predictor: bool = setting(True, "a predictor on the anchors' side")
    sharpening: float = temperature(0.25, "exponents of the targets' probabilities are")
    temperature: float = temperature(0.1)
    label_smoothing: float = setting(0.1, "share of each label that is spread over all", minimum=0, maximum=1)
    me_max: bool = setting(True, "maximise the entropy of the mean answer; without it one class may take all")


class PAWS(Method):
    """Projector: three layers, the first two with BN; predictor: BN, a bottleneck of a quarter with BN, and a linear
    layer."""

    Options = PAWSOptions

    def __init__(self, backbone: nn.Module, dim: int, options: PAWSOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        self.projector = mlp([dim, dim, dim, o.dim])
        self.predictor = nn.Identity()
        if o.predictor:
            self.predictor = nn.Sequential(nn.BatchNorm1d(o.dim), *mlp([o.dim, max(1, o.dim // 4), o.dim]))

    def forward(self, batch: Batch) -> Output:
        o, labelled = self.options, batch.support
        if labelled is None:
            raise SSLToolError("paws needs labelled images at each step; it was given none")
        # The support and all crops share batch statistics where they are of one size, as in the released code.
        h = by_size(self.backbone, [labelled.views[0], *batch.views])
        z = [row.float() for row in together(self.projector, h)]
        support, *anchors = (gather(row.float()) for row in together(self.predictor, z))
        target_support, *targets = (gather(row.detach()) for row in z[:3])
        labels = self._one_hot(gather(labelled.labels))
        loss = paws_loss(anchors, support, targets, target_support, labels, o.temperature, o.sharpening, o.me_max)
        return Output(loss, anchors[0].detach())

    def _one_hot(self, labels: Tensor) -> Tensor:
        """Smoothed (S, C) over the C classes of the step's support."""
        classes, column = labels.unique(return_inverse=True)
        smoothing = self.options.label_smoothing
        return F.one_hot(column, len(classes)).float() * (1.0 - smoothing) + smoothing / len(classes)

    def causes(self) -> dict[str, bool]:
        o = self.options
        return super().causes() | {
            "one class may take all (me_max=false)": not o.me_max,
            f"targets are not sharpened (sharpening={o.sharpening})": o.sharpening >= 1,
        }
