"""Derives timm's ConvNeXts, Swin Transformers, ResNets and EfficientNets from their weights."""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from ssltool.checkpoints.timm_derivation import Derivation, Source, Weights, cannot_read, count

STAGES = range(4)

CONVNEXTS = {
    "atto": ((2, 2, 6, 2), 40),
    "femto": ((2, 2, 6, 2), 48),
    "pico": ((2, 2, 6, 2), 64),
    "nano": ((2, 2, 8, 2), 80),
    "tiny": ((3, 3, 9, 3), 96),
    "small": ((3, 3, 27, 3), 96),
    "base": ((3, 3, 27, 3), 128),
    "large": ((3, 3, 27, 3), 192),
    "xlarge": ((3, 3, 27, 3), 256),
    "huge": ((3, 3, 27, 3), 352),
}
"""Blocks and first width of timm's ConvNeXts; the width doubles with each stage."""

SMALL = ("atto", "femto", "pico", "nano")
"""Those whose MLPs are convolutions."""

META_CONVNEXT = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"^norm\.", "head.norm."),
)
"""Names in Meta's code, which are those of DINOv3 and ConvNeXt V2, and timm's."""


LAST_NORM = "the last norm, which the embeddings of lightly-train do without"
"""timm's head of a ConvNeXt has it after pooling; lightly-train takes only the pooling from there."""


