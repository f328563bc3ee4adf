"""Forward passes of published ViTs, written from the papers, and files of their weights as their programs save them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]

DIM, DEPTH, PATCH, SIZE, HIDDEN = 128, 2, 8, 32, 256
HEADS = DIM // 64
GRID = SIZE // PATCH


def _random(seed: int, shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(seed)
    weights = {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: 1 + w if "norm" in name and name.endswith("weight") else w for name, w in weights.items()}


def weights(
    seed: int = 0,
    *,
    scaled: bool = True,
    gated: str = "",
    registers: str = "",
    class_token: bool = True,
    positions: bool = True,
    last_norm: str = "norm",
    mask_token: bool = False,
) -> State:
    """Weights with the names of DINOv2's release.

    Args:
        scaled: whether the blocks have layer scale.
        gated: ``w12`` or ``w1, w2`` for a gated MLP.
        registers: the name of the registers, of which there are four.
    """
    shapes: dict[str, tuple[int, ...]] = {"patch_embed.proj.weight": (DIM, 3, PATCH, PATCH)}
    shapes["patch_embed.proj.bias"] = (DIM,)
    if class_token:
        shapes["cls_token"] = (1, 1, DIM)
    if registers:
        shapes[registers] = (1, 4, DIM)
    if mask_token:
        shapes["mask_token"] = (1, DIM)
    if positions:
        shapes["pos_embed"] = (1, GRID**2 + class_token, DIM)
    for i in range(DEPTH):
        block = f"blocks.{i}"
        for part, (rows, columns) in {
            "attn.qkv": (3 * DIM, DIM),
            "attn.proj": (DIM, DIM),
            **({"mlp.fc1": (HIDDEN, DIM), "mlp.fc2": (DIM, HIDDEN)} if not gated else {"mlp.w3": (DIM, HIDDEN)}),
            **({"mlp.w12": (2 * HIDDEN, DIM)} if gated == "w12" else {}),
            **({"mlp.w1": (HIDDEN, DIM), "mlp.w2": (HIDDEN, DIM)} if gated == "w1, w2" else {}),
        }.items():
            shapes |= {f"{block}.{part}.weight": (rows, columns), f"{block}.{part}.bias": (rows,)}
        for part in ("norm1", "norm2"):
            shapes |= {f"{block}.{part}.weight": (DIM,), f"{block}.{part}.bias": (DIM,)}
        if scaled:
            shapes |= {f"{block}.ls1.gamma": (DIM,), f"{block}.ls2.gamma": (DIM,)}
    shapes |= {f"{last_norm}.weight": (DIM,), f"{last_norm}.bias": (DIM,)}
    return _random(seed, shapes)


def dinov3(seed: int = 0, *, gated: str = "", base: float = 100.0, biased: bool = True) -> State:
    """Weights of a DINOv3 ViT: registers, rotary positions, and biases of which those of the keys are masked."""
    state = weights(seed, gated=gated, registers="storage_tokens", positions=False, mask_token=True)
    state["rope_embed.periods"] = base ** (torch.arange(16) / 16)
    for i in range(DEPTH):
        if biased:
            mask = torch.ones(3 * DIM)
            mask[DIM : 2 * DIM] = 0
            state[f"blocks.{i}.attn.qkv.bias_mask"] = mask
        else:
            del state[f"blocks.{i}.attn.qkv.bias"]
    return state


def rotation(periods: Tensor) -> tuple[Tensor, Tensor]:
    """Sines and cosines (GRID^2, 64) of DINOv3's positions, Sec. 3.2: coordinates in [-1, 1] of row and column."""
    along = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
    row, column = torch.meshgrid(along, along, indexing="ij")
    angles = torch.cat([2 * math.pi * at.flatten()[:, None] / periods for at in (row, column)], dim=1)
    angles = torch.cat([angles, angles], dim=1)
    return angles.sin(), angles.cos()


