"""EfficientNets of the packages ``efficientnet_pytorch`` and ``efficientnet_lite_pytorch``, with timm's names.

Both follow TensorFlow's padding and batch norm, which the weights do not show; timm has the same networks as
``tf_efficientnet_b0`` and ``tf_efficientnet_lite0``. They number the blocks of all stages, timm those of each stage.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ssltool.checkpoints.match_architecture import COUNTER
from ssltool.errors import SSLToolError
from ssltool.models.arch_name import parse
from ssltool.models.backbones import build_backbone, family_of

ANCHOR = "_conv_stem.weight"
"""A parameter by which such a network is found."""

BLOCKS = {"b": (16, 23, 23, 26, 32, 39, 45, 55, 61), "lite": (16, 21, 21, 24, 30)}
"""The numbers of blocks of EfficientNet-B0 to B8, and of Lite0 to Lite4."""

TENSORFLOW = "tf_"
"""The beginning of timm's names of networks with TensorFlow's padding."""

OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
"""Names outside of the blocks."""

EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
"""Names in a block that first expands its channels."""

SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Names in a block of the first stage, which does not."""

SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}

BLOCK = re.compile(r"_blocks\.(\d+)\.")


def rename(names: Iterable[str], stages: list[int]) -> dict[str, str]:
    """timm's name of each of ``names``; ``stages`` are the numbers of blocks of its stages."""
    places = [(stage, block) for stage, count in enumerate(stages) for block in range(count)]
    names = list(names)
    expanded = {match[1] for name in names if "._expand_conv." in name and (match := BLOCK.match(name))}
    return {name: _renamed(name, places, expanded) for name in names}


def _renamed(name: str, places: list[tuple[int, int]], expanded: set[str]) -> str:
    block = BLOCK.match(name)
    if block is None:
        module, _, rest = name.partition(".")
        return f"{OUTSIDE.get(module, module)}.{rest}"
    module, _, rest = name[block.end() :].partition(".")
    inner = (EXPANDED if block[1] in expanded else SEPARABLE) | SQUEEZE
    number = int(block[1])
    stage, position = places[number] if number < len(places) else (len(places), number)
    return f"blocks.{stage}.{position}.{inner.get(module, module)}.{rest}"


def match_efficientnet(
    path: str, weights: Mapping[str, Tensor], arch: str | None, stem: str | None
) -> tuple[str, int, dict[str, Tensor]]:
    """The architecture of the network with these ``weights``, its image size, and the weights with timm's names.

    ``arch`` is the user's. timm's name without TensorFlow's padding means the network with it.

    Raises:
        UsageError: if timm is not installed.
        SSLToolError: if the weights are not exactly those of one of these networks, or contradict ``arch``.
    """
    if stem not in (None, "auto"):
        raise SSLToolError(f"--stem {stem} has no effect with {path}, which contains an EfficientNet; leave it out")
    candidates = _candidates(weights)
    for found in candidates:
        shapes = _shapes_of(found)
        names = rename(weights, _stages(shapes))
        held = {names[name]: tensor for name, tensor in weights.items()}
        expected = {name: shape for name, shape in shapes.items() if name in held or not name.endswith(COUNTER)}
        if {name: tuple(tensor.shape) for name, tensor in held.items()} != expected:
            continue
        given = None if arch is None else parse(arch)
        allowed = {found.partition(":")[2], found.partition(TENSORFLOW)[2]}
        if arch is not None and (given is None or given.settings or given.model.partition(".")[0] not in allowed):
            raise SSLToolError(f"--arch is {arch}, but {path} contains {found}; leave it out")
        size = family_of(found).own_size(found) or 224
        return found, size, held
    like = " or ".join(found.partition(TENSORFLOW)[2] for found in candidates) or "none of those that timm has"
    raise SSLToolError(f"{path} does not contain one complete EfficientNet; the nearest is {like}")


def _candidates(names: Iterable[str]) -> list[str]:
    """The architectures with as many blocks as these parameters have, and squeeze-and-excitation if they have it."""
    names = list(names)
    count = len({block[1] for name in names if (block := BLOCK.match(name))})
    letter = "b" if any("._se_" in name for name in names) else "lite"
    return [f"timm:{TENSORFLOW}efficientnet_{letter}{i}" for i, n in enumerate(BLOCKS[letter]) if n == count]


@functools.cache
def _shapes_of(arch: str) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        backbone, _ = build_backbone(arch, image_size=family_of(arch).own_size(arch) or 224)
    return {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}


def _stages(names: Iterable[str]) -> list[int]:
    """The number of blocks of each stage of timm's network with these parameters."""
    blocks = {tuple(map(int, name.split(".")[1:3])) for name in names if name.startswith("blocks.")}
    return [sum(stage == place[0] for place in blocks) for stage in range(1 + max(place[0] for place in blocks))]
