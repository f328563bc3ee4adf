"""Architecture names to backbones: modules that map images (N, 3, S, S) to representations (N, D).

Every network is torchvision's, with its classifier taken off: the ResNets, the collapse paper's variants of ResNet-18
and ResNet-50, ResNets of another base width (``resnet18_w16``), and ViTs as MoCo v3 sets them up, whose names may add a
number of heads and a patch size (``vit_small_h6_p8``).
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from ssltool.errors import SSLToolError, UsageError, unknown

SMALL_IMAGE = 64
"""Pixels up to which the automatic stem is the small one and a ViT's patches are 4 pixels wide."""

# Blocks of the paper's variants: (block, layers, width per group).
VARIANTS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], int]] = {
    "resnet18_bottleneck_w64": (Bottleneck, [2, 2, 2, 2], 64),
    "resnet18_bottleneck_w96": (Bottleneck, [2, 2, 2, 2], 96),
    "resnet18_bottleneck_w128": (Bottleneck, [2, 2, 2, 2], 128),
    "resnet50_nobottleneck": (BasicBlock, [5, 6, 9, 4], 64),
}

# Width, depth and heads of the collapse paper's ViTs, of the student/teacher study's, and of the usual sizes. MoCo v3's
# vit_small has 12 heads; DINO's and timm's has 6, and is called vit_small_h6 here.
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

# Blocks of the ResNets that have a base width in their name.
NARROW: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
    "resnet200": (Bottleneck, [3, 24, 36, 3]),
}

# First convolution of each stem (kernel, stride, padding); only the first is followed by max-pooling. solo-learn pads
# its 3x3 convolution by 2 pixels.
STEM_CONVS = {"imagenet": (7, 2, 3), "small": (3, 1, 1), "small-stride2": (3, 2, 1), "small-padded": (3, 1, 2)}


class ViTShape(NamedTuple):
    """What a ViT's name says: width, depth, heads, and the side of its patches, None where the image size decides."""

    dim: int
    depth: int
    heads: int
    patch: int | None


def torchvision_resnets() -> list[str]:
    """Names of the ResNets that torchvision registers, wide and ResNeXt included."""
    return sorted(name for name in torchvision.models.list_models(module=torchvision.models) if "resne" in name)


def architectures() -> list[str]:
    """All names that ``build_backbone`` knows; any multiple of 8 may stand in ``resnet18_w16``, and ``_h6``, ``_p8`` or
    both behind a ViT's."""
    narrow = [f"{base}_w{width}" for base in NARROW for width in (16, 32)]
    return [*torchvision_resnets(), *VARIANTS, *narrow, *VITS, "vit_small_h6"]


def check_architecture(arch: str) -> None:
    """Refuses a name that ``build_backbone`` does not know.

    Raises:
        SSLToolError: with the nearest names.
    """
    if arch not in architectures() and not _narrow(arch) and not vit_shape(arch):
        raise unknown("architecture", arch, architectures())


def vit_shape(arch: str) -> ViTShape | None:
    """The shape of the ViT that ``arch`` names, None if it names none.

    Raises:
        SSLToolError: for a number of heads that does not divide the width.
    """
    name = re.fullmatch(r"(vit_\w+?)(?:_h([1-9]\d*))?(?:_p([1-9]\d*))?", arch)
    if not name or name[1] not in VITS:
        return None
    dim, depth, heads = VITS[name[1]]
    heads = int(name[2] or heads)
    if dim % heads:
        raise UsageError(f"{arch}: the width {dim} is not divisible by {heads} heads; change the number after _h")
    return ViTShape(dim, depth, heads, int(name[3]) if name[3] else None)


def vit_of(dim: int, depth: int) -> str | None:
    """The name in ``VITS`` of this width and depth, if there is one."""
    return next((name for name, shape in VITS.items() if shape[:2] == (dim, depth)), None)


def vit_name(shape: ViTShape, image_size: int) -> str | None:
    """The shortest name of a ViT of ``shape`` for images of ``image_size`` pixels; None if no name fits."""
    name = vit_of(shape.dim, shape.depth)
    if name is None:
        return None
    heads = f"_h{shape.heads}" if shape.heads != VITS[name][2] else ""
    return name + heads + (f"_p{shape.patch}" if shape.patch not in (None, patch_size(image_size)) else "")


def _narrow(arch: str) -> re.Match[str] | None:
    name = re.fullmatch(r"(resnet\d+)_w(\d+)", arch)
    return name if name and name[1] in NARROW and int(name[2]) > 0 and int(name[2]) % 8 == 0 else None


def resolve_stem(arch: str, stem: str, image_size: int) -> str:
    """The stem that ``auto`` means at this image size; ViTs have none and take only ``auto``.

    Raises:
        SSLToolError: for another stem on a ViT.
    """
    if vit_shape(arch):
        if stem != "auto":
            raise UsageError(f"--stem {stem} does nothing with {arch}, which has no stem; leave it out")
        return stem
    if stem != "auto":
        return stem
    return "small" if image_size <= SMALL_IMAGE else "imagenet"


