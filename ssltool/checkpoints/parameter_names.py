"""Naming schemes of other programs' parameters, and their translation to torchvision's names, which ssltool uses.

A ResNet is saved with torchvision's names, or as an ``nn.Sequential`` of its children, which are then numbered. A ViT
is saved with torchvision's names, or with timm's, which MoCo v3 and DINO use too. The tensors are the same in all
schemes: timm's ``qkv`` has the rows of the query, key and value matrices in the same order as ``in_proj_weight``.
Networks that only timm has keep their names here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NamingScheme:
    """A way to name the parameters of a network.

    ``anchor`` is a parameter name that identifies the scheme. Rules are pairs of a regular expression and its
    replacement by torchvision's name: the first of ``prefix_rules`` that matches replaces the beginning of a name,
    all ``inner_rules`` replace later parts. ``ours`` is whether ssltool has networks of this kind itself. ``to_timm``
    are pairs of a regular expression and its replacement, which give timm's names; these are then translated.
    ``pooled`` is whether the stem of a ResNet may have a pooling layer. ``wide`` are the forms that a wide ResNet with
    these names may have; other networks have none. ``unused`` are regular expressions of parameters that do not affect
    the program's outputs.
    """

    name: str
    anchor: str
    prefix_rules: tuple[tuple[str, str], ...] = ()
    inner_rules: tuple[tuple[str, str], ...] = ()
    ours: bool = True
    to_timm: tuple[tuple[str, str], ...] = ()
    pooled: bool = True
    wide: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def rename(self, name: str) -> str:
        """Translates ``name`` to torchvision's name."""
        for pattern, replacement in self.prefix_rules:
            name, count = re.subn(rf"^{pattern}(?=\.|$)", replacement, name)
            if count:
                break
        for pattern, replacement in self.inner_rules:
            name = re.sub(rf"(?<=\.){pattern}(?=\.|$)", replacement, name)
        return name


