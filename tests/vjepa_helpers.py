"""Small networks of V-JEPA 2 by transformers, and checkpoints around them with the names of the published code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

State = dict[str, Tensor]

WRAPPED = "module.backbone."
"""What the names begin with: DistributedDataParallel, and the code's wrapper for several clips."""


def video_model(seed: int = 0, **changes: Any) -> Any:
    """A small ``VJEPA2Model`` with random weights everywhere."""
    from transformers import VJEPA2Config, VJEPA2Model

    settings = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 8}
    predictor = {"pred_hidden_size": 16, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    torch.manual_seed(seed)
    model = VJEPA2Model(VJEPA2Config(**({"crop_size": 32} | settings | predictor | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def original(model: Any) -> State:
    """The encoder's weights with the names of the published code, in which one matrix makes queries, keys and values:
    the inverse of transformers' conversion."""
    out: State = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in model.encoder.state_dict().items():
        for theirs, ours in (
            ("embeddings.patch_embeddings", "patch_embed"),
            ("layernorm", "norm"),
            ("layer.", "blocks."),
            ("attention", "attn"),
        ):
            name = name.replace(theirs, ours)
        part = next((part for part in ("query", "key", "value") if f".{part}." in name), None)
        if part is None:
            out[name] = tensor
        else:
            parts.setdefault(name.replace(part, "qkv"), {})[part] = tensor
    return out | {name: torch.cat([p["query"], p["key"], p["value"]]) for name, p in parts.items()}


def release(model: Any, **more: Tensor) -> dict[str, Any]:
    """A checkpoint of the published code whose target encoder is ``model``, with further weights of the encoders."""
    networks = {"encoder": original(video_model(1, **_sizes(model))) | more, "target_encoder": original(model) | more}
    wrapped = {key: {WRAPPED + name: tensor for name, tensor in state.items()} for key, state in networks.items()}
    predictor = {f"{WRAPPED}{name}": torch.ones(2, 2) for name in ("predictor_embed.weight", "mask_tokens.0")}
    return wrapped | {"predictor": predictor, "opt": {}, "epoch": 5, "scaler": None}


def _sizes(model: Any) -> dict[str, Any]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "patch_size", "tubelet_size")
    return {name: getattr(model.config, name) for name in names}