def build_backbone(
    arch: str,
    *,
    stem: str = "auto",
    image_size: int = 224,
    stop_grad_conv1: bool = False,
    zero_init_residual: bool = True,
) -> tuple[nn.Module, int]:
    """The backbone and the width D of its representations, initialised from torch's global generator.

    Raises:
        SSLToolError: for an unknown name (the nearest are offered), or settings that do nothing with it.
    """
    stem = resolve_stem(arch, stem, image_size)
    shape = vit_shape(arch)
    if shape:
        return _vit(shape, image_size, stop_grad_conv1), shape.dim
    if stop_grad_conv1:
        raise UsageError(f"--stop-grad-conv1 does nothing with {arch}; it freezes the patch embedding of a ViT")
    model = _resnet(arch, zero_init_residual)
    dim = model.fc.in_features
    model.fc = nn.Identity()  # type: ignore[assignment]
    if stem != "imagenet":
        model.conv1 = _first_conv(model.bn1.num_features, *STEM_CONVS[stem])
        model.maxpool = nn.Identity()  # type: ignore[assignment]
    return model, dim


def _first_conv(width: int, kernel: int, stride: int, padding: int) -> nn.Conv2d:
    conv = nn.Conv2d(3, width, kernel, stride, padding, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _resnet(arch: str, zero_init_residual: bool) -> ResNet:
    if arch in VARIANTS:
        block, layers, width = VARIANTS[arch]
        return ResNet(block, layers, width_per_group=width, zero_init_residual=zero_init_residual)
    narrow = _narrow(arch)
    if narrow:
        return _NarrowResNet(*NARROW[narrow[1]], width=int(narrow[2]), zero_init_residual=zero_init_residual)
    check_architecture(arch)
    return torchvision.models.get_model(arch, weights=None, zero_init_residual=zero_init_residual)


class _NarrowResNet(ResNet):
    """A ResNet whose first stage has ``width`` channels instead of 64, and the others in proportion."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], layers: list[int], *, width: int, zero_init_residual: bool
    ) -> None:
        self._width = width
        super().__init__(block, layers, zero_init_residual=zero_init_residual)
        self.conv1 = _first_conv(width, *STEM_CONVS["imagenet"])
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(8 * width * block.expansion, 1)  # the caller takes it off

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):  # type: ignore[no-untyped-def]
        if planes == 64:
            self.inplanes = self._width
        return super()._make_layer(block, planes * self._width // 64, blocks, stride, dilate)


class ViT(VisionTransformer):
    """torchvision's, with patch tokens to be had, and for images of any number of whole patches."""

    def tokens(self, x: Tensor) -> Tensor:
        """The class token and the patches' (N, 1 + P, D) after the last layer."""
        if x.shape[-1] % self.patch_size:
            raise SSLToolError(
                f"views of {x.shape[-1]} pixels do not divide into patches of {self.patch_size}; "
                "change --image-size or --set local_size"
            )
        patches = self.conv_proj(x)
        side = patches.shape[-1]
        x = torch.cat([self.class_token.expand(len(x), -1, -1), patches.flatten(2).mT], dim=1)
        out: Tensor = self.encoder.ln(self.encoder.layers(self.encoder.dropout(x + self._positions(side))))
        return out

    def _positions(self, side: int) -> Tensor:
        """The patches' positions, stretched to ``side`` x ``side`` where the image is of another size (DINO)."""
        positions = self.encoder.pos_embedding
        own = math.isqrt(positions.shape[1] - 1)
        if side == own:
            return positions
        grid = positions[:, 1:].mT.unflatten(2, (own, own))
        grid = F.interpolate(grid, (side, side), mode="bicubic", align_corners=False)
        return torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.tokens(x)[:, 0]


def is_vit(backbone: nn.Module) -> bool:
    """Whether a backbone is a ViT, for which some papers have other heads."""
    return isinstance(backbone, VisionTransformer)


def patch_tokens(backbone: nn.Module, images: Tensor) -> Tensor:
    """What a backbone makes of each place (N, P, D): a ViT's patch tokens, or the pixels of a ResNet's last map."""
    if isinstance(backbone, ViT):
        return backbone.tokens(images)[:, 1:]
    if not isinstance(backbone, ResNet):
        raise SSLToolError(f"a {type(backbone).__name__} has no patch tokens; take a ViT or a ResNet")
    x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
    for stage in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
        x = stage(x)
    return x.flatten(2).mT


def patch_size(image_size: int) -> int:
    """The side of a ViT's patches at an image size."""
    return 16 if image_size > SMALL_IMAGE else 4


def _vit(shape: ViTShape, image_size: int, stop_grad_conv1: bool) -> VisionTransformer:
    dim, depth, heads, _ = shape
    patch = shape.patch or patch_size(image_size)
    if image_size % patch:
        raise SSLToolError(f"--image-size {image_size} does not divide into a ViT's patches of {patch} pixels")
    model = ViT(image_size, patch, depth, heads, hidden_dim=dim, mlp_dim=4 * dim)
    model.heads = nn.Identity()  # type: ignore[assignment]
    # App. of MoCo v3 (arXiv:2104.02057): fixed 2-D sine-cosine positions, Xavier-uniform weights.
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
    """(1, 1 + side^2, dim): zeros for the class token, then sines and cosines of each patch's column and row."""
    omega = 1.0 / 10000 ** (torch.arange(dim // 4) / (dim // 4))
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = [position.flatten()[:, None] * omega for position in (column, row)]
    patches = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], dim=1)
    return torch.cat([torch.zeros(1, dim), patches])[None]
