"""Derives timm's vision transformers from their weights: DINOv2, DINOv3, MAE, I-JEPA, iBOT, and other sizes of ViTs."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from torch import Tensor

from ssltool.checkpoints.timm_derivation import Derivation, Source, cannot_read, count
from ssltool.checkpoints.unknown_networks import nearest_name

PATCHES = "patch_embed.proj.weight"

OPENAI = "CLIP"
"""The program whose CLIP has another GELU, which is the name of another model in timm."""

HEADS = {1280: 16, 1408: 16, 1664: 16, 1152: 16}
"""Attention heads of the widths of published ViTs where they are not one for every 64 dimensions."""


class Base(NamedTuple):
    """A ViT of timm with the preprocessing of ImageNet, and its arguments."""

    name: str
    embed_dim: int
    depth: int
    num_heads: int
    patch_size: int
    hidden: int
    options: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    gated: bool = False


_SCALED = {"init_values": 1e-5}
_REGISTERS = _SCALED | {"reg_tokens": 4, "no_embed_class": True}
_NO_CLASS = {"class_token": False, "global_pool": "avg", "fc_norm": False}
_SIGLIP = {"class_token": False, "global_pool": "map"}
_CLIP = {"pre_norm": True}

BASES = (
    *(
        Base(f"vit_{size}_patch14_{kind}dinov2", dim, depth, heads, 14, hidden, options, size == "giant")
        for kind, options in (("", _SCALED), ("reg4_", _REGISTERS))
        for size, dim, depth, heads, hidden in (
            ("small", 384, 12, 6, 1536),
            ("base", 768, 12, 12, 3072),
            ("large", 1024, 24, 16, 4096),
            ("giant", 1536, 40, 24, 8192),
        )
    ),
    Base("vit_huge_patch14_gap_224.in1k_ijepa", 1280, 32, 16, 14, 5120, _NO_CLASS),
    Base("vit_huge_patch16_gap_448.in1k_ijepa", 1280, 32, 16, 16, 5120, _NO_CLASS),
    Base("vit_giant_patch16_gap_224.in22k_ijepa", 1408, 40, 16, 16, 6144, _NO_CLASS),
    Base("vit_small_patch16_224.dino", 384, 12, 6, 16, 1536),
    Base("vit_base_patch16_224.mae", 768, 12, 12, 16, 3072),
    Base("vit_large_patch16_224.mae", 1024, 24, 16, 16, 4096),
    Base("vit_huge_patch14_224.mae", 1280, 32, 16, 14, 5120),
    Base("vit_base_patch16_siglip_224", 768, 12, 12, 16, 3072, _SIGLIP),
    Base("vit_large_patch16_siglip_256", 1024, 24, 16, 16, 4096, _SIGLIP),
    *(
        Base(f"vit_{size}_clip_224", dim, depth, heads, patch, 4 * dim, _CLIP)
        for size, dim, depth, heads, patch in (
            ("base_patch32", 768, 12, 12, 32),
            ("base_patch16", 768, 12, 12, 16),
            ("large_patch14", 1024, 24, 16, 14),
        )
    ),
)
"""Models that the others differ from by arguments that a name can hold."""

KINDS: dict[str, Any] = {"pre_norm": True, "global_pool": "map"}
"""Arguments of families whose layers differ from those of others in what no argument changes."""

DEFAULTS: dict[str, Any] = {
    "class_token": True,
    "no_embed_class": False,
    "reg_tokens": 0,
    "global_pool": "token",
    "fc_norm": None,
    "qkv_bias": True,
    "proj_bias": True,
    "qk_norm": False,
    "pre_norm": False,
    "init_values": None,
    "act_layer": None,
}
"""Further arguments of timm's ViTs."""

TRAINING_ONLY = (r"mask_token", r"masked_embed", r"decoder_.*")
"""Weights for masked inputs and their reconstruction."""

OTHER_NAMES = (
    (r"^blocks\.\d+\.(\d+)\.", r"blocks.\1."),  # DINOv2's chunks of blocks
    (r"^register_tokens$", "reg_token"),
    (r"\.gamma_([12])$", r".ls\1.gamma"),
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)


