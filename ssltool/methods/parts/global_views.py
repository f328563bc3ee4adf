"""What LeJEPA and VISReg share: global and local views that predict the mean of the global ones, and random slices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ssltool import seeds
from ssltool.data.loader import Batch
from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method, Output, RunFacts, check_same_shape
from ssltool.methods.parts.crops import small_crops
from ssltool.methods.parts.multicrop import forward_by_size
from ssltool.methods.parts.sigreg import unit_directions
from ssltool.models.backbones import patch_of
from ssltool.models.heads import mlp
from ssltool.settings import setting
from ssltool.training.distributed import gather


def global_views(default: int) -> Any:
    """The number of large views."""
    return setting(default, "large views per image, whose mean all views predict", minimum=2, maximum=100)


def slices(default: int) -> Any:
    """The number of random directions in a step."""
    return setting(default, "random directions onto which the embeddings are projected in a step", minimum=1)


def lambd(default: float) -> Any:
    """The share of the regularisation in the loss."""
    return setting(
        default,
        "weight of the regularisation; the invariance has 1 - lambd; with 0 the network collapses",
        minimum=0,
        maximum=1,
    )


class GlobalViewsMethod(Method):
    """Base class of methods whose loss compares the projections of all views with the mean of the global ones, and
    regularises them along random directions. A subclass implements ``loss``.

    Projector: three linear layers, BN after the first two. Views of one size share batch statistics.
    """

    def __init__(self, backbone: nn.Module, dim: int, options: Any, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        self.projector = mlp([dim, options.hidden, options.hidden, options.dim])

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        small = small_crops(base, self.options, self.run.image_size, patch_of(self.backbone))
        return [base] * self.options.global_views + small

    def forward(self, batch: Batch) -> Output:
        views = forward_by_size(lambda view: self.projector(self.backbone(view)).float(), batch.views)
        together = gather(torch.stack(views, dim=1)).unbind(dim=1)
        return Output(self._loss(list(together)), views[0].detach())

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the directions depend on the step
    def _loss(self, views: list[Tensor]) -> Tensor:
        generator = seeds.generator(self.run.seed, *self.now, seeds.Stream.SLICES)
        return self.loss(views, unit_directions(self.options.dim, self.options.slices, generator).to(views[0]))

    def loss(self, views: list[Tensor], directions: Tensor) -> Tensor:
        """The loss of the projections ``views``, each (N, D), the global ones first, for ``directions`` (D, K)."""
        raise NotImplementedError

    def warnings(self) -> list[str]:
        aligned = self.options.lambd < 1
        return super().warnings() + (
            [] if aligned else ["lambd=1 leaves no invariance: nothing aligns the views of an image"]
        )

    def collapse_causes(self) -> dict[str, bool]:
        return super().collapse_causes() | {"there is no regularisation (lambd=0)": self.options.lambd == 0}


def global_invariance(views: list[Tensor], n_global: int) -> Tensor:
    """Mean over all V ``views`` (N, D), rows and dimensions of (z_v - mu)^2, with mu the mean of the first ``n_global``
    views; at least 0 (Algorithm 2 of arXiv:2511.08544, Eq. 8 of arXiv:2606.02572)."""
    mu = torch.stack(views[:n_global]).mean(dim=0)
    return torch.stack([(z - mu).square().mean() for z in views]).mean()


def check_views(name: str, views: list[Tensor], directions: Tensor, n_global: int) -> None:
    """Checks the arguments of the loss ``name``: two or more views (N, D), N at least 2, ``directions`` (D, K), and 1
    to V global views.

    Raises:
        SSLToolError: if they are not.
    """
    if len(views) < 2 or not 1 <= n_global <= len(views):
        raise SSLToolError(
            f"{name} expects two or more views, of which 1 or more are global; found {len(views)} views and "
            f"n_global={n_global}"
        )
    check_same_shape(name, *views)
    if len(views[0]) < 2:
        raise SSLToolError(f"{name} expects at least 2 rows; found 1")
    if directions.dim() != 2 or len(directions) != views[0].shape[1]:
        raise SSLToolError(
            f"{name} expects directions of shape ({views[0].shape[1]}, K); found {tuple(directions.shape)}"
        )
