"""Reads the encoders of V-JEPA 2's own checkpoints into transformers' class, with the names that it gives them."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from ssltool.checkpoints.checkpoint_layouts import HEADS
from ssltool.checkpoints.timm_derivation import Derivation, Source, cannot_read, count
from ssltool.checkpoints.timm_vits import PATCHES, attention_heads, mlp_ratio
from ssltool.errors import SSLToolError
from ssltool.models.transformers_config import LIBRARY, MODEL_TYPES

MODEL_TYPE = "vjepa2"

DEFAULTS: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4.0,
    "patch_size": 16,
    "tubelet_size": 2,
    "crop_size": 256,
}
"""transformers' default settings."""

PUBLISHED_HEADS = {(1024, 24): 16, (1280, 32): 16, (1408, 40): 22}
"""Attention heads of the published networks by width and depth."""

SIZES = {8192: 256, 18432: 384}
"""Sizes of the images of the published networks by the number of tokens of 64 frames."""

NAMES = re.compile(
    r"(patch_embed\.proj|norm|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12]))\.(weight|bias)|pos_embed"
)
"""The names of all weights."""

RENAMED = (
    (r"^patch_embed\.", "embeddings.patch_embeddings."),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "layer."),
    (r"\.attn\.", ".attention."),
    (r"^", "model.encoder."),
)


def is_for_video(weights: dict[str, Tensor]) -> bool:
    """Whether these are weights of a ViT whose patches extend over several frames."""
    return PATCHES in weights and weights[PATCHES].dim() == 5


def derive_vjepa(source: Source) -> Derivation:
    """The encoder of V-JEPA 2 with these weights.

    Raises:
        SSLToolError: for other networks for video, such as those with absolute positions, or an unknown number of
            heads.
    """
    strange = [name for name in source.weights if not NAMES.fullmatch(name) and name.split(".")[0] not in HEADS]
    if strange or "blocks.0.mlp.fc1.weight" not in source.weights:
        raise _refused(source)
    found = Derivation(MODEL_TYPE, {}, dict(source.weights), library=LIBRARY)
    found.omit(*(rf"{head}\..*" for head in HEADS))
    of_positions = _size_of_positions(source, found)
    size = source.settings.image_size or of_positions
    patches, hidden = source.weights[PATCHES], source.weights["blocks.0.mlp.fc1.weight"].shape[0]
    width, depth = patches.shape[0], count(source.weights, r"blocks\.(\d+)\.")
    shape: dict[str, Any] = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": _heads(source, width, depth, found),
        "mlp_ratio": mlp_ratio(width, hidden),
        "patch_size": patches.shape[-1],
        "tubelet_size": patches.shape[2],
        "crop_size": size or DEFAULTS["crop_size"],
    }
    if size is None:
        found.assumed.append(f"images of {DEFAULTS['crop_size']} pixels")
    if not source.certain:
        found.assumed.append("GELU")
    found.assumed.append(MODEL_TYPES[MODEL_TYPE].note)
    found.settings = {key: value for key, value in shape.items() if value != DEFAULTS[key]}
    found.image_size = shape["crop_size"]
    found.weights = _separate(found.weights)
    found.rename(*RENAMED)
    return found


def _size_of_positions(source: Source, found: Derivation) -> int | None:
    """The size of the images that the absolute positions show, which files of V-JEPA 2 may have and its networks do not
    use; None if there are none. Their weights are left out of ``found``.

    Raises:
        SSLToolError: if the network may use them, as that of V-JEPA does.
    """
    rotary, positions = source.settings.find(bool, "use_rope"), source.weights.get("pos_embed")
    found.omit("pos_embed")
    size = None if positions is None else SIZES.get(positions.shape[1])
    if rotary is False or (rotary is None and positions is not None and size is None):
        raise _refused(source)
    if rotary is None and not (source.certain and positions is None):
        found.assumed.append("rotary positions")
    return size


def _heads(source: Source, width: int, depth: int, found: Derivation) -> int:
    """The number of attention heads: that of the settings, else of the published network of this size, else one for
    every 64 dimensions, which is noted as assumed."""
    published = PUBLISHED_HEADS.get((width, depth))
    if published is not None and source.settings.heads is None:
        return published
    remedy = f"give it with -a {LIBRARY}:{MODEL_TYPE},num_attention_heads=N,..."
    return attention_heads(source, width, found, remedy)


def _separate(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights with those of queries, keys and values one by one."""
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if ".qkv." not in name:
            out[name] = tensor
            continue
        for part, values in zip(("query", "key", "value"), tensor.chunk(3), strict=False):
            out[name.replace("qkv", part)] = values.clone()
    return out


def _refused(source: Source) -> SSLToolError:
    problem = "this is a network for video that is not V-JEPA 2, or one of V-JEPA with absolute positions"
    return cannot_read(source, problem, "save its representations to a .npz file with its own code")
