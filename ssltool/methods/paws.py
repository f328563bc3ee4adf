"""PAWS: Assran et al., "Semi-Supervised Learning of Visual Features by Non-Parametrically Predicting View Assignments
with Support Samples", ICCV 2021, arXiv:2104.13963.

Each view of an unlabelled image is classified by its similarity to a support of labelled images. It is trained to
predict the sharpened class probabilities of another view.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, RunFacts, have_same_shape
from ssltool.methods.options import LabelledSupport, MultiCrop, temperature, width
from ssltool.methods.parts.multicrop import forward_by_size
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast

MIN_TARGET_PROBABILITY = 1e-4
"""Smaller target probabilities are set to 0, as in the released code."""


@without_autocast
def soft_neighbours(rows: Tensor, support: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Class probabilities (N, C) of rows (N, D): support labels (S, C) weighted by the softmax of cosines / T."""
    similarity = F.normalize(rows, dim=1) @ F.normalize(support, dim=1).mT / temperature
    return similarity.softmax(dim=1) @ labels


def sharpen(p: Tensor, temperature: float) -> Tensor:
    """p^(1/T), normalised so that rows sum to 1."""
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
    """Eq. 2 of arXiv:2104.13963: mean cross-entropy H(sharpened target, anchor), minus the entropy of the mean anchor.

    The target of a large view is the other large view; that of a small view is the mean of both. The mean anchor is the
    mean of the sharpened class probabilities of all anchors.

    Args:
        anchors: predictions for two large views, then for any small views, each (N, D).
        support: predictions for the labelled images (S, D).
        targets: projections of the two large views, each (N, D); detached.
        target_support: projections of the labelled images (S, D); detached.
        labels: class probabilities of the labelled images (S, C), possibly smoothed; rows sum to 1.
        temperature: divides the cosines.
        sharpening: T of ``sharpen``.
        me_max: whether to subtract the entropy of the mean anchor.

    Raises:
        SSLToolError: if there are not two targets, or the shapes do not match.
    """
    shapes = {tuple(t.shape) for t in [*anchors, *targets]}
    if len(targets) != 2 or len(anchors) < 2 or not have_same_shape(*anchors, *targets):
        raise SSLToolError(
            f"paws_loss expects two or more anchors and two targets, each (N, D); found {len(anchors)} and "
            f"{len(targets)} of shapes {sorted(shapes)}"
        )
    if (
        support.shape != target_support.shape
        or support.shape[1:] != anchors[0].shape[1:]
        or len(labels) != len(support)
    ):
        found = [tuple(t.shape) for t in (support, target_support, labels)]
        raise SSLToolError(f"paws_loss expects two supports (S, D) and labels (S, C) for anchors (N, D); found {found}")
    predictions = [soft_neighbours(anchor, support, labels, temperature) for anchor in anchors]
    with torch.no_grad():
        second, first = (sharpen(soft_neighbours(t, target_support, labels, temperature), sharpening) for t in targets)
        expected = [first, second, *[0.5 * (first + second)] * (len(anchors) - 2)]
        expected = [t.masked_fill(t < MIN_TARGET_PROBABILITY, 0.0) for t in expected]
    tiny = torch.finfo(predictions[0].dtype).tiny  # a probability of 0 would have a gradient of 0 / 0
    pairs = zip(expected, predictions, strict=True)
    losses = [-torch.xlogy(t, p.clamp(min=tiny)).sum(dim=1).mean() for t, p in pairs]
    loss = torch.stack(losses).mean()
    if me_max:
        mean = sharpen(torch.cat(predictions), sharpening).mean(dim=0)
        loss = loss - torch.special.entr(mean.clamp(min=tiny)).sum()
    return loss


@dataclass(frozen=True)
class PAWSOptions(LabelledSupport, MultiCrop):
    """Options of PAWS. Defaults follow the released code for ImageNet."""

    dim: int = width(2048)
    predictor: bool = setting(True, "use a predictor for the anchors")
    sharpening: float = temperature(0.25, "exponents of the targets' probabilities are")
    temperature: float = temperature(0.1)
    label_smoothing: float = setting(0.1, "fraction of each label distributed over all classes", minimum=0, maximum=1)
    me_max: bool = setting(
        True, "maximise the entropy of the mean prediction; without it images may collapse to one class"
    )


class PAWS(Method):
    """PAWS. Projector: three linear layers, BN after the first two. Predictor: BN, a bottleneck of a quarter of the
    width with BN, and a linear layer."""

    Options = PAWSOptions

    def __init__(self, backbone: nn.Module, dim: int, options: PAWSOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        self.compares_images = o.me_max  # by the entropy of the mean prediction
        self.projector = mlp([dim, dim, dim, o.dim])
        self.predictor = nn.Identity()
        if o.predictor:
            self.predictor = nn.Sequential(nn.BatchNorm1d(o.dim), *mlp([o.dim, max(1, o.dim // 4), o.dim]))

    def forward(self, batch: Batch) -> Output:
        o, labelled = self.options, batch.support
        if labelled is None:
            raise SSLToolError("paws requires a support of labelled images in each batch; found none")
        # As in the released code, the support and the large crops pass through the whole network together, the small
        # crops in a second pass, and batch statistics are those of one pass.
        rows = forward_by_size(self._projection_and_prediction, [labelled.views[0], *batch.views])
        support, *anchors = (gather(row[:, 1]) for row in rows)
        target_support, *targets = (gather(row[:, 0].detach()) for row in rows[:3])
        labels = self._one_hot(gather(labelled.labels))
        loss = paws_loss(anchors, support, targets, target_support, labels, o.temperature, o.sharpening, o.me_max)
        return Output(loss, anchors[0].detach())

    def _projection_and_prediction(self, view: Tensor) -> Tensor:
        """The projection and the prediction (N, 2, D) for a view, in float32."""
        z = self.projector(self.backbone(view)).float()
        return torch.stack([z, self.predictor(z).float()], dim=1)

    def _one_hot(self, labels: Tensor) -> Tensor:
        """Smoothed labels (S, C) over the C classes of the support."""
        classes, column = labels.unique(return_inverse=True)
        smoothing = self.options.label_smoothing
        return F.one_hot(column, len(classes)).float() * (1.0 - smoothing) + smoothing / len(classes)

    def collapse_causes(self) -> dict[str, bool]:
        o = self.options
        return super().collapse_causes() | {
            "all images can collapse to one class (me_max=false)": not o.me_max,
            f"targets are not sharpened (sharpening={o.sharpening})": o.sharpening >= 1,
        }