def derive_vit(source: Source) -> Derivation:
    """The ViT with these weights.

    Raises:
        SSLToolError: for positions that are not a square of patches, or an unknown number of heads.
    """
    found = Derivation("", {}, dict(source.weights))
    found.omit(*TRAINING_ONLY)
    found.rename(*OTHER_NAMES)
    weights = found.weights
    positions = weights.get("pos_embed")
    if positions is None or positions.dim() == 4:
        raise cannot_read(source, "positional embeddings of this ViT are unknown", nearest_name(source.weights))
    dim, patch = weights[PATCHES].shape[0], weights[PATCHES].shape[-1]
    options = _tokens(source, found) | _options(source, weights)
    depth = count(weights, r"blocks\.(\d+)\.")
    if "blocks.0.mlp.fc1.weight" not in weights or "blocks.0.mlp.fc2.weight" not in weights:
        raise cannot_read(source, "the blocks of this ViT are unknown")
    hidden, inner = weights["blocks.0.mlp.fc1.weight"].shape[0], weights["blocks.0.mlp.fc2.weight"].shape[1]
    gated = hidden == 2 * inner
    shape = {
        "embed_dim": dim,
        "depth": depth,
        "num_heads": attention_heads(source, dim, found),
        "patch_size": patch,
        "mlp_ratio": hidden / dim,
    }
    found.model, found.settings = _nearest(shape, DEFAULTS | options, hidden, gated)
    quick = options["pre_norm"] and source.program == OPENAI
    if quick:
        found.model = found.model.replace("_clip_", "_clip_quickgelu_")
    if not (gated or source.certain or source.settings.act_layer):
        found.assumed.append("GELU")
    if options["global_pool"] == "token" and not source.certain and source.settings.global_pool is None:
        found.assumed.append("the class token is the output")
    return found


def _nearest(shape: dict[str, Any], options: dict[str, Any], hidden: int, gated: bool) -> tuple[str, dict[str, Any]]:
    """The base with the fewest arguments to change, and these."""

    exact = mlp_ratio(shape["embed_dim"], hidden)

    def changes(base: Base) -> dict[str, Any]:
        own = DEFAULTS | base.options | base._asdict()
        ratio = {} if hidden / shape["embed_dim"] == base.hidden / base.embed_dim else {"mlp_ratio": exact}
        sizes = {key: value for key, value in shape.items() if key != "mlp_ratio" and own[key] != value}
        return sizes | ratio | {key: value for key, value in options.items() if own[key] != value}

    def fits(base: Base) -> bool:
        own = DEFAULTS | base.options
        kinds = all((own[key] == value) == (options[key] == value) for key, value in KINDS.items())
        return base.gated == gated and kinds

    near = [base for base in BASES if fits(base)] or [base for base in BASES if base.gated == gated]
    base = min(near, key=lambda base: len(changes(base)))
    return base.name, changes(base)


def mlp_ratio(width: int, hidden: int) -> float:
    """The ratio of widths of which libraries take the whole part, after multiplying with the width."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _tokens(source: Source, found: Derivation) -> dict[str, Any]:
    """The arguments of class token and registers. DINOv2's positions include the class token and not the registers;
    with registers, timm's include neither, so the first is added to the class token. Sets the image size."""
    weights = found.weights
    positions, patch = weights["pos_embed"], weights[PATCHES].shape[-1]
    class_token, registers = "cls_token" in weights, weights["reg_token"].shape[1] if "reg_token" in weights else 0
    counts = {positions.shape[1] - prefix: prefix for prefix in (class_token, class_token + registers, 0)}
    square = next((patches for patches in counts if patches > 0 and math.isqrt(patches) ** 2 == patches), None)
    if square is None:
        raise cannot_read(
            source, f"positional embeddings of {positions.shape[1]} tokens are not those of a square of patches"
        )
    found.image_size = math.isqrt(square) * patch
    prefix = counts[square]
    if registers and class_token and prefix == 1:
        weights["cls_token"] = weights["cls_token"] + positions[:, :1]
        weights["pos_embed"] = positions[:, 1:]
        prefix = 0
    return {
        "class_token": class_token,
        "reg_tokens": registers,
        "no_embed_class": prefix == 0 and class_token + registers > 0,
    }


def _options(source: Source, weights: dict[str, Tensor]) -> dict[str, Any]:
    mean = "fc_norm.weight" in weights or "cls_token" not in weights or source.mean_of_patches
    pool = source.settings.global_pool
    if "attn_pool.latent" in weights:
        pool = "map"
    elif pool is True or pool == "avg" or (pool is None and mean) or "cls_token" not in weights:
        pool = "avg"
    elif pool is False or pool is None:
        pool = "token"
    options: dict[str, Any] = {
        "global_pool": pool,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "proj_bias": "blocks.0.attn.proj.bias" in weights,
        "qk_norm": "blocks.0.attn.q_norm.weight" in weights,
        "pre_norm": "norm_pre.weight" in weights,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in weights else None,
    }
    if pool == "avg" and "norm.weight" in weights:
        options["fc_norm"] = False
    if source.settings.act_layer not in (None, "gelu"):
        options["act_layer"] = source.settings.act_layer
    return options


