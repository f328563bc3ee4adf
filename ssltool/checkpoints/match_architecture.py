"""Which network the weights are of, by the names and shapes of their tensors.

The backbones are built without memory and compared. Nothing is guessed: what shapes leave open (a ViT's heads, the
padding and stride of a small stem) the layout says, or the user.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.checkpoints.layouts import TIMMS, Layout
from ssltool.errors import SSLToolError
from ssltool.models.backbones import build_backbone, family_of
from ssltool.models.resnet import NARROW, STEM_CONVS, VARIANTS, torchvision_resnets
from ssltool.models.vit import VITS, ViTShape, vit_name, vit_of, vit_shape

COUNTER = "num_batches_tracked"
"""Batch norm's count of steps. It changes nothing and old files lack it."""

SHOWN = 4
"""Names that an error lists before it counts the rest."""

RESNETS_SIZE = 224
SMALL_STEMS_SIZE = 32

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class BackboneSpec:
    """How a backbone is built: the arguments of ``build_backbone``."""

    arch: str
    stem: str
    image_size: int
    stop_grad_conv1: bool = False
    zero_init_residual: bool = True


def match_backbone(
    path: str, weights: Mapping[str, Tensor], layout: Layout, *, arch: str | None = None, stem: str | None = None
) -> BackboneSpec:
    """The make of the network with these ``weights`` (torchvision's names, no head). ``arch`` and ``stem`` are what the
    user says it is; they decide where the weights leave it open.

    Raises:
        SSLToolError: if the weights are of no network that ``build_backbone`` knows, some are missing or left over, or
            they contradict ``arch`` or ``stem``.
    """
    if arch is not None:
        family_of(arch)
    find = _vit if "conv_proj.weight" in weights else _resnet
    return find(path, weights, layout, arch, None if stem == "auto" else stem)


def _resnet(
    path: str, weights: Mapping[str, Tensor], layout: Layout, arch: str | None, stem: str | None
) -> BackboneSpec:
    names = torchvision_resnets() + list(VARIANTS)
    bn1 = weights.get("bn1.weight")
    width = 64 if bn1 is None else bn1.numel()
    if width != 64 and width % 8 == 0:
        names = [f"{base}_w{width}" for base in NARROW]
    names += [f"{base}_w64" for base in NARROW if base not in names]  # what is in no library by a name of its own
    shapes = _shapes(weights)
    found = next((name for name in names if _shapes_of(name) == shapes), None)
    if found is None:
        nearest = min(names, key=lambda name: len(shapes.items() ^ _shapes_of(name).items()))
        raise _mismatch(path, shapes, _shapes_of(nearest), f"{nearest}, the nearest")
    if arch is not None and _shapes_of(arch) != shapes:
        raise _contradiction(path, "arch", arch, found)
    stem = _stem(path, weights, layout, stem)
    return BackboneSpec(found, stem, RESNETS_SIZE if stem == "imagenet" else SMALL_STEMS_SIZE)


def _stem(path: str, weights: Mapping[str, Tensor], layout: Layout, asked: str | None) -> str:
    kernel = weights["conv1.weight"].shape[-1]
    possible = [name for name, (side, *_) in STEM_CONVS.items() if side == kernel]
    if not possible:
        raise SSLToolError(f"{path}: a first convolution of {kernel}x{kernel} is of no stem that ssltool knows")
    if len(possible) > 1 and layout.stem is not None:
        possible = [layout.stem]
    if asked is not None and asked not in possible:
        raise _contradiction(path, "stem", asked, " or ".join(possible))
    return asked or possible[0]


