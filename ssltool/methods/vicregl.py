"""VICRegL: Bardes, Ponce and LeCun, "VICRegL: Self-Supervised Learning of Local Visual Features", NeurIPS 2022,
arXiv:2210.01571.

VICReg's loss of the two views, and VICReg's loss of the pairs of positions of their feature maps that are nearest in
the image or nearest in embedding. Without the variance term (``--set std=0``) all embeddings become equal; without the
covariance term (``--set cov=0``) all dimensions become equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssltool.data.loader import Batch
from ssltool.errors import SSLToolError
from ssltool.methods.base import Output, RunFacts
from ssltool.methods.options import width
from ssltool.methods.vicreg import EPS, VICReg, VICRegOptions, vicreg_loss, weighted_terms
from ssltool.models.backbones import last_width, output_and_positions, patch_grid
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather
from ssltool.training.precision import without_autocast


def positions_in_image(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """The centres (y, x) in the image of the ``rows`` x ``columns`` positions of feature maps, row by row.

    Args:
        boxes: (N, 4), where the edges of the views lie in their images, as ``views.view_boxes``.

    Returns:
        (N, rows * columns, 2), in the unit of the boxes.
    """

    def centres(start: Tensor, end: Tensor, count: int) -> Tensor:
        fractions = (torch.arange(count, device=boxes.device) + 0.5) / count
        return start[:, None] + (end - start)[:, None] * fractions

    top, left, bottom, right = boxes.unbind(dim=1)
    y, x = centres(top, bottom, rows), centres(left, right, columns)
    shape = (len(boxes), rows, columns)
    return torch.stack([y[:, :, None].expand(shape), x[:, None, :].expand(shape)], dim=-1).flatten(1, 2)


def best_pairs(a: Tensor, b: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The rows of ``a`` (N, P, K) whose nearest row of ``b`` (N, Q, K) in Euclidean distance is least far, at most
    ``count`` of each N, in their order; and these nearest rows. Both are indices (N, min(count, P)). No gradient."""
    apart = torch.cdist(a.detach(), b.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    distance, nearest = apart.min(dim=2)
    chosen = distance.argsort(dim=1, stable=True)[:, :count].sort(dim=1).values
    return chosen, nearest.gather(1, chosen)


@without_autocast
def matched_loss(
    x: Tensor,
    y: Tensor,
    a: Tensor,
    b: Tensor,
    counts: Sequence[int],
    sim: float = 25.0,
    std: float = 25.0,
    cov: float = 1.0,
) -> Tensor:
    """The local loss of arXiv:2210.01571: VICReg's loss of pairs of positions, as in the released code; at least 0.

    Each position of ``x`` is paired with that of ``y`` whose key is nearest, and each of ``y`` with one of ``x``. Of an
    image the best ``counts[i]`` pairs are kept, in the order of their positions. The loss of the k-th pairs of all
    images is VICReg's, with half the covariance term. The result is the mean over k, both directions and ``counts``.

    Args:
        x, y: embeddings of the positions of two views, (N, P, D) and (N, Q, D), N at least 2.
        a, b: their keys, (N, P, K) and (N, Q, K): places in the image, or the embeddings.
        counts: numbers of pairs; all positions if there are fewer.
        sim, std, cov: weights of invariance, variance and covariance.

    Raises:
        SSLToolError: if the shapes do not fit, or N is 1.
    """
    shapes = [tuple(t.shape) for t in (x, y, a, b)]
    fits = all(len(shape) == 3 for shape in shapes) and len({shape[0] for shape in shapes}) == 1
    if not fits or shapes[0][2] != shapes[1][2] or shapes[2][2] != shapes[3][2] or len(x) < 2:
        raise SSLToolError(f"matched_loss expects (N, P, D), (N, Q, D), (N, P, K), (N, Q, K), N from 2; found {shapes}")
    losses = []
    for one, other, key, other_key in ((x, y, a, b), (y, x, b, a)):
        for count in counts:
            pairs = zip((one, other), best_pairs(key, other_key, count), strict=True)
            rows = [maps.gather(1, index[..., None].expand(-1, -1, maps.shape[2])) for maps, index in pairs]
            losses.append(weighted_terms(rows[0].transpose(0, 1), rows[1].transpose(0, 1), sim, std, 0.5 * cov))
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class VICRegLOptions(VICRegOptions):
    """Options of VICRegL. Defaults follow the paper, except for its views (``asymmetric``)."""

    map_dim: int = width(512, "the projection of each position")
    map_hidden: int = width(512, "the hidden layers of the positions' projector")
    alpha: float = setting(
        0.75, "weight of the loss of whole images; the rest is that of positions", minimum=0, maximum=1
    )
    matches: int = setting(20, "pairs of positions of an image that are nearest in the image", minimum=1)
    matches_back: int = setting(4, "pairs if the views are taken in the other order", minimum=1)
    all_l2: bool = setting(
        True, "pair all positions by embedding; otherwise as many as by place, those that are nearest"
    )


class VICRegL(VICReg):
    """VICRegL. The projector of images is VICReg's. That of positions has three linear layers too, BN after the first
    two."""

    Options = VICRegLOptions
    compares_positions = True

    def __init__(self, backbone: nn.Module, dim: int, options: VICRegLOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        self.map_projector = mlp([last_width(backbone, dim), o.map_hidden, o.map_hidden, o.map_dim], last_bias=False)

    def forward(self, batch: Batch) -> Output:
        o = self.options
        if batch.boxes is None:
            raise SSLToolError("vicregl needs the boxes of the views in their images; this batch has none")
        images, maps, places = [], [], []
        for view, boxes in zip(batch.views, gather(batch.boxes).unbind(dim=1), strict=True):
            out, positions = output_and_positions(self.backbone, view)
            images.append(gather(self.projector(out).float()))
            flat = self.map_projector(positions.flatten(0, 1)).float()
            maps.append(gather(flat.unflatten(0, positions.shape[:2])))
            places.append(positions_in_image(boxes, *self._grid(positions.shape[1])))
        counts = (o.matches, o.matches_back)
        weights = (o.sim, o.std, o.cov)
        (x, y), (a, b) = maps, places
        by_place = matched_loss(x, y, a, b, counts, *weights)
        by_embedding = matched_loss(x, y, x, y, (x.shape[1],) if o.all_l2 else counts, *weights)
        whole = vicreg_loss(images[0], images[1], o.sim, o.std, 0.5 * o.cov)
        return Output(o.alpha * whole + (1.0 - o.alpha) * (by_place + by_embedding), images[0].detach())

    def _grid(self, positions: int) -> tuple[int, int]:
        grid = patch_grid(self.backbone, positions)
        if grid is None:
            raise SSLToolError(f"vicregl needs a feature map in rows and columns; found {positions} positions")
        return grid

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (self.options.std * (1.0 - EPS**0.5) * (2.0 - self.options.alpha),)
