"""MAE: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, arXiv:2111.06377.

The network sees a quarter of the patches. A decoder, which is discarded after training, predicts the pixels of the
others. The targets are pixels, not outputs of the network, so equal outputs for all images do not minimise the loss: a
run that collapses has another cause, such as a learning rate at which it diverges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Generator, Tensor, nn

from ssltool.data.loader import Batch
from ssltool.data.views import Recipe
from ssltool.errors import SSLToolError, UsageError
from ssltool.methods.base import Method, Output, RunFacts
from ssltool.methods.options import MethodOptions, width
from ssltool.methods.parts.decay import only_matrices_decay
from ssltool.methods.parts.masks import drawn_masks, patches_of_view, random_order
from ssltool.methods.parts.patch_decoder import PatchDecoder
from ssltool.models.backbones import masked_tokens
from ssltool.models.masking import Masking, take
from ssltool.settings import setting
from ssltool.training.precision import without_autocast

EPS = 1e-6
"""Added to the variance of a patch."""


@without_autocast
def mae_loss(prediction: Tensor, pixels: Tensor, *, norm_pix: bool = True) -> Tensor:
    """Sec. 3 of arXiv:2111.06377: the mean over masked patches of the mean squared error of their pixels; at least 0.

    With ``norm_pix`` the target of a patch is (x - mean) / sqrt(var + 1e-6) over its D values, where var has D - 1 in
    the denominator, as in the released code. Predicting 0 then costs at most (D - 1) / D.

    Args:
        prediction, pixels: of the masked patches only, each (N, M, D).

    Raises:
        SSLToolError: if the shapes differ or are not (N, M, D), D at least 2.
    """
    if prediction.shape != pixels.shape or pixels.dim() != 3 or not pixels.numel() or pixels.shape[2] < 2:
        raise SSLToolError(
            f"mae_loss expects two (N, M, D) tensors of the same shape, D at least 2; found {tuple(prediction.shape)} "
            f"and {tuple(pixels.shape)}"
        )
    target = pixels
    if norm_pix:
        target = (pixels - pixels.mean(dim=2, keepdim=True)) / (pixels.var(dim=2, keepdim=True) + EPS).sqrt()
    return (prediction - target).square().mean()


def patchify(images: Tensor, patch: int) -> Tensor:
    """The pixels of each patch, row by row: (N, 3, S, S) to (N, P, patch * patch * 3), P = (S / patch)^2."""
    side = images.shape[-1] // patch
    squares = images.unflatten(3, (side, patch)).unflatten(2, (side, patch))  # (N, 3, rows, patch, columns, patch)
    return squares.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


@dataclass(frozen=True)
class MAEOptions(MethodOptions):
    """Options of MAE. Defaults follow the paper for ViT-L."""

    mask_ratio: float = setting(0.75, "share of the patches that are masked and predicted", above=0, maximum=1)
    norm_pix: bool = setting(True, "predict the pixels of each patch with mean 0 and variance 1")
    width: int = width(512, "the decoder; a multiple of heads and of 4")
    depth: int = setting(8, "number of blocks of the decoder", minimum=1, maximum=1000)
    heads: int = setting(16, "attention heads of the decoder", minimum=1)


class MAE(Method):
    """MAE. The tokens of the visible patches, with the class token and the registers, enter the decoder."""

    Options = MAEOptions
    masks_patches = True
    compares_images = False
    min_batch_size = 1

    def __init__(self, backbone: nn.Module, dim: int, options: MAEOptions, run: RunFacts) -> None:
        super().__init__(backbone, dim, options, run)
        o = options
        self.patch, side = patches_of_view(self)
        self.patches = side * side
        self.kept = int(round(self.patches * (1.0 - o.mask_ratio), 6))
        if not 0 < self.kept < self.patches:
            found = "all" if self.kept == 0 else "none"
            raise UsageError(
                f"--set mask_ratio={o.mask_ratio} masks {found} of the {self.patches} patches of a view; change it, or "
                "raise --image-size"
            )
        out = 3 * self.patch * self.patch
        self.decoder = PatchDecoder(dim, out, side, width=o.width, depth=o.depth, heads=o.heads)

    def view_recipes(self, base: Recipe) -> list[Recipe]:
        return [base]

    def forward(self, batch: Batch) -> Output:
        (view,) = batch.views
        kept, masked = drawn_masks(self, batch, self._draw)
        tokens = masked_tokens(self.backbone, view, Masking(kept=kept))
        prediction = self.decoder(tokens, kept, masked).float()
        pixels = take(patchify(view.float(), self.patch), masked)
        loss = mae_loss(prediction, pixels, norm_pix=self.options.norm_pix)
        return Output(loss, tokens[:, -self.kept :].detach().float().mean(dim=1))

    def _draw(self, images: int, generator: Generator) -> tuple[Tensor, ...]:
        """The numbers of the visible and of the masked patches of each image."""
        order = random_order(images, self.patches, generator)
        return order[:, : self.kept], order[:, self.kept :]

    def param_groups(self) -> list[dict[str, Any]]:
        return only_matrices_decay(super().param_groups())
