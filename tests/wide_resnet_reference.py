"""Wide ResNets of PAWS and solo-learn: random weights with the programs' names, and forward passes of the published
networks, written with functions only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def weights(stages: str, shortcut: str, *, blocks: int = 1, widening: int = 1, seed: int = 0) -> State:
    """Random weights; ``stages`` is ``layer{}`` or ``block{}.layer``, ``shortcut`` the name of the 1x1 convolution."""
    torch.manual_seed(seed)
    widths = [16, 16 * widening, 32 * widening, 64 * widening]
    state = _conv("conv1", 3, 16, 3)
    for stage in range(3):
        for block in range(blocks):
            inputs, outputs = widths[stage if block == 0 else stage + 1], widths[stage + 1]
            name = f"{stages.format(stage + 1)}.{block}"
            state |= _norm(f"{name}.bn1", inputs) | _conv(f"{name}.conv1", inputs, outputs, 3)
            state |= _norm(f"{name}.bn2", outputs) | _conv(f"{name}.conv2", outputs, outputs, 3)
            state |= {} if inputs == outputs else _conv(f"{name}.{shortcut}", inputs, outputs, 1)
    return state | _norm("bn1", widths[3])


def _conv(name: str, inputs: int, outputs: int, side: int) -> State:
    scale = (2 / (inputs * side * side)) ** 0.5
    return {
        f"{name}.weight": scale * torch.randn(outputs, inputs, side, side),
        f"{name}.bias": 0.1 * torch.randn(outputs),
    }


def _norm(name: str, width: int) -> State:
    """The variances are small, so that epsilon shows."""
    return {
        f"{name}.weight": 0.1 + 0.1 * torch.rand(width),
        f"{name}.bias": 0.1 * torch.randn(width),
        f"{name}.running_mean": 0.1 * torch.randn(width),
        f"{name}.running_var": 0.01 + 0.05 * torch.rand(width),
        f"{name}.num_batches_tracked": torch.tensor(3),
    }


def paws_weights(**settings: int) -> State:
    return weights("layer{}", "shortcut.0", **settings)


def solo_weights(**settings: int) -> State:
    return weights("block{}.layer", "convShortcut", **settings)


def _applied(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = state[f"{name}.weight"]
    return F.conv2d(x, kernel, state[f"{name}.bias"], stride, kernel.shape[-1] // 2)


def _normed(state: State, name: str, x: Tensor, eps: float) -> Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale = state[f"{name}.weight"] / (var + eps).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + state[f"{name}.bias"][:, None, None]


def paws(state: State, images: Tensor) -> Tensor:
    """PAWS: ReLU; the second convolution of a block has the stride; the shortcut has the block's input."""

    def before(name: str, x: Tensor) -> Tensor:
        return _normed(state, name, x, 1e-5).clamp(min=0)

    x = _applied(state, "conv1", images)
    for stage in (1, 2, 3):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = _applied(state, f"{name}.conv1", before(f"{name}.bn1", x))
            y = _applied(state, f"{name}.conv2", before(f"{name}.bn2", y), stride)
            shortcut = f"{name}.shortcut.0"
            x = y + (_applied(state, shortcut, x, stride) if f"{shortcut}.weight" in state else x)
            block += 1
    return before("bn1", x).mean((2, 3))


def solo(state: State, images: Tensor) -> Tensor:
    """solo-learn: a slope of 0.1 below 0; the first convolution of a block has the stride. Where the width changes,
    both branches have the norm and the activation in the first stage, and none in the others."""

    def before(name: str, x: Tensor) -> Tensor:
        y = _normed(state, name, x, 1e-3)
        return torch.where(y > 0, y, 0.1 * y)

    x = _applied(state, "conv1", images)
    for stage in (1, 2, 3):
        block = 0
        while f"block{stage}.layer.{block}.conv1.weight" in state:
            name, stride = f"block{stage}.layer.{block}", 2 if stage > 1 and block == 0 else 1
            shortcut = f"{name}.convShortcut"
            if f"{shortcut}.weight" in state:
                x = before(f"{name}.bn1", x) if stage == 1 else x
                y, other = x, _applied(state, shortcut, x, stride)
            else:
                y, other = before(f"{name}.bn1", x), x
            y = _applied(state, f"{name}.conv1", y, stride)
            x = other + _applied(state, f"{name}.conv2", before(f"{name}.bn2", y))
            block += 1
    return before("bn1", x).mean((2, 3))
