"""Derives timm's BEiT from its weights: BEiT, BEiT v2 and data2vec, with relative position biases."""

from __future__ import annotations

import math
from typing import Any

from ssltool.checkpoints.timm_derivation import Derivation, Source, cannot_read, count

OF_A_LAYER = "blocks.0.attn.relative_position_bias_table"
SHARED = "rel_pos_bias.relative_position_bias_table"
"""The biases of the first layer, and those that all layers share."""

TOKENS = 3
"""Rows of a table of biases for the class token: from it, to it, and with itself."""

TRAINING_ONLY = (r"mask_token", r"lm_head\..*", r"cls_pt_layers\..*", r"predictor\..*")
"""Weights for masked inputs and their prediction."""

SIZES = {"base": (768, 12, 12), "large": (1024, 24, 16)}
"""Width, depth and heads of timm's BEiT."""


def derive_beit(source: Source) -> Derivation:
    """The BEiT with these weights. Its table of biases shows the heads and the image size.

    Raises:
        SSLToolError: if the table is not that of a square of patches.
    """
    found = Derivation("", {}, dict(source.weights))
    found.omit(*TRAINING_ONLY, r".*relative_position_index")
    weights = found.weights
    kernel = weights["patch_embed.proj.weight"]
    dim, patch = kernel.shape[0], kernel.shape[-1]
    rows, heads = weights[SHARED if SHARED in weights else OF_A_LAYER].shape
    side = math.isqrt(max(0, rows - TOKENS))
    if side**2 + TOKENS != rows or side % 2 == 0:
        raise cannot_read(source, f"relative position biases with {rows} rows are not those of a square of patches")
    found.image_size = (side + 1) // 2 * patch
    depth = count(weights, r"blocks\.(\d+)\.")
    hidden = weights["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in weights else 4 * dim
    size = min(SIZES, key=lambda name: sum(a != b for a, b in zip(SIZES[name], (dim, depth, heads), strict=True)))
    found.model = f"beit_{size}_patch16_224"
    own = dict(zip(("embed_dim", "depth", "num_heads"), SIZES[size], strict=True)) | {
        "patch_size": 16,
        "mlp_ratio": 4.0,
        "init_values": 0.1,
        "use_abs_pos_emb": False,
        "use_rel_pos_bias": True,
        "use_shared_rel_pos_bias": False,
        "global_pool": "avg",
        "qkv_bias": True,
    }
    shape: dict[str, Any] = {
        "embed_dim": dim,
        "depth": depth,
        "num_heads": heads,
        "patch_size": patch,
        "mlp_ratio": hidden / dim,
        "init_values": 0.1 if "blocks.0.gamma_1" in weights else None,
        "use_abs_pos_emb": "pos_embed" in weights,
        "use_rel_pos_bias": OF_A_LAYER in weights,
        "use_shared_rel_pos_bias": SHARED in weights,
        "global_pool": "avg" if "fc_norm.weight" in weights else "token",
        "qkv_bias": "blocks.0.attn.q_bias" in weights,
    }
    found.settings = {key: value for key, value in shape.items() if own[key] != value}
    found.assumed += [] if source.certain else ["GELU"]
    found.assumed += ["the class token is the output"] if shape["global_pool"] == "token" else []
    return found
