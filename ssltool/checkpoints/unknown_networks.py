"""What to do with a file whose network is unknown: the family that its names are like, and how to name it."""

from __future__ import annotations

import re
from collections.abc import Collection

from ssltool.files.misfit import name_keys

FAMILIES = (
    (
        r"(^|\.)_flat_param$|_fsdp_wrapped_module",
        "one rank's shard of a run with FSDP",
        "read the file that the run consolidates, for DINOv2 eval/training_N/teacher_checkpoint.pth",
    ),
    (
        r"embeddings\.patch_embeddings|embedder\.embedder|vision_model\.embeddings",
        "networks of transformers",
        "give the folder with its config.json",
    ),
    (
        r"(^|\.)block1\.layer\.0\.conv1\.|(^|\.)layer1\.0\.shortcut\.0\.bias",
        "CIFAR's wide ResNets",
        "neither ssltool nor timm has them; save their representations to a .npz file instead",
    ),
    (
        r"features\.0\.0\.weight",
        "torchvision's ConvNeXt, Swin, EfficientNet and MobileNet",
        "give its name, such as -a torchvision:convnext_tiny",
    ),
    (r"features\.0\.weight", "torchvision's VGG", "give its name, such as -a torchvision:vgg16"),
    (r"(^|\.)s1\.b1\.conv1", "RegNet", "give its name in timm, such as -a timm:regnety_016"),
    (r"stages\.0\.", "networks with stages", "give its name in timm, such as -a timm:convnext_tiny"),
    (r"blocks\.0\.", "networks with blocks", "give its name in timm, such as -a timm:vit_small_patch16_224"),
)
"""Parameter names of families that ssltool cannot find by itself, what they are, and what to do."""


def describe_unknown(names: Collection[str]) -> str:
    """What the parameter ``names`` of a network that is unknown are like, and what to do."""
    if not names:
        return "it has no tensors under names; list its entries with ssltool inspect"
    for pattern, family, remedy in FAMILIES:
        if any(re.search(pattern, name) for name in names):
            return f"its names are like those of {family} ({name_keys(names, most=2)}); {remedy}"
    return (
        f"its parameters are {name_keys(names, most=4)}; if it is a network of timm, give its name with -a timm:NAME; "
        "list all with ssltool inspect --keys"
    )
