"""Determines the architecture of a backbone from the names and shapes of its weights.

The weights are compared with backbones that are built on the meta device. Nothing is guessed: what shapes do not show
(the number of a ViT's heads, the padding and stride of a small stem) is given by the layout or by the user.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssltool.checkpoints.checkpoint_layouts import TIMM_HEADS, CheckpointLayout
from ssltool.checkpoints.unknown_networks import OF_TIMM, nearest_name
from ssltool.errors import SSLToolError
from ssltool.files.misfit import name_keys
from ssltool.models.backbones import build_backbone, family_of, is_known
from ssltool.models.resnet import NARROW, STEM_CONVS, VARIANTS, torchvision_resnets
from ssltool.models.vit import VITS, ViTShape, vit_name, vit_of, vit_shape
from ssltool.models.wide_resnet import FORMS, STAGES, STEM_WIDTH, WideShape

COUNTER = "num_batches_tracked"
"""Batch norm's counter of steps. It does not affect the outputs and is missing in old files."""

SHOWN = 4
"""Parameter names that an error message lists."""

RESNET_SIZE = 224
SMALL_STEM_SIZE = 32
"""Image sizes in pixels of ResNets with the ImageNet stem and with the others."""

OTHER_WIDE = (
    "; of wide ResNets, those of PAWS and solo-learn are read, whose convolutions have biases; save the "
    "representations of others to a .npz file"
)

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class BackboneSpec:
    """The arguments of ``build_backbone``."""

    arch: str
    stem: str
    image_size: int
    stop_grad_conv1: bool = False
    zero_init_residual: bool = True


def match_backbone(
    path: str,
    weights: Mapping[str, Tensor],
    layout: CheckpointLayout,
    *,
    arch: str | None = None,
    stem: str | None = None,
    wide: Sequence[str] = (),
) -> BackboneSpec:
    """Determines how to build the backbone with these ``weights`` (ssltool's names, without a head).

    ``arch`` and ``stem`` are the user's; they decide what the weights do not show. ``wide`` are the forms that the
    backbone may have if it is a wide ResNet.

    Raises:
        UsageError: if ``arch`` is unknown.
        SSLToolError: if the weights are not exactly those of a backbone that ``build_backbone`` can build, or
            contradict ``arch`` or ``stem``.
    """
    if arch is not None:
        family_of(arch)
    stem = None if stem == "auto" else stem
    if wide:
        return _wide_resnet(path, weights, wide, arch, stem)
    find = _vit if "conv_proj.weight" in weights else _resnet
    return find(path, weights, layout, arch, stem)


def _resnet(
    path: str, weights: Mapping[str, Tensor], layout: CheckpointLayout, arch: str | None, stem: str | None
) -> BackboneSpec:
    names = torchvision_resnets() + list(VARIANTS)
    bn1 = weights.get("bn1.weight")
    width = 64 if bn1 is None else bn1.numel()
    if width != 64 and width % 8 == 0:
        names = [f"{base}_w{width}" for base in NARROW]
    names += [f"{base}_w64" for base in NARROW if base not in names]  # such as resnet200_w64
    shapes = _shapes(weights)
    found = next((name for name in names if _shapes_of(name) == shapes), None)
    if found is None:
        nearest = min(names, key=lambda name: len(shapes.items() ^ _shapes_of(name).items()))
        raise Mismatch(path, shapes, _shapes_of(nearest), f"{nearest}, the nearest architecture", _advice(shapes))
    if arch is not None and _shapes_of(arch) != shapes:
        raise _contradiction(path, "arch", arch, found)
    stem = _stem(path, weights, layout, stem)
    return BackboneSpec(found, stem, RESNET_SIZE if stem == "imagenet" else SMALL_STEM_SIZE)


def _stem(path: str, weights: Mapping[str, Tensor], layout: CheckpointLayout, given: str | None) -> str:
    kernel = weights["conv1.weight"].shape[-1]
    possible = [name for name, (side, *_) in STEM_CONVS.items() if side == kernel]
    if not possible:
        raise SSLToolError(f"{path}: the first convolution is {kernel}x{kernel}; no stem of ssltool has such a kernel")
    if given is not None and given not in possible:
        raise _contradiction(path, "stem", given, " or ".join(possible))
    return given or (layout.stem if layout.stem in possible else possible[0])