# Pairs of timm's and torchvision's names: inside a layer of a ViT, and outside.
_VIT_LAYER = (
    ("norm1", "ln_1"),
    ("norm2", "ln_2"),
    ("attn.qkv.weight", "self_attention.in_proj_weight"),
    ("attn.qkv.bias", "self_attention.in_proj_bias"),
    ("attn.proj", "self_attention.out_proj"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.3"),
)
_VIT = (
    ("cls_token", "class_token"),
    ("pos_embed", "encoder.pos_embedding"),
    ("patch_embed.proj", "conv_proj"),
    ("norm", "encoder.ln"),
)


def _numbered(**stages: str) -> tuple[tuple[str, str], ...]:
    return tuple((number, name) for name, number in stages.items())


NAMING_SCHEMES = (
    NamingScheme("ssltool's wide ResNet", "stages.0.0.conv1.bias", wide=("", "_leaky")),
    NamingScheme(
        "PAWS's wide ResNet",
        "layer1.0.conv1.bias",
        (("conv1", "stem"), ("bn1", "norm"), *((f"layer{stage + 1}", f"stages.{stage}") for stage in range(3))),
        ((r"shortcut\.0", "shortcut"),),
        wide=("",),
    ),
    NamingScheme(
        "solo-learn's wide ResNet",
        "block1.layer.0.conv1.weight",
        (("conv1", "stem"), ("bn1", "norm"), *((rf"block{stage + 1}\.layer", f"stages.{stage}") for stage in range(3))),
        (("convShortcut", "shortcut"),),
        wide=("_leaky",),
        unused=(r"block[23]\.layer\.0\.bn1\..*",),
    ),
    NamingScheme("torchvision", "layer1.0.conv1.weight", inner_rules=(("shortcut", "downsample"),)),
    NamingScheme(
        "children of torchvision's",
        "7.0.conv1.weight",
        _numbered(conv1="0", bn1="1", layer1="4", layer2="5", layer3="6", layer4="7"),
    ),
    NamingScheme(
        "children of lightly's",
        "2.0.conv1.weight",
        _numbered(conv1="0", bn1="1", layer1="2", layer2="3", layer3="4", layer4="5"),
        (("shortcut", "downsample"),),
        pooled=False,
    ),
    NamingScheme(
        "children without pooling",
        "6.0.conv1.weight",
        _numbered(conv1="0", bn1="1", layer1="3", layer2="4", layer3="5", layer4="6"),
        pooled=False,
    ),
    NamingScheme(
        "torchvision's ViT",
        "conv_proj.weight",
        inner_rules=((r"mlp\.linear_1", "mlp.0"), (r"mlp\.linear_2", "mlp.3")),
    ),
    NamingScheme(
        "timm's ViT",
        "patch_embed.proj.weight",
        ((r"blocks\.(\d+)", r"encoder.layers.encoder_layer_\1"), *((re.escape(a), b) for a, b in _VIT)),
        tuple((re.escape(a), b) for a, b in _VIT_LAYER),
    ),
    NamingScheme(
        "OpenMMLab's ViT",
        "patch_embed.projection.weight",
        to_timm=(
            (r"^patch_embed\.projection\.", "patch_embed.proj."),
            (r"^layers\.", "blocks."),
            (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
            (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
            (r"\.ln([12])\.", r".norm\1."),
            (r"^(ln|norm)1\.", "norm."),
        ),
    ),
    NamingScheme(
        "CLIP's ViT",
        "ln_pre.weight",
        to_timm=(
            (r"^class_embedding$", "cls_token"),
            (r"^positional_embedding$", "pos_embed"),
            (r"^conv1\.", "patch_embed.proj."),
            (r"^ln_pre\.", "norm_pre."),
            (r"^ln_post\.", "norm."),
            (r"^transformer\.resblocks\.", "blocks."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.attn\.in_proj_", ".attn.qkv."),
            (r"\.attn\.out_proj\.", ".attn.proj."),
            (r"\.mlp\.c_fc\.", ".mlp.fc1."),
            (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        ),
    ),
    NamingScheme("timm's ConvNeXt", "stages.0.blocks.0.conv_dw.weight", ours=False),
    NamingScheme("Meta's ConvNeXt", "downsample_layers.0.0.weight", ours=False),
    NamingScheme("timm's EfficientNet", "conv_stem.weight", ours=False),
    NamingScheme("EfficientNet-PyTorch", "_conv_stem.weight", ours=False),  # translated by efficientnet_names
)
"""Tried in this order; the first that matches a prefix is used."""


def find_naming_schemes(
    names: Iterable[str], schemes: Sequence[NamingScheme] = NAMING_SCHEMES
) -> dict[str, NamingScheme]:
    """The naming scheme of each network among the parameter ``names``, by the network's prefix.

    A prefix is empty or ends with a dot.
    """
    found: dict[str, NamingScheme] = {}
    names = list(names)
    for scheme in schemes:
        for name in names:
            prefix = name.removesuffix(scheme.anchor)
            if prefix != name and (not prefix or prefix.endswith(".")):
                found.setdefault(prefix, scheme)
    return found


TIMMS_VIT = next(scheme for scheme in NAMING_SCHEMES if scheme.name == "timm's ViT")

_SEPARATE = re.compile(r"(blocks\.\d+\.attn\.)(?:(q)|k|v)(?:_proj)?\.(weight|bias)")
"""The queries, keys and values of a ViT's layer in three matrices; the second group is set for the first of them."""


def with_timm_names(weights: Mapping[str, Tensor], scheme: NamingScheme) -> tuple[dict[str, Tensor], NamingScheme]:
    """The weights of a ViT with timm's names, and the scheme of these, if ``scheme`` or their names say how; else both
    as they are. Queries, keys and values in three matrices are joined."""
    named = dict(weights)
    for pattern, replacement in scheme.to_timm:
        named = {re.sub(pattern, replacement, name): tensor for name, tensor in named.items()}
    if scheme.to_timm:
        scheme = TIMMS_VIT
        for name in ("cls_token", "pos_embed"):
            if name in named and named[name].dim() in (1, 2) and named[name].numel():
                named[name] = named[name].reshape(1, -1, named[name].shape[-1])
    if scheme is not TIMMS_VIT:
        return named, scheme
    for name in list(named):
        found = _SEPARATE.fullmatch(name)
        if found is None or found[2] is None:
            continue
        parts = [re.sub(r"\.q(?=[_.])", f".{part}", name) for part in "qkv"]
        joined, shape = f"{found[1]}qkv.{found[3]}", named[name].shape
        if joined not in named and shape and all(part in named and named[part].shape == shape for part in parts):
            named[joined] = torch.cat([named.pop(part) for part in parts])
    return named, scheme


def timm_name(name: str) -> str:
    """Translates torchvision's ``name`` of a ViT's parameter to timm's."""
    name = re.sub(r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1.", name)
    for timm, torchvision in (*_VIT_LAYER, *_VIT):
        name = re.sub(rf"(?:(?<=\.)|^){re.escape(torchvision)}(?=\.|$)", timm, name)
    return name