def derive_convnext(source: Source) -> Derivation:
    """The ConvNeXt with these weights, of version 1 (layer scale) or 2 (response normalisation).

    Raises:
        SSLToolError: if there is a second, different last norm.
    """
    found = Derivation("", {}, dict(source.weights))
    if "downsample_layers.0.0.weight" in found.weights:
        for name in ("weight", "bias"):
            copy, norm = found.weights.get(f"norms.3.{name}"), found.weights.get(f"norm.{name}")
            if copy is not None and (norm is None or not torch.equal(copy, norm)):
                raise cannot_read(source, f"norms.3.{name} is not the same as norm.{name}")
        found.omit(r"norms\.3\..*", r"mask_token")
        found.rename(*META_CONVNEXT)
        found.weights = {name: held.flatten() if ".grn." in name else held for name, held in found.weights.items()}
    weights = found.weights
    depths = [count(weights, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in STAGES]
    dims = [_rows(weights, f"stages.{stage}.blocks.0.conv_dw.weight") for stage in STAGES]
    if 0 in [*depths, *dims]:
        raise cannot_read(source, "a stage of this ConvNeXt is missing", "save the whole network")
    second = any(".grn." in name for name in weights)
    conv_mlp = weights.get("stages.0.blocks.0.mlp.fc1.weight", torch.empty(0)).dim() == 4
    sizes = [name for name in CONVNEXTS if name != ("xlarge" if second else "huge")]

    def changes(name: str) -> int:
        return (
            (_widths(CONVNEXTS[name][1]) != dims) + (list(CONVNEXTS[name][0]) != depths) + (conv_mlp != (name in SMALL))
        )

    size = min(sizes, key=changes)
    found.model = f"convnext{'v2' if second else ''}_{size}"
    if source.program == "DINOv3" and size in ("tiny", "small", "base", "large"):
        found.model += ".dinov3_lvd1689m"
    if depths != list(CONVNEXTS[size][0]):
        found.settings["depths"] = depths
    if dims != _widths(CONVNEXTS[size][1]):
        found.settings["dims"] = dims
    if conv_mlp != (size in SMALL):
        found.settings["conv_mlp"] = conv_mlp
    if not second and "stages.0.blocks.0.gamma" not in weights:
        found.settings["ls_init_value"] = None
    found.assumed += [] if source.certain else ["GELU"]
    found.assumed += [LAST_NORM] if source.program == "lightly-train" else []
    return found


def _widths(first: int) -> list[int]:
    return [first * 2**stage for stage in STAGES]


def _rows(weights: Weights, name: str) -> int:
    return weights[name].shape[0] if name in weights else 0


SWINS = {
    "tiny": ((2, 2, 6, 2), 96),
    "small": ((2, 2, 18, 2), 96),
    "base": ((2, 2, 18, 2), 128),
    "large": ((2, 2, 18, 2), 192),
}
"""Blocks and first width of timm's Swin Transformers."""

TABLE = "layers.{}.blocks.0.attn.relative_position_bias_table"


def derive_swin(source: Source) -> Derivation:
    """The Swin Transformer (version 1) with these weights. The masks of shifted windows show the image size; without
    them, it is assumed to be that of the published models."""
    found = Derivation("", {}, dict(source.weights))
    if "layers.0.downsample.reduction.weight" in found.weights:  # Microsoft's, at the end of a stage
        found.weights = {
            re.sub(r"^layers\.(\d+)\.downsample", lambda stage: f"layers.{int(stage[1]) + 1}.downsample", name): held
            for name, held in found.weights.items()
        }
    weights = found.weights
    tables = [weights[TABLE.format(i)] for i in range(count(weights, r"layers\.(\d+)\.")) if TABLE.format(i) in weights]
    window = (math.isqrt(tables[0].shape[0]) + 1) // 2
    patch = weights["patch_embed.proj.weight"].shape[-1]
    mask = weights.get("layers.0.blocks.1.attn_mask")
    if mask is not None:
        found.image_size = math.isqrt(mask.shape[0]) * window * patch
    elif len(tables[-1]) < len(tables[0]):  # timm's windows are not larger than the feature map
        found.image_size = (math.isqrt(len(tables[-1])) + 1) // 2 * patch * 2 ** (len(tables) - 1)
    else:
        found.image_size = source.settings.image_size or window * 8 * patch
        found.assumed.append(f"images of {found.image_size} pixels")
    found.weights = {
        name: held for name, held in weights.items() if not name.endswith(("relative_position_index", "attn_mask"))
    }
    if "norm.weight" in weights and "head.weight" in weights:
        found.rename((r"^head\.(weight|bias)$", r"head.fc.\1"))
    depths = [count(weights, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(len(tables))]
    width = weights["patch_embed.proj.weight"].shape[0]
    heads = [table.shape[1] for table in tables]
    size = min(SWINS, key=lambda name: (SWINS[name][1] != width) + (list(SWINS[name][0]) != depths))
    found.model = f"swin_{size}_patch4_window7_224"
    own = {
        "patch_size": 4,
        "window_size": 7,
        "embed_dim": SWINS[size][1],
        "depths": list(SWINS[size][0]),
        "num_heads": [SWINS[size][1] // 32 * 2**stage for stage in STAGES],
    }
    shape = {"patch_size": patch, "window_size": window, "embed_dim": width, "depths": depths, "num_heads": heads}
    found.settings = {key: value for key, value in shape.items() if own[key] != value}
    found.assumed += [] if source.certain else ["GELU"]
    return found


RESNET_LAYERS: dict[tuple[bool, tuple[int, ...]], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (2, 2, 2, 2)): 26,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
    (True, (3, 24, 36, 3)): 200,
}
"""The number in the name of a ResNet, by its kind of block (bottlenecks or not) and the blocks of its stages."""

NAMED_STEMS = {(32, "deep", True): "d"}
"""The letter after a ResNet's number for the width and type of its stem and the pooling of its shortcuts."""


def derive_resnet(source: Source) -> Derivation:
    """timm's ResNet with these weights: ResNeXts, deep stems, pooled shortcuts, squeeze-excite and ECA blocks.

    Activation, pooling, output stride and anti-aliasing are not in the weights. The settings of the program say them,
    or they are assumed.
    """
    found = Derivation("", {}, dict(source.weights))
    weights = found.weights
    bottleneck = "layer1.0.conv3.weight" in weights
    layers = tuple(count(weights, rf"layer{stage + 1}\.(\d+)\.") for stage in STAGES)
    number = RESNET_LAYERS.get((bottleneck, layers), 50 if bottleneck else 18)
    settings: dict[str, Any] = {} if (bottleneck, layers) in RESNET_LAYERS else {"layers": list(layers)}
    expansion = 4 if bottleneck else 1
    outs = [_rows(weights, f"layer{stage + 1}.0.conv{3 if bottleneck else 2}.weight") for stage in STAGES]
    if 0 in [*layers, *outs]:
        raise cannot_read(source, "a stage of this ResNet is missing", "save the whole network")
    if [out // expansion for out in outs] != _widths(64):
        settings["channels"] = [out // expansion for out in outs]
    stem, suffix = _stem(weights), ""
    if stem in NAMED_STEMS and "layers" not in settings:
        suffix = NAMED_STEMS[stem]
    elif stem is not None:
        width, kind, pooled = stem
        settings |= {"stem_width": width, "stem_type": kind} if kind else {}
        settings |= {"avg_down": True} if pooled else {}
    if bottleneck:
        settings |= _groups(weights, outs[0] // expansion)
    if "layer1.0.se.fc1.weight" in weights:
        settings["block_args"] = {"attn_layer": "se"}
    elif "layer1.0.se.conv.weight" in weights:
        settings["block_args"] = {"attn_layer": "eca"}
    found.model, found.settings = f"resnet{number}{suffix}", settings
    use_settings(source, found)
    return found


def use_settings(source: Source, found: Derivation) -> None:
    """Adds the settings of a program that a ResNet's weights do not show, or notes what is assumed instead."""
    settings = source.settings
    for key, value, default in (
        ("act_layer", settings.act_layer, "relu"),
        ("global_pool", settings.global_pool, "avg"),
        ("output_stride", settings.output_stride, 32),
    ):
        if value is not None and value != default and not isinstance(value, bool):
            found.settings[key] = value
    if double_width(source):
        found.settings["global_pool"] = "catavgmax"
    if source.certain:
        return
    if settings.act_layer is None:
        found.assumed += ["ReLU", "no anti-aliasing"]
    if settings.global_pool is None and not double_width(source):
        found.assumed.append("average pooling")
    if settings.output_stride is None:
        found.assumed.append("output stride 32")


def double_width(source: Source) -> bool:
    """Whether a classifier reads twice the width of a ResNet, its average and its maximum pooling side by side."""
    weights = source.weights
    last = max((name for name in weights if re.fullmatch(r"layer4\.0\.bn\d\.weight", name)), default=None)
    return last is not None and "fc.weight" in weights and weights["fc.weight"].shape[1] == 2 * len(weights[last])


def _stem(weights: Weights) -> tuple[int, str, bool] | None:
    """Width, type and pooled shortcuts of a stem; None if it is that of torchvision's ResNets."""
    pooled = weights.get("layer2.0.downsample.1.weight", torch.empty(0)).dim() == 4
    if "conv1.3.weight" not in weights:
        return (64, "", True) if pooled else None
    width = _rows(weights, "conv1.3.weight")
    return width, "deep" if _rows(weights, "conv1.0.weight") == width else "deep_tiered", pooled


def _groups(weights: Weights, planes: int) -> dict[str, int]:
    """Groups of the 3x3 convolutions and their base width, where they differ from 1 and 64."""
    kernel = weights.get("layer1.0.conv2.weight")
    if kernel is None or not planes or not kernel.shape[1]:
        return {}
    groups = kernel.shape[0] // kernel.shape[1]
    base = kernel.shape[0] * 64 // (planes * groups)
    return ({"cardinality": groups} if groups != 1 else {}) | ({"base_width": base} if base != 64 else {})


EFFICIENTNETS = {
    (32, 1280, 16, True): "efficientnet_b0",
    (32, 1280, 23, True): "efficientnet_b1",
    (32, 1408, 23, True): "efficientnet_b2",
    (40, 1536, 26, True): "efficientnet_b3",
    (48, 1792, 32, True): "efficientnet_b4",
    (32, 1280, 16, False): "efficientnet_lite0",
    (24, 1280, 40, True): "efficientnetv2_s",
    (24, 1024, 39, True): "efficientnetv2_rw_t",
    (24, 1792, 40, True): "efficientnetv2_rw_s",
    (32, 1280, 17, False): "mobilenetv2_100",
    (16, 1280, 17, False): "mobilenetv2_050",
    (16, 1280, 16, True): "mobilenetv3_large_100",
    (16, 1024, 12, True): "mobilenetv3_small_100",
}
"""Widths of the first and last convolution, number of blocks, and whether some have squeeze-excite, by timm's name."""


def derive_efficientnet(source: Source) -> Derivation:
    """The EfficientNet or MobileNet with these weights, one of ``EFFICIENTNETS``.

    Raises:
        SSLToolError: if it is none of them.
    """
    weights = source.weights
    blocks = {match[0] for name in weights if (match := re.match(r"blocks\.\d+\.\d+\.", name))}
    widths = _rows(weights, "conv_stem.weight"), _rows(weights, "conv_head.weight")
    model = EFFICIENTNETS.get((*widths, len(blocks), any(".se." in name for name in weights)))
    if model is None:
        raise cannot_read(source, "this is an EfficientNet or MobileNet of timm that its weights do not show")
    return Derivation(model, {}, dict(weights), assumed=[f"activation and padding of {model}"])