def _wide_resnet(
    path: str, weights: Mapping[str, Tensor], forms: Sequence[str], arch: str | None, stem: str | None
) -> BackboneSpec:
    if stem is not None:
        raise SSLToolError(f"--stem {stem} has no effect with {path}, which contains a wide ResNet; leave it out")
    norm, shapes = weights.get("stages.0.0.bn2.weight"), _shapes(weights)
    blocks = {match[1] for name in weights if (match := re.match(r"stages\.0\.(\d+)\.", name))}
    widening = 1 if norm is None else max(1, norm.numel() // STEM_WIDTH)
    names = [WideShape(2 * STAGES * len(blocks) + 4, widening, FORMS[form]).name for form in forms]
    if not is_known(names[0]):
        raise SSLToolError(f"{path} contains {names[0]}, which is too large; save the weights again")
    found = next((name for name in names if _shapes_of(name) == shapes), None)
    if found is None:
        raise Mismatch(path, shapes, _shapes_of(names[0]), f"{names[0]}, the nearest architecture", OTHER_WIDE)
    if arch is not None and arch != found:
        raise _contradiction(path, "arch", arch, found)
    return BackboneSpec(found, "auto", SMALL_STEM_SIZE)


def _vit(
    path: str, weights: Mapping[str, Tensor], layout: CheckpointLayout, arch: str | None, stem: str | None
) -> BackboneSpec:
    if stem is not None:
        raise SSLToolError(f"--stem {stem} has no effect with {path}, which contains a ViT; leave it out")
    positions, projection = weights.get("encoder.pos_embedding"), weights["conv_proj.weight"]
    tokens = positions.shape[1] if positions is not None and positions.dim() == 3 else 0
    if positions is None or projection.dim() != 4 or math.isqrt(tokens - 1 if tokens else 0) ** 2 != tokens - 1:
        raise NotOurs(
            f"{path} has positional embeddings of {tokens} tokens; ssltool's ViTs have a class token and a square "
            "number of patches"
        )
    dim, patch = projection.shape[0], projection.shape[-1]
    depth = len({name.split(".")[2] for name in weights if name.startswith("encoder.layers.")})
    size = math.isqrt(tokens - 1) * patch
    base = vit_of(dim, depth)
    if base is None:
        raise NotOurs(f"{path}: ssltool has no ViT with width {dim} and {depth} layers")
    registers = weights["registers"].shape[1] if "registers" in weights and weights["registers"].dim() == 3 else 0
    shape = ViTShape(dim, depth, _heads(path, base, positions, layout, arch), patch, registers)
    found = vit_name(shape, size) or base
    if arch is not None:
        given = vit_shape(arch)
        if given is None or given._replace(patch=given.patch or patch) != shape:
            raise _contradiction(path, "arch", arch, found)
    shapes = _shapes(weights)
    if shapes != _shapes_of(found, size):
        raise Mismatch(path, shapes, _shapes_of(found, size), found, _advice(shapes))
    return BackboneSpec(found, "auto", size)


def _heads(path: str, base: str, positions: Tensor, layout: CheckpointLayout, arch: str | None) -> int:
    """The number of heads, which the weights do not show: that in the name ``arch``, or else the layout's."""
    named = vit_shape(arch) if arch is not None else None
    if named and re.search(r"_h\d", str(arch)):
        return named.heads
    default = VITS[base][2]
    heads = (TIMM_HEADS if layout.heads is None else layout.heads).get(base, default)
    # MoCo v3's class token has the position 0, so a bare state dict with such positions may come from MoCo v3.
    ambiguous = layout.heads is None or (layout.method is None and not layout.prefix and not positions[:, 0].any())
    if heads == default or not ambiguous:
        return heads
    if named is None:
        raise SSLToolError(
            f"{path}: the weights do not show the number of heads of this ViT; give -a {base} for {default} heads "
            f"(MoCo v3) or -a {base}_h{heads} for {heads} (timm, DINO)"
        )
    return named.heads


def _advice(names: Collection[str]) -> str:
    """What to do about weights with these ``names`` if they are like those of a known family; else empty."""
    advice = nearest_name(names)
    return "" if advice == OF_TIMM else f"; {advice}"


def _shapes(weights: Mapping[str, Tensor]) -> Shapes:
    """The shapes of the parameters and buffers that identify an architecture."""
    return {
        name: tuple(tensor.shape[:2] if name == "conv1.weight" else tensor.shape)  # the kernel size depends on the stem
        for name, tensor in weights.items()
        if not name.endswith(COUNTER)
    }


@functools.cache
def _shapes_of(arch: str, image_size: int = RESNET_SIZE) -> Shapes:
    with torch.device("meta"):
        backbone, _ = build_backbone(arch, image_size=image_size)
    return _shapes(backbone.state_dict())


def _contradiction(path: str, flag: str, given: str, found: str) -> SSLToolError:
    return SSLToolError(f"--{flag} is {given}, but {path} contains {found}; leave it out")


class NotOurs(SSLToolError):
    """Weights of a network that ssltool cannot build itself; it may be one of another library."""


class Mismatch(NotOurs):
    """Weights that are not those of a backbone.

    Attributes:
        count: the number of parameters that differ.
        incomplete: whether all others are those of the backbone.
    """

    def __init__(self, path: str, found: Shapes, expected: Shapes, arch: str, remedy: str = "") -> None:
        """``expected`` are the shapes of ``arch``."""
        parts = {
            "missing": [name for name in expected if name not in found],
            "unexpected": [name for name in found if name not in expected],
            "of another shape": [name for name in expected if name in found and found[name] != expected[name]],
        }
        listed = "; ".join(f"{what}: {name_keys(names, SHOWN)}" for what, names in parts.items() if names)
        super().__init__(f"{path} does not contain one complete backbone; compared with {arch}, {listed}{remedy}")
        self.count = sum(map(len, parts.values()))
        self.incomplete = self.count == len(parts["missing"])


def add_batch_counters(weights: Mapping[str, Tensor], spec: BackboneSpec) -> dict[str, Tensor]:
    """``weights`` with batch norm's counters, set to 0 if the file does not contain them."""
    with torch.device("meta"):
        backbone, _ = build_backbone(**dataclasses.asdict(spec))
    return {name: weights.get(name, torch.tensor(0)) for name in backbone.state_dict()}
