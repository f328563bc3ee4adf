"""What to do with a file whose network is unknown: the family that its names are like, and how to name it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ssltool.files.misfit import name_keys

NPZ = "neither ssltool nor timm has them; save their representations to a .npz file instead"

OF_TIMM = "if it is another network of timm, give its name with -a timm:NAME"

FAMILIES = (
    (
        r"(^|\.)_flat_param$|_fsdp_wrapped_module",
        "one rank's shard of a run with FSDP",
        "read the file that the run consolidates, for DINOv2 eval/training_N/teacher_checkpoint.pth",
    ),
    (
        r"\.lora_\w+|\.base_layer\.",
        "adapters (LoRA)",
        "merge them into the network, with peft by merge_and_unload(), and save its state_dict()",
    ),
    (
        r"embeddings\.patch_embeddings|embedder\.embedder|vision_model\.embeddings",
        "networks of transformers",
        "give the folder with its config.json",
    ),
    (r"(^|\.)to_patch_embedding\.", "ViTs of the package vit-pytorch", NPZ),
    (r"(^|\.)cls_norm\.", "DINOv3's ViTs with separate norms of class token and patches", NPZ),
    (
        r"(^|\.)attnpool\.positional_embedding",
        "CLIP's ResNets",
        "save the state_dict() of timm.create_model('resnet50_clip', checkpoint_path=FILE), and give -a "
        "timm:resnet50_clip",
    ),
    *(
        (pattern, family, f"give its name, such as -a {name}")
        for pattern, family, name in (
            (r"features\.0\.0\.weight", "torchvision's ConvNeXt, Swin, EfficientNet and MobileNet", "convnext_tiny"),
            (r"(^|\.)squeeze\.weight", "torchvision's SqueezeNet", "squeezenet1_1"),
            (r"features\.0\.weight", "torchvision's VGG", "vgg16"),
            (r"denseblock1\.denselayer1\.", "torchvision's DenseNet", "densenet121"),
            (r"(^|\.)trunk_output\.", "torchvision's RegNet", "regnet_y_400mf"),
            (r"stage2\.0\.branch2\.", "torchvision's ShuffleNet", "shufflenet_v2_x1_0"),
            (r"(^|\.)inception3a\.", "torchvision's GoogLeNet", "googlenet"),
            (r"(^|\.)Mixed_5b\.", "torchvision's Inception", "inception_v3"),
        )
        for name in (f"torchvision:{name}",)
    ),
    *(
        (pattern, family, f"give its name in timm, such as -a timm:{name}")
        for pattern, family, name in (
            (r"(^|\.)s1\.b1\.conv1", "RegNet", "regnety_016"),
            (r"(^|\.)layer1\.0\.convs\.0\.", "Res2Net", "res2net50_26w_4s"),
            (r"(^|\.)layer1\.0\.conv2\.paths\.", "SKNet", "skresnet18"),
            (r"(^|\.)layer1\.0\.conv2\.bn0\.", "ResNeSt", "resnest50d"),
            (r"(^|\.)maxpool\.0\.weight", "ResNet-RS", "resnetrs50"),
            (r"(^|\.)stem\.conv1\.conv\.", "ResNets with stages", "gcresnet50t"),
            (r"(^|\.)stages\.0\.blocks\.0\.downsample\.conv\.", "ResNet v2", "resnetv2_50"),
            (r"(^|\.)rel_pos_bias\.|blocks\.0\.attn\.relative_position_bias_table", "BEiT", "beit_base_patch16_224"),
            (r"(^|\.)blocks_token_only\.|(^|\.)blocks\.0\.attn\.proj_l\.", "CaiT", "cait_s24_224"),
            (r"(^|\.)blocks\.0\.gamma3$|(^|\.)cls_attn_blocks\.", "XCiT", "xcit_small_12_p16_224"),
            (r"(^|\.)dist_token$", "DeiT with a distillation token", "deit_small_distilled_patch16_224"),
            (r"(^|\.)blocks\.\d+\.attn\.rel_pos_h$", "SAM's image encoder", "samvit_base_patch16"),
            (r"(^|\.)blocks\.0\.attn\.q_bias$", "EVA", "eva02_small_patch14_224"),
            (r"stages\.0\.", "networks with stages", "convnext_tiny"),
            (r"blocks\.0\.", "networks with blocks", "vit_small_patch16_224"),
        )
    ),
)
"""Parameter names of families that ssltool cannot find by itself, what they are, and what to do."""

GENERAL = ("networks with stages", "networks with blocks")
"""Families of which ssltool finds many networks by itself."""


def nearest_name(names: Collection[str]) -> str:
    """The family that the ``names`` of a network's parameters are like, and what to do."""
    for pattern, family, remedy in FAMILIES:
        if family not in GENERAL and any(re.search(pattern, name) for name in names):
            return f"its names are like those of {family}; {remedy}"
    return OF_TIMM


def describe_unknown(names: Collection[str], entries: Mapping[str, Any] | Collection[str] = ()) -> str:
    """What the parameter ``names`` of a network that is unknown are like, and what to do; ``entries`` are the top-level
    ones of its file."""
    if not names:
        return _without_weights(entries)
    for pattern, family, remedy in FAMILIES:
        if any(re.search(pattern, name) for name in names):
            return f"its names are like those of {family} ({name_keys(names, most=2)}); {remedy}"
    return (
        f"its parameters are {name_keys(names, most=4)}; if it is a network of timm, give its name with -a timm:NAME; "
        "list all with ssltool inspect --keys"
    )


def _without_weights(entries: Collection[str]) -> str:
    if not entries:
        return "it is empty; save the state_dict() of the network"
    if {"param_groups", "optimizer_state_dict"} & set(entries) or set(entries) == {"optimizer"}:
        return "it holds the state of an optimizer; the weights are in another file of the same folder"
    return (
        f"it has no tensors under names, only {name_keys(map(str, entries), most=4)}; list its entries with ssltool "
        "inspect"
    )