def tokens(state: State, images: Tensor, *, eps: float = 1e-6) -> Tensor:
    """All tokens (N, T, DIM) before the last norm: class token, registers, patches."""
    x = F.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).mT
    if "cls_token" in state:
        x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], dim=1)
    if "pos_embed" in state:
        x = x + state["pos_embed"]
    registers = state.get("register_tokens", state.get("storage_tokens"))
    if registers is not None:
        x = torch.cat([x[:, :1], registers.expand(len(x), -1, -1), x[:, 1:]], dim=1)
    turn = rotation(state["rope_embed.periods"]) if "rope_embed.periods" in state else None

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (DIM,), state[f"{name}.weight"], state[f"{name}.bias"], eps)

    def linear(name: str, x: Tensor) -> Tensor:
        bias = state.get(f"{name}.bias")
        if f"{name}.bias_mask" in state and bias is not None:
            bias = bias * state[f"{name}.bias_mask"]
        return F.linear(x, state[f"{name}.weight"], bias)

    def attention(block: str, x: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(-1, (HEADS, 64)).transpose(1, 2) for part in linear(f"{block}.attn.qkv", x).chunk(3, dim=-1)
        )
        if turn is not None:
            queries, keys = (_turned(part, *turn) for part in (queries, keys))
        weight = (queries @ keys.mT / 8).softmax(dim=-1)
        return linear(f"{block}.attn.proj", (weight @ values).transpose(1, 2).flatten(2))

    def mlp(block: str, x: Tensor) -> Tensor:
        if f"{block}.mlp.fc1.weight" in state:
            return linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", x)))
        if f"{block}.mlp.w12.weight" in state:
            gate, value = linear(f"{block}.mlp.w12", x).chunk(2, dim=-1)
        else:
            gate, value = linear(f"{block}.mlp.w1", x), linear(f"{block}.mlp.w2", x)
        return linear(f"{block}.mlp.w3", F.silu(gate) * value)

    for i in range(DEPTH):
        block = f"blocks.{i}"
        x = x + state.get(f"{block}.ls1.gamma", torch.ones(1)) * attention(block, norm(f"{block}.norm1", x))
        x = x + state.get(f"{block}.ls2.gamma", torch.ones(1)) * mlp(block, norm(f"{block}.norm2", x))
    return x


def _turned(x: Tensor, sin: Tensor, cos: Tensor) -> Tensor:
    """The patches among the tokens (N, heads, T, 64), with each pair of dimensions (j, j + 32) turned by its angle."""
    before, patches = x[:, :, : -len(sin)], x[:, :, -len(sin) :]
    first, second = patches.chunk(2, dim=-1)
    return torch.cat([before, patches * cos + torch.cat([-second, first], dim=-1) * sin], dim=2)


def class_token(state: State, images: Tensor, eps: float = 1e-6) -> Tensor:
    """The normalised class token, which DINOv2, DINOv3 and MAE evaluate."""
    return F.layer_norm(tokens(state, images, eps=eps)[:, 0], (DIM,), state["norm.weight"], state["norm.bias"], eps)


def mean_of_normed(state: State, images: Tensor) -> Tensor:
    """The mean over normalised patches, which I-JEPA evaluates."""
    return F.layer_norm(tokens(state, images), (DIM,), state["norm.weight"], state["norm.bias"], 1e-6).mean(1)


def normed_mean(state: State, images: Tensor) -> Tensor:
    """The normalised mean over patches without the class token, as in MAE's fine-tuning with a global pool."""
    mean = tokens(state, images)[:, 1:].mean(1)
    return F.layer_norm(mean, (DIM,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-6)


def chunked(state: State, size: int = 1) -> State:
    """The names of blocks in chunks of ``size``, as DINOv2's training saves them."""
    renamed = {f"blocks.{i}.": f"blocks.{i // size}.{i}." for i in range(DEPTH)}

    def rename(name: str) -> str:
        old = next((old for old in renamed if name.startswith(old)), None)
        return name if old is None else renamed[old] + name.removeprefix(old)

    return {rename(name): tensor for name, tensor in state.items()}


Expected = Callable[[State, Tensor], Tensor]
Entries = dict[str, Any]