def attention_heads(
    source: Source, dim: int, found: Derivation, remedy: str = "give it with -a timm:NAME,num_heads=N,..."
) -> int:
    """The number of attention heads of a ViT of width ``dim``: that of the settings, of the program, or of published
    ViTs of this width, which is noted as assumed.

    Raises:
        SSLToolError: if none of them says it.
    """
    given = source.settings.heads or source.heads.get(dim)
    if given is not None:
        return given
    heads = HEADS.get(dim, dim // 64)
    if heads == 0 or dim % heads or (dim not in HEADS and dim % 64):
        raise cannot_read(
            source,
            f"the weights do not show the number of heads of a ViT of width {dim}",
            remedy,
        )
    found.assumed.append(f"{heads} heads" if heads > 1 else "1 head")
    return heads


def derive_dinov3(source: Source) -> Derivation:
    """The ViT of DINOv3 with these weights. Its rotary positions are computed from periods, which the weights hold.

    Raises:
        SSLToolError: if the periods or biases are not of the form that timm computes.
    """
    found = Derivation("", {}, dict(source.weights))
    weights = found.weights
    dim, patch = weights[PATCHES].shape[0], weights[PATCHES].shape[-1]
    head_dim, temperature = _rotation(source, found)
    biased = _mask_biases(source, found)
    found.omit(r"mask_token", r"local_cls_norm\..*")
    found.rename((r"\.ls([12])\.gamma$", r".gamma_\1"), (r"^storage_tokens$", "reg_token"))
    gated = "blocks.0.mlp.w1.weight" in weights
    found.rename((r"\.mlp\.w1\.", ".mlp.fc1_g."), (r"\.mlp\.w2\.", ".mlp.fc1_x."), (r"\.mlp\.w3\.", ".mlp.fc2."))
    weights = found.weights
    hidden = weights["blocks.0.mlp.fc2.weight"].shape[1] if "blocks.0.mlp.fc2.weight" in weights else 4 * dim
    shape = {
        "embed_dim": dim,
        "depth": count(weights, r"blocks\.(\d+)\."),
        "num_heads": dim // head_dim,
        "patch_size": patch,
        "mlp_ratio": hidden / dim,
    }
    sizes = {name: own for name, own in (_DINOV3_GATED if gated else _DINOV3).items() if not (biased and name == "7b")}
    name, own = min(
        sizes.items(), key=lambda size: sum(value != size[1][key] for key, value in shape.items() if key in size[1])
    )
    found.model = f"vit_{name}_patch16_dinov3" + ("_qkvb" if biased else "")
    own = own | {"patch_size": 16}
    found.settings = {key: value for key, value in shape.items() if own[key] != value}
    if "mlp_ratio" in found.settings:
        found.settings["mlp_ratio"] = mlp_ratio(dim, hidden)
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    found.settings |= {"num_reg_tokens": registers} if registers != 4 else {}
    found.settings |= {"rope_temperature": temperature} if temperature != 100 else {}
    found.settings["global_pool"] = "token"
    return found


_DINOV3 = {
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4.0},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0},
    "large": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4.0},
}
_DINOV3_GATED = {
    "small_plus": {"embed_dim": 384, "depth": 12, "num_heads": 6, "mlp_ratio": 4.0},
    "huge_plus": {"embed_dim": 1280, "depth": 32, "num_heads": 20, "mlp_ratio": 4.0},
    "7b": {"embed_dim": 4096, "depth": 40, "num_heads": 32, "mlp_ratio": 2.0},
}


def _rotation(source: Source, found: Derivation) -> tuple[int, float]:
    """The dimensions of a head and the base of the periods of DINOv3's positions, base ** (4 i / head)."""
    periods = found.weights.get("rope_embed.periods")
    if periods is None or periods.dim() != 1 or len(periods) < 2:
        raise cannot_read(source, "rope_embed.periods, which shows the heads of this DINOv3 ViT, is missing")
    head = 4 * len(periods)
    exact = periods.dtype.itemsize >= 4
    values = periods.double().tolist()

    def fits(base: float) -> bool:
        tolerance = 1e-5 if exact else 0.05
        return all(math.isclose(v, base ** (4 * i / head), rel_tol=tolerance) for i, v in enumerate(values))

    last = values[-1] if values[-1] > 0 else math.inf
    base = next((base for base in (100.0, round(last ** (head / (head - 4)), 6)) if fits(base)), None)
    if base is None:
        raise cannot_read(source, "its RoPE periods are not powers of one base, as timm computes them")
    if not exact:
        found.assumed.append(f"RoPE in float32, not in the {str(periods.dtype).removeprefix('torch.')} of its periods")
    del found.weights["rope_embed.periods"]
    return head, base


def _mask_biases(source: Source, found: Derivation) -> bool:
    """Replaces the biases of queries, keys and values by timm's two; whether there are any. Those of the keys are
    masked in DINOv3, and timm has none."""
    weights = found.weights
    biases = [name for name in weights if re.fullmatch(r"blocks\.\d+\.attn\.qkv\.bias", name)]
    for name in biases:
        bias, mask = weights.pop(name), weights.pop(f"{name}_mask", None)
        bias = bias if mask is None else bias * mask.to(bias.dtype)
        query, key, value = bias.chunk(3)
        if bias.isnan().any():
            raise cannot_read(source, f"{name}_mask is not a number, so the network was never initialised")
        if key.any():
            raise cannot_read(source, f"{name} has biases of the keys, which timm's DINOv3 has not")
        prefix = name.removesuffix("qkv.bias")
        weights[f"{prefix}q_bias"], weights[f"{prefix}v_bias"] = query.clone(), value.clone()
    return bool(biases)
