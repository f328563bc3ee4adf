"""Vision transformers as in MoCo v3. A name may contain the heads, the patch size and the number of registers
(``vit_small_h6_p8_r4``)."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.ops import StochasticDepth

from ssltool.checkpoints.parameter_names import timm_name
from ssltool.errors import SSLToolError, UsageError
from ssltool.models.counterpart import PYTHON, Counterpart, Weights, call
from ssltool.models.family import SMALL_IMAGE, Family, TokenLayout
from ssltool.models.masking import NOTHING, Masking

BLOCK = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.")

# (width, depth, heads) of the ViTs of the collapse paper, of the student/teacher study, of the standard sizes, and of a
# small one. MoCo v3's vit_small has 12 heads; that of DINO and timm has 6, and is named vit_small_h6 here.
VITS = {
    "vit_small": (384, 12, 12),
    "vit_small_depth6": (384, 6, 6),
    "vit_small_depth3": (384, 3, 6),
    "vit_w256_depth6": (256, 6, 4),
    "vit_tiny": (192, 12, 3),
    "vit_base": (768, 12, 12),
    "vit_large": (1024, 24, 16),
    "vit_huge": (1280, 32, 16),
    "vit_w64_depth2": (64, 2, 2),
}


class ViTShape(NamedTuple):
    """Width, depth, heads, the patch size in pixels, which is None if it depends on the image size, and the number of
    register tokens."""

    dim: int
    depth: int
    heads: int
    patch: int | None
    registers: int = 0


def vit_shape(arch: str) -> ViTShape | None:
    """The shape of the ViT named ``arch``; None if ``arch`` is not a ViT.

    Raises:
        SSLToolError: if the width is not divisible by the number of heads.
    """
    name = re.fullmatch(r"(vit_\w+?)(?:_h([1-9]\d*))?(?:_p([1-9]\d*))?(?:_r([1-9]\d*))?", arch)
    if not name or name[1] not in VITS:
        return None
    dim, depth, heads = VITS[name[1]]
    heads = int(name[2] or heads)
    if dim % heads:
        raise SSLToolError(f"{arch}: the width {dim} is not divisible by {heads} heads; choose another number after _h")
    return ViTShape(dim, depth, heads, int(name[3]) if name[3] else None, int(name[4] or 0))


def vit_of(dim: int, depth: int) -> str | None:
    """The name in ``VITS`` with this width and depth; None if there is none."""
    return next((name for name, shape in VITS.items() if shape[:2] == (dim, depth)), None)


def vit_name(shape: ViTShape, image_size: int) -> str | None:
    """The shortest name of a ViT of ``shape`` for images of ``image_size`` pixels; None if there is none."""
    name = vit_of(shape.dim, shape.depth)
    if name is None:
        return None
    heads = f"_h{shape.heads}" if shape.heads != VITS[name][2] else ""
    patch = f"_p{shape.patch}" if shape.patch not in (None, patch_size(image_size)) else ""
    return name + heads + patch + (f"_r{shape.registers}" if shape.registers else "")


class ViT(VisionTransformer):
    """torchvision's ViT, which also returns patch tokens and takes images of any number of whole patches.

    ``registers`` (arXiv:2309.16588) are further trained tokens (1, R, D), which follow the class token and have no
    positions, as in DINOv2; None if there are none.
    """

    registers: nn.Parameter | None

    def __init__(self, *args: Any, registers: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        empty = torch.empty(1, registers, self.hidden_dim)
        self.register_parameter("registers", nn.Parameter(empty) if registers else None)

    @property
    def layout(self) -> TokenLayout:
        """The order of the tokens."""
        return TokenLayout(registers=0 if self.registers is None else self.registers.shape[1])

    def tokens(self, x: Tensor, masking: Masking = NOTHING) -> Tensor:
        """The class token, the registers and the patch tokens (N, 1 + R + P, D) after the last layer, if it sees the
        patches that ``masking`` describes.

        Raises:
            SSLToolError: if the side of the images is not divisible by the patch size.
        """
        if x.shape[-1] % self.patch_size:
            raise SSLToolError(
                f"views of {x.shape[-1]} pixels are not divisible into patches of {self.patch_size} pixels; "
                "change --image-size or --set local_size"
            )
        embedded = self.conv_proj(x)
        positions = self._positions(embedded.shape[-1])
        patches = masking.select(masking.replace(embedded.flatten(2).mT) + positions[:, 1:])
        first = [self.class_token + positions[:, :1], *([] if self.registers is None else [self.registers])]
        x = torch.cat([*(token.expand(x.shape[0], -1, -1) for token in first), patches], dim=1)
        out: Tensor = self.encoder.ln(self.encoder.layers(self.encoder.dropout(x)))
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
    pools_last_layer = True

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
        if parameter.startswith(("conv_proj.", "class_token", "registers", "encoder.pos_embedding")):
            return 0
        raise SSLToolError(f"the layer of {parameter} is unknown: a ViT has no such parameter")

    def token_layout(self, backbone: nn.Module) -> TokenLayout | None:
        return backbone.layout if isinstance(backbone, ViT) else TokenLayout()

    def last_layer(self, backbone: nn.Module, images: Tensor) -> Tensor:
        return backbone.tokens(images) if isinstance(backbone, ViT) else super().last_layer(backbone, images)

    def takes_masks(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, ViT)

    def masked_tokens(self, backbone: nn.Module, images: Tensor, masking: Masking) -> Tensor:
        if not isinstance(backbone, ViT):
            return super().masked_tokens(backbone, images, masking)
        return backbone.tokens(images, masking)

    def patch_size(self, backbone: nn.Module) -> int | None:
        return backbone.patch_size if isinstance(backbone, VisionTransformer) else None

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
    if library == "timm" or (library == PYTHON and shape.registers):
        used = dict(zip(("img_size", "patch_size", "depth", "num_heads", "embed_dim"), sizes, strict=True))
        if shape.registers:
            used |= {"reg_tokens": shape.registers, "no_embed_class": True}
        model = "vit_base_patch16_224"
        build = f"import timm\nmodel = {call('timm.create_model', model, num_classes=0, **used)}"
        return Counterpart(model, used, build, _in_timm)
    if shape.registers:
        return None
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
    dim, depth, heads, _, registers = shape
    patch = divided_into_patches(image_size, shape.patch)
    model = ViT(image_size, patch, depth, heads, hidden_dim=dim, mlp_dim=4 * dim, registers=registers)
    model.heads = nn.Identity()  # type: ignore[assignment]
    # Appendix of MoCo v3 (arXiv:2104.02057): fixed 2-D sine-cosine positions, Xavier-uniform weights.
    positions = torch.cat([torch.zeros(1, dim), sincos_positions(image_size // patch, dim)])[None]
    model.encoder.pos_embedding = nn.Parameter(positions, requires_grad=False)
    initialise_linear(model)
    nn.init.normal_(model.class_token, std=1e-6)
    if model.registers is not None:
        nn.init.normal_(model.registers, std=1e-6)
    bound = math.sqrt(6 / (3 * patch * patch + dim))
    nn.init.uniform_(model.conv_proj.weight, -bound, bound)
    nn.init.zeros_(model.conv_proj.bias)  # type: ignore[arg-type]
    if stop_grad_conv1:
        model.conv_proj.requires_grad_(False)
    return model


def initialise_linear(network: nn.Module) -> None:
    """Draws the weights of linear layers, and of queries, keys and values as separate matrices, Xavier-uniform, and
    sets the biases of linear layers to 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.MultiheadAttention):
            bound = math.sqrt(6 / (2 * module.embed_dim))
            nn.init.uniform_(module.in_proj_weight, -bound, bound)


def sincos_positions(side: int, dim: int) -> Tensor:
    """Fixed positional embeddings (side^2, dim) of a square of patches, row by row: sines and cosines of the column and
    the row. ``dim`` is a multiple of 4."""
    omega = 1.0 / 10000 ** (torch.arange(dim // 4) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [position.flatten()[:, None] * omega for position in (column, row)]
    return torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)


def _in_timm(weights: Weights) -> Weights:
    """The weights of a ViT with timm's names. With registers, only patches have positions there, so that of the class
    token is part of the token."""
    found = {timm_name(name): tensor for name, tensor in weights.items()}
    registers = found.pop("registers", None)
    if registers is None:
        return found
    positions = found["pos_embed"]
    token = found["cls_token"] + positions[:, :1]
    return found | {"cls_token": token, "reg_token": registers, "pos_embed": positions[:, 1:].clone()}


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
