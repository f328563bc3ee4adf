"""I-JEPA: Assran et al., "Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture", CVPR
2023, arXiv:2301.08243.

The network sees a large block of an image, the context. From its tokens a predictor computes the tokens of four small
blocks that were cut out of the context. The targets are the tokens that a momentum teacher computes from the whole
image. The stop-gradient and the teacher prevent collapse: if the gradient flows through the targets too
(``--set stop_grad=false``), equal tokens are a solution.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ssltool.data.loader import Batch
from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods.base import Output, RunFacts
from ssltool.methods.options import Ineffective, MethodOptions, momentum, width
from ssltool.methods.parts.decay import only_matrices_decay
from ssltool.methods.parts.masks import drawn_masks, patches_of_view
from ssltool.methods.parts.momentum import MomentumMethod
from ssltool.methods.parts.patch_decoder import PatchDecoder
from ssltool.models.backbones import last_width, masking_family, patch_tokens
from ssltool.models.masking import Masking, take
from ssltool.settings import setting
from ssltool.training.precision import without_autocast

TARGET_SCALE, TARGET_ASPECT = (0.15, 0.2), (0.75, 1.5)
CONTEXT_SCALE, CONTEXT_ASPECT = (0.85, 1.0), (1.0, 1.0)
"""Ranges of the share of the patches in a block, and of its height over its width."""

TRIES = 20
"""Places that are drawn for a context which keeps too few patches."""

SMALLEST_SIDE = 3
"""Rows of patches below which the targets may cover an image."""


@without_autocast
def ijepa_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """The loss of the released code of arXiv:2301.08243; at least 0.

    The mean of smooth-L1 (0.5 d^2 where d = |prediction - target| is below 1, else d - 0.5). The paper (Sec. 3) has the
    squared L2 distance instead. The targets are ``layer_norm`` of the teacher's tokens, without trained scale.

    Args:
        prediction, target: tokens of the target blocks, each (N, M, D). Both receive gradients.

    Raises:
        SSLToolError: if the shapes differ or are not (N, M, D).
    """
    if prediction.shape != target.shape or target.dim() != 3 or not target.numel():
        raise SSLToolError(
            f"ijepa_loss expects two (N, M, D) tensors of the same shape; found {tuple(prediction.shape)} and "
            f"{tuple(target.shape)}"
        )
    return F.smooth_l1_loss(prediction, target)


def block_size(
    side: int, scale: tuple[float, float], aspect: tuple[float, float], generator: Generator
) -> tuple[int, int]:
    """A random height and width of a block of patches, at least 1 and at most ``side``.

    One uniform number decides both the share of the patches and the aspect ratio, as in the released code.
    """
    u = float(torch.rand(1, generator=generator))
    area = int(side * side * (scale[0] + u * (scale[1] - scale[0])))
    ratio = aspect[0] + u * (aspect[1] - aspect[0])
    height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    return min(max(height, 1), side), min(max(width, 1), side)


def draw_blocks(images: int, side: int, targets: int, min_context: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """The blocks of ``images`` images of ``side`` x ``side`` patches: the numbers of the context's patches (images, K),
    and of those of each target (images, targets, M).

    All blocks of a kind have the same size. The context is a block without the patches of the targets. Of 20 places for
    it, the first that keeps ``min_context`` patches is taken, else the one that keeps most. If none keeps any, the last
    targets are not cut out. K is the smallest number of patches that the context of an image keeps. Contexts that keep
    more use K of them, at random. The released code uses the first K, and places no block in the last row or column.
    """
    height, width = block_size(side, TARGET_SCALE, TARGET_ASPECT, generator)
    rows, columns = _places(images, targets, side, (height, width), generator)
    inside = rows[..., :, None] & columns[..., None, :]  # (images, targets, side, side)
    rows, columns = _places(images, TRIES, side, block_size(side, CONTEXT_SCALE, CONTEXT_ASPECT, generator), generator)
    free = ~inside.any(dim=1)
    kept = _overlap(rows, columns, free)
    while bool((none := kept.amax(dim=1) == 0).any()):
        targets -= 1
        free[none] = ~inside[none, :targets].any(dim=1)
        kept = _overlap(rows, columns, free)
    number, chosen = torch.arange(images), kept.clamp(max=min_context).argmax(dim=1)  # the first of the largest
    seen = (rows[number, chosen][:, :, None] & columns[number, chosen][:, None, :] & free).flatten(1)
    order = torch.where(seen, torch.rand(seen.shape, generator=generator), 2.0).argsort(dim=1)
    context = order[:, : int(seen.sum(dim=1).min())]
    return context, inside.flatten(2).int().argsort(dim=2, descending=True, stable=True)[..., : height * width]


def _overlap(rows: Tensor, columns: Tensor, free: Tensor) -> Tensor:
    """The number of ``free`` (N, side, side) patches in each block: (N, blocks)."""
    return (rows.float() @ free.float() * columns).sum(dim=2)


def _places(images: int, blocks: int, side: int, size: tuple[int, int], generator: Generator) -> tuple[Tensor, Tensor]:
    """Whether each row and each column of the patches meets a block at a random place: (images, blocks, side) bool."""
    number, found = torch.arange(side), []
    for length in size:
        start = torch.randint(0, side - length + 1, (images, blocks, 1), generator=generator)
        found.append((number >= start) & (number < start + length))
    return found[0], found[1]


@dataclass(frozen=True)
class IJEPAOptions(MethodOptions):
    """Options of I-JEPA. Defaults follow the paper for ViT-B and ViT-L."""

    width: int = width(384, "the predictor; a multiple of heads and of 4")
    depth: int = setting(6, "number of blocks of the predictor", minimum=1, maximum=1000)
    heads: int = setting(12, "attention heads of the predictor", minimum=1)
    targets: int = setting(4, "number of target blocks of an image", minimum=1, maximum=4)
    min_context: int = setting(10, "patches that the context keeps, if one of 20 places allows it", minimum=1)
    momentum: float = momentum(0.996)
    momentum_final: float | None = setting(
        1.0, "final momentum of the linear schedule [None: constant momentum]", minimum=0, maximum=1
    )
    stop_grad: bool = setting(
        True, "take the targets from the teacher, without gradient; otherwise from the network, with gradient"
    )
    fix_pred_lr: bool = setting(False, "keep the learning rate of the predictor constant")

    def ineffective(self) -> list[Ineffective]:
        return [Ineffective(("momentum", "momentum_final"), not self.stop_grad, "stop_grad=false")]


class IJEPA(MomentumMethod):
    """I-JEPA. The representation of an image is the mean over its patches.

    The paper's ViT has no class token. Here the class token and the registers, if there are any, enter the blocks of
    context and teacher, and the predictor does not see them.
    """

    Options = IJEPAOptions
    TEACHER_MODULES = ("backbone",)
    masks_patches = True
    compares_images = False
    min_batch_size = 1

    def __init__(self, backbone: nn.Module, dim: int, options: IJEPAOptions, run: RunFacts) -> None:
        dim = last_width(backbone, dim)
        super().__init__(backbone, dim, options, run)
        o = options
        self.family = masking_family(backbone)  # a compiler cannot look it up
        patch, self.side = patches_of_view(self)
        if self.side < SMALLEST_SIDE:
            raise UsageError(
                f"ijepa cuts target blocks out of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} patches; a view of "
                f"{run.image_size} pixels has {self.side} x {self.side} of {patch}: raise --image-size, or take "
                "smaller patches (-a vit_small_p4)"
            )
        self.predictor = PatchDecoder(dim, dim, self.side, width=o.width, depth=o.depth, heads=o.heads)
        self.make_teacher()

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        return [base]

    def forward(self, batch: Batch) -> Output:
        (view,) = batch.views
        kept, wanted = drawn_masks(self, batch, self._draw)
        tokens = self._targets(view)
        context = self.family.masked_tokens(self.backbone, view, Masking(kept=kept))[:, -kept.shape[1] :]
        count = wanted.shape[1]
        seen = context.repeat_interleave(count, dim=0), kept.repeat_interleave(count, dim=0)
        prediction = self.predictor(*seen, wanted.flatten(0, 1)).float()
        target = take(tokens, wanted.flatten(1)).view(prediction.shape)
        return Output(ijepa_loss(prediction, target), context.detach().float().mean(dim=1))

    def _draw(self, images: int, generator: Generator) -> tuple[Tensor, ...]:
        """The numbers of the context patches (images, K) and of those of each target (images, T, M)."""
        return draw_blocks(images, self.side, self.options.targets, self.options.min_context, generator)

    def _targets(self, view: Tensor) -> Tensor:
        """The normalised tokens (N, P, D) of all patches."""
        stop = self.options.stop_grad
        with torch.set_grad_enabled(torch.is_grad_enabled() and not stop):
            tokens = patch_tokens(self.teacher["backbone"] if stop else self.backbone, view).float()
            return F.layer_norm(tokens, tokens.shape[-1:])

    def after_step(self) -> None:
        o = self.options
        end = o.momentum if o.momentum_final is None else o.momentum_final
        self.update_teacher(o.momentum + self.progress * (end - o.momentum))

    def param_groups(self) -> list[dict[str, Any]]:
        return only_matrices_decay(super().param_groups())

    def outputs(self, images: Tensor, last: str = "predictor") -> dict[str, Tensor]:
        return {"backbone": patch_tokens(self.backbone, images).mean(dim=1)}

    def collapse_causes(self) -> dict[str, bool]:
        stop = self.options.stop_grad
        causes = {cause: present and stop for cause, present in super().collapse_causes().items()}
        return causes | {"gradients flow through the targets (stop_grad=false)": not stop}

    @property
    def constant_output_losses(self) -> tuple[float, ...]:
        return (0.0,)
