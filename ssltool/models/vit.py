"""Vision transformers as in MoCo v3. A name may contain the heads and the patch size (``vit_small_h6_p8``)."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.ops import StochasticDepth

from ssltool.checkpoints.parameter_names import timm_name
from ssltool.errors import SSLToolError, UsageError
from ssltool.models.counterpart import PYTHON, Counterpart, Weights, call
from ssltool.models.family import SMALL_IMAGE, Family, TokenLayout

BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.")

# (width, depth, heads) of the ViTs of the collapse paper, of the student/teacher study, and of the standard sizes.
# MoCo v3's vit_small has 12 heads; that of DINO and timm has 6, and is named vit_small_h6 here.
VITS = {
    "vit_small": (384, 12, 12),
    "vit_small_depth6": (384, 6, 6),
    "vit_small_depth3": (384, 3, 6),
    "vit_w256_depth6": (256, 6, 4),
    "vit_tiny": (192, 12, 3),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
}


class ViTShape(NamedTuple):
    """Width, depth, heads, and the patch size in pixels; None if the patch size depends on the image size."""

    dim: int
    depth: int
    heads: int
    patch: int | None


def vit_shape(arch: str) -> ViTShape | None:
    """The shape of the ViT named ``arch``; None if ``arch`` is not a ViT.

    Raises:
        SSLToolError: if the width is not divisible by the number of heads.
    """
    name = re.fullmatch(r"(vit_\w+?)(?:_h([1-9]\d*))?(?:_p([1-9]\d*))?", arch)
    if not name or name[1] not in VITS:
        return None
    dim, depth, heads = VITS[name[1]]
    heads = int(name[2] or heads)
    if dim % heads:
        raise SSLToolError(f"{arch}: the width {dim} is not divisible by {heads} heads; choose another number after _h")
    return ViTShape(dim, depth, heads, int(name[3]) if name[3] else None)


def vit_of(dim: int, depth: int) -> str | None:
    """The name in ``VITS`` with this width and depth; None if there is none."""
    return next((name for name, shape in VITS.items() if shape[:2] == (dim, depth)), None)


def vit_name(shape: ViTShape, image_size: int) -> str | None:
    """The shortest name of a ViT of ``shape`` for images of ``image_size`` pixels; None if there is none."""
    name = vit_of(shape.dim, shape.depth)
    if name is None:
        return None
    heads = f"_h{shape.heads}" if shape.heads != VITS[name][2] else ""
    return name + heads + (f"_p{shape.patch}" if shape.patch not in (None, patch_size(image_size)) else "")


class ViT(VisionTransformer):
    """torchvision's ViT, which also returns patch tokens and takes images of any number of whole patches."""

    def tokens(self, x: Tensor) -> Tensor:
        """The class token and the patch tokens (N, 1 + P, D) after the last layer.

        Raises:
            SSLToolError: if the side of the images is not divisible by the patch size.
        """
        if x.shape[-1] % self.patch_size:
            raise SSLToolError(
                f"views of {x.shape[-1]} pixels are not divisible into patches of {self.patch_size} pixels; "
                "change --image-size or --set local_size"
            )
        patches = self.conv_proj(x)
        side = patches.shape[-1]
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches.flatten(2).mT], dim=1)
        out: Tensor = self.encoder.ln(self.encoder.layers(self.encoder.dropout(x + self._positions(side))))
        return out

    def _positions(self, side: int) -> Tensor:
        """The positional embeddings, interpolated to ``side`` x ``side`` patches as in DINO."""
        positions = self.encoder.pos_embedding
        trained_side = math.isqrt(positions.shape[1] - 1)
        if side == trained_side:
            return positions
        grid = positions[:, 1:].mT.unflatten(2, (trained_side, trained_side))
        grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
        return torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x)[:, 0]


class ViTs(Family):
    """All vision transformers of ``VITS``."""

    settings = frozenset({"stop_grad_conv1", "drop_path"})
    declares_layers = True

    def names(self) -> list[str]:
        return [*VITS, "vit_small_h6"]

    def matches(self, name: str) -> bool:
        return vit_shape(name) is not None

    def build(
        self, name: str, *, stem: str, image_size: int, stop_grad_conv1: bool, zero_init_residual: bool
    ) -> tuple[nn.Module, int]:
        shape = vit_shape(name)
        if shape is None:
            raise SSLToolError(f"{name} is not a ViT; choose among {', '.join(self.names())}")
        return _vit(shape, image_size, stop_grad_conv1), shape.dim

    def owns(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, VisionTransformer)

    def layer_of(self, parameter: str) -> int | None:
        """The embedding is layer 0, the blocks are layers 1 to L; the last norm counts with the head."""
        if block := BLOCK.match(parameter):
            return int(block[1]) + 1
        if parameter.startswith("encoder.ln."):
            return None
        if parameter.startswith(("conv_proj.", "class_token", "encoder.pos_embedding")):
            return 0
        raise SSLToolError(f"the layer of {parameter} is unknown: a ViT has no such parameter")

    def token_layout(self, backbone: nn.Module) -> TokenLayout | None:
        return TokenLayout()

    def last_layer(self, backbone: nn.Module, images: Tensor) -> Tensor:
        return backbone.tokens(images) if isinstance(backbone, ViT) else super().last_layer(backbone, images)

    def counterpart(self, library: str, name: str, *, stem: str, image_size: int) -> Counterpart | None:
        shape = vit_shape(name)
        return None if shape is None else counterpart_of(library, shape, image_size)


FAMILY = ViTs()


