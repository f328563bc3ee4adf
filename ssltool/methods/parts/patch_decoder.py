"""A small transformer for patches that a ViT did not see: the decoder of MAE and the predictor of I-JEPA."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock

from ssltool.errors import UsageError
from ssltool.models.masking import take
from ssltool.models.vit import initialise_linear, sincos_positions


class PatchDecoder(nn.Module):
    """Maps the tokens of seen patches to outputs for other patches.

    The tokens are embedded, and a trained mask token stands for each wanted patch. The fixed position of its patch is
    added to each token, except to those before the patches. All tokens pass the same transformer blocks.

    Args:
        dim, out: widths of the tokens and of the output.
        side: rows and columns of the grid of patches.
        width, depth, heads: of the transformer.

    Raises:
        UsageError: if ``width`` is not divisible by the heads, or by 4, which the positions need.
    """

    positions: Tensor

    def __init__(self, dim: int, out: int, side: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if width % heads or width % 4:
            raise UsageError(f"--set width={width} must be divisible by heads={heads} and by 4; change one of them")
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(width), std=0.02))
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.Sequential(
            *(EncoderBlock(heads, width, 4 * width, 0.0, 0.0, norm_layer=norm) for _ in range(depth))
        )
        self.norm = norm(width)
        self.head = nn.Linear(width, out)
        initialise_linear(self)
        self.register_buffer("positions", sincos_positions(side, width)[None], persistent=False)

    def forward(self, tokens: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
        """The outputs (N, M, out) for the patches ``wanted``.

        Args:
            tokens: (N, T, dim); the last K are those of the patches ``seen``, in their order.
            seen, wanted: numbers of patches, (N, K) and (N, M) int64.
        """
        embedded = self.embed(tokens)
        positions = self.positions.expand(len(tokens), -1, -1)
        before = tokens.shape[1] - seen.shape[1]
        patches = embedded[:, before:] + take(positions, seen)
        asked = self.mask_token + take(positions, wanted)
        x = self.blocks(torch.cat([embedded[:, :before], patches, asked], dim=1))
        out: Tensor = self.head(self.norm(x[:, tokens.shape[1] :]))
        return out