def _vit(path: str, weights: Mapping[str, Tensor], layout: Layout, arch: str | None, stem: str | None) -> BackboneSpec:
    if stem is not None:
        raise SSLToolError(f"--stem {stem} does nothing with {path}, which holds a ViT; leave it out")
    positions, projection = weights.get("encoder.pos_embedding"), weights["conv_proj.weight"]
    tokens = positions.shape[1] if positions is not None and positions.dim() == 3 else 0
    if positions is None or projection.dim() != 4 or math.isqrt(tokens - 1 if tokens else 0) ** 2 != tokens - 1:
        raise SSLToolError(
            f"{path} has the positions of {tokens} tokens; ssltool's ViTs have a class token and a square of patches"
        )
    dim, patch = projection.shape[0], projection.shape[-1]
    depth = len({name.split(".")[2] for name in weights if name.startswith("encoder.layers.")})
    size = math.isqrt(tokens - 1) * patch
    base = vit_of(dim, depth)
    if base is None:
        raise SSLToolError(f"{path}: ssltool has no ViT of width {dim} and {depth} layers")
    shape = ViTShape(dim, depth, _heads(path, base, positions, layout, arch), patch)
    found = vit_name(shape, size) or base
    if arch is not None:
        asked = vit_shape(arch)
        if asked is None or asked._replace(patch=asked.patch or patch) != shape:
            raise _contradiction(path, "arch", arch, found)
    shapes = _shapes(weights)
    if shapes != _shapes_of(found, size):
        raise _mismatch(path, shapes, _shapes_of(found, size), found)
    return BackboneSpec(found, "auto", size)


def _heads(path: str, base: str, positions: Tensor, layout: Layout, arch: str | None) -> int:
    """The number of heads, which no weight shows: what the name given spells out, else the layout's."""
    named = vit_shape(arch) if arch is not None else None
    if named and re.search(r"_h\d", str(arch)):
        return named.heads
    usual = VITS[base][2]
    heads = (TIMMS if layout.heads is None else layout.heads).get(base, usual)
    # MoCo v3's positions are fixed and its class token's zero: a bare file with such positions may be MoCo v3's.
    unsure = layout.heads is None or (layout.method is None and not layout.prefix and not positions[:, 0].any())
    if heads == usual or not unsure:
        return heads
    if named is None:
        raise SSLToolError(
            f"{path}: the weights do not show how many heads this ViT has; say it with -a: {base} has {usual} "
            f"(MoCo v3), {base}_h{heads} has {heads} (timm, DINO)"
        )
    return named.heads


def _shapes(weights: Mapping[str, Tensor]) -> Shapes:
    """Names and shapes of what makes a network the one that it is."""
    return {
        name: tuple(tensor.shape[:2] if name == "conv1.weight" else tensor.shape)  # its kernel is the stem's
        for name, tensor in weights.items()
        if not name.endswith(COUNTER)
    }


@functools.cache
def _shapes_of(arch: str, image_size: int = RESNETS_SIZE) -> Shapes:
    with torch.device("meta"):
        backbone, _ = build_backbone(arch, image_size=image_size)
    return _shapes(backbone.state_dict())


def _contradiction(path: str, flag: str, asked: str, found: str) -> SSLToolError:
    return SSLToolError(f"--{flag} is {asked}, but {path} holds {found}; leave it out")


def _mismatch(path: str, found: Shapes, wanted: Shapes, arch: str) -> SSLToolError:
    """The error for weights that are not those of any network; ``arch`` is what they are compared with."""
    parts = {
        "missing": [name for name in wanted if name not in found],
        "left over": [name for name in found if name not in wanted],
        "of another shape": [name for name in wanted if name in found and found[name] != wanted[name]],
    }
    listed = "; ".join(f"{what}: {_some(names)}" for what, names in parts.items() if names)
    return SSLToolError(f"{path} does not hold the whole of one network; beside {arch}, {listed}")


def _some(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def complete(weights: Mapping[str, Tensor], make: BackboneSpec) -> dict[str, Tensor]:
    """``weights`` with batch norm's counts of steps, at zero where the file has none."""
    with torch.device("meta"):
        backbone, _ = build_backbone(**dataclasses.asdict(make))
    return {name: weights.get(name, torch.tensor(0)) for name in backbone.state_dict()}