def add_drop_path(backbone: nn.Module, rate: float) -> None:
    """Adds stochastic depth to the residual branches of a ViT.

    In training, a branch is left out for an image with a probability that increases linearly from 0 in the first block
    to ``rate`` in the last. Parameters keep their names.

    Raises:
        UsageError: if ``backbone`` is not one of these ViTs.
    """
    if not isinstance(backbone, ViT):
        raise UsageError(
            f"--set drop_path={rate} is for the ViTs of ssltool (vit_small, ...), and the backbone is another network; "
            "leave it out"
        )
    blocks = list(backbone.encoder.layers)
    for number, block in enumerate(blocks):
        drop = StochasticDepth(rate * number / max(1, len(blocks) - 1), "row")
        block.dropout, block.mlp[-1] = drop, drop  # each is the last layer of its branch


def counterpart_of(library: str, shape: ViTShape, image_size: int) -> Counterpart | None:
    """A ViT of ``shape`` for images of ``image_size`` pixels in another library, as ``Family.counterpart``."""
    sizes = (image_size, shape.patch or patch_size(image_size), shape.depth, shape.heads, shape.dim)
    if library == "timm":
        used = dict(zip(("img_size", "patch_size", "depth", "num_heads", "embed_dim"), sizes, strict=True))
        model = "vit_base_patch16_224"
        build = f"import timm\nmodel = {call('timm.create_model', model, num_classes=0, **used)}"
        return Counterpart(model, used, build, lambda weights: {timm_name(name): w for name, w in weights.items()})
    if library == "transformers":
        names = ("image_size", "patch_size", "num_hidden_layers", "num_attention_heads", "hidden_size")
        more = {"intermediate_size": 4 * shape.dim, "layer_norm_eps": 1e-6}
        return Counterpart("vit", dict(zip(names, sizes, strict=True)) | more, translate=_in_transformers)
    if library not in (PYTHON, "torchvision"):
        return None
    names = ("image_size", "patch_size", "num_layers", "num_heads", "hidden_dim")
    used = dict(zip(names, sizes, strict=True)) | {"mlp_dim": 4 * shape.dim}
    build = f"model = {call('torchvision.models.VisionTransformer', **used)}\nmodel.heads = torch.nn.Identity()"
    return Counterpart("VisionTransformer", used, f"import torch, torchvision\n{build}")


def patch_size(image_size: int) -> int:
    """The default patch size of a ViT in pixels."""
    return 16 if image_size > SMALL_IMAGE else 4


def divided_into_patches(image_size: int, patch: int | None = None) -> int:
    """The patch size: ``patch``, or the default.

    Raises:
        SSLToolError: if ``image_size`` is not divisible by it.
    """
    patch = patch or patch_size(image_size)
    if image_size % patch:
        nearest = " or ".join(str(count * patch) for count in (image_size // patch, image_size // patch + 1) if count)
        raise SSLToolError(
            f"--image-size {image_size} is not divisible by the patch size of the ViT, {patch} pixels; use {nearest}"
        )
    return patch


def _vit(shape: ViTShape, image_size: int, stop_grad_conv1: bool) -> VisionTransformer:
    dim, depth, heads, _ = shape
    patch = divided_into_patches(image_size, shape.patch)
    model = ViT(image_size, patch, depth, heads, hidden_dim=dim, mlp_dim=4 * dim)
    model.heads = nn.Identity()  # type: ignore[assignment]
    # Appendix of MoCo v3 (arXiv:2104.02057): fixed 2-D sine-cosine positions, Xavier-uniform weights.
    positions = _sincos_positions(image_size // patch, dim)
    model.encoder.pos_embedding = nn.Parameter(positions, requires_grad=False)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            bound = math.sqrt(6 / (dim + dim))  # queries, keys and values as separate matrices
            nn.init.uniform_(module.in_proj_weight, -bound, bound)
    nn.init.normal_(model.class_token, std=1e-6)
    bound = math.sqrt(6 / (3 * patch * patch + dim))
    nn.init.uniform_(model.conv_proj.weight, -bound, bound)
    nn.init.zeros_(model.conv_proj.bias)  # type: ignore[arg-type]
    if stop_grad_conv1:
        model.conv_proj.requires_grad_(False)
    return model


def _sincos_positions(side: int, dim: int) -> Tensor:
    """Positional embeddings (1, 1 + side^2, dim): 0 for the class token, sines and cosines of column and row for each
    patch."""
    omega = 1.0 / 10000 ** (torch.arange(dim // 4) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [position.flatten()[:, None] * omega for position in (column, row)]
    patches = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(1, dim), patches])[None]


def _in_transformers(weights: Weights) -> Weights:
    """The weights of a ViT with the names of transformers, which has separate matrices of query, key and value."""
    found: Weights = {}
    for name, tensor in weights.items():
        theirs = timm_name(name)
        for ours, other in _TRANSFORMERS:
            theirs = re.sub(ours, other, theirs)
        if ".qkv." not in theirs:
            found[theirs] = tensor
            continue
        parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
        found |= {theirs.replace("qkv", part): rows.clone() for part, rows in parts}
    return found


_TRANSFORMERS = (
    (r"^cls_token", "embeddings.cls_token"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.(\d+)\.", r"encoder.layer.\1."),
    (r"norm1\.", "layernorm_before."),
    (r"norm2\.", "layernorm_after."),
    (r"attn\.qkv", "attention.attention.qkv"),
    (r"attn\.proj", "attention.output.dense"),
    (r"mlp\.fc1", "intermediate.dense"),
    (r"mlp\.fc2", "output.dense"),
)
"""Names of timm and transformers for the parameters of a ViT."""
