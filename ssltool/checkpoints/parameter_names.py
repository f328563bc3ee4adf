"""How programs call the parts of a network, and torchvision's names for the same parts, which are ours.

A ResNet is stored by torchvision's names, or as the children of one, numbered by ``nn.Sequential``. A ViT is stored by
torchvision's names or by timm's, which MoCo v3 and DINO share. All of them are the same arithmetic: timm's rows of
``qkv`` are the queries', keys' and values' matrices of ``in_proj_weight``, in this order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """One way to call the parts of a network. It is recognised by ``anchor``, a name that it always has, and turned
    into torchvision's names by replacing what stands at the beginning of a name (``starts``) and within (``within``).
    """

    name: str
    anchor: str
    starts: tuple[tuple[str, str], ...] = ()
    within: tuple[tuple[str, str], ...] = ()

    def rename(self, name: str) -> str:
        """torchvision's name of what this family calls ``name``."""
        for pattern, replacement in self.starts:
            name, count = re.subn(rf"^{pattern}(?=\.|$)", replacement, name)
            if count:
                break
        for pattern, replacement in self.within:
            name = re.sub(rf"(?<=\.){pattern}(?=\.|$)", replacement, name)
        return name


# Pairs of timm's and torchvision's names within a layer, and of the rest of a ViT.
_OF_A_LAYER = (
    ("norm1", "ln_1"),
    ("norm2", "ln_2"),
    ("attn.qkv.weight", "self_attention.in_proj_weight"),
    ("attn.qkv.bias", "self_attention.in_proj_bias"),
    ("attn.proj", "self_attention.out_proj"),
    ("mlp.fc1", "mlp.0"),
    ("mlp.fc2", "mlp.3"),
)
_OF_A_VIT = (
    ("cls_token", "class_token"),
    ("pos_embed", "encoder.pos_embedding"),
    ("patch_embed.proj", "conv_proj"),
    ("norm", "encoder.ln"),
)


def _numbered(**stages: str) -> tuple[tuple[str, str], ...]:
    return tuple((number, name) for name, number in stages.items())


FAMILIES = (
    Family("torchvision", "layer1.0.conv1.weight", within=(("shortcut", "downsample"),)),
    Family(
        "children of torchvision's",
        "7.0.conv1.weight",
        _numbered(conv1="0", bn1="1", layer1="4", layer2="5", layer3="6", layer4="7"),
    ),
    Family(
        "children of lightly's",
        "2.0.conv1.weight",
        _numbered(conv1="0", bn1="1", layer1="2", layer2="3", layer3="4", layer4="5"),
        (("shortcut", "downsample"),),
    ),
    Family(
        "torchvision's ViT",
        "conv_proj.weight",
        within=((r"mlp\.linear_1", "mlp.0"), (r"mlp\.linear_2", "mlp.3")),
    ),
    Family(
        "timm's ViT",
        "patch_embed.proj.weight",
        ((r"blocks\.(\d+)", r"encoder.layers.encoder_layer_\1"), *((re.escape(a), b) for a, b in _OF_A_VIT)),
        tuple((re.escape(a), b) for a, b in _OF_A_LAYER),
    ),
)
"""In the order in which they are looked for: the first that fits a prefix is taken."""


def networks_in(names: Iterable[str]) -> dict[str, Family]:
    """The prefixes under which ``names`` hold a network, each ending with a point or empty, and how it is called."""
    found: dict[str, Family] = {}
    names = list(names)
    for family in FAMILIES:
        for name in names:
            prefix = name.removesuffix(family.anchor)
            if prefix != name and (not prefix or prefix.endswith(".")):
                found.setdefault(prefix, family)
    return found


def timm_name(name: str) -> str:
    """timm's name of what torchvision calls ``name`` in a ViT."""
    name = re.sub(r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1.", name)
    for timm, torchvision in (*_OF_A_LAYER, *_OF_A_VIT):
        name = re.sub(rf"(?:(?<=\.)|^){re.escape(torchvision)}(?=\.|$)", timm, name)
    return name
