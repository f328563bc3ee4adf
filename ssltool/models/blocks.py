"""The blocks of a network in the order of their depth, and their outputs in one forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssltool.data.pixels import evenly_spaced
from ssltool.errors import SSLToolError
from ssltool.methods.base import Method
from ssltool.models.backbones import last_layer, token_layout
from ssltool.models.outputs import Features

SEQUENCES = (nn.Sequential, nn.ModuleList)

MOST_BLOCKS = 64
"""Blocks of a network that are measured; of more, this many at equal distances."""

Patches = Callable[[str, Tensor], object]
"""Is called with the name of a block and its patch tokens (N, P, D)."""


def block_names(backbone: nn.Module) -> list[str]:
    """The names of the ``named_blocks`` of ``backbone``; of a network without them those of its layers with weights:
    the children of the network, where these are sequences their elements."""
    return [name for name, _ in named_blocks(backbone)] or [name for name, _ in _layers(backbone)]


def named_blocks(backbone: nn.Module) -> list[tuple[str, nn.Module]]:
    """The blocks of ``backbone`` with their names, in the order in which they are registered.

    Blocks are the elements of sequences of modules (``Sequential``, ``ModuleList``) that have at least two matrices of
    weights: the residual blocks of a ResNet, the layers of a transformer. A stage, which is an element of a sequence
    and holds most of its parameters in one, is replaced by its blocks.
    """
    return _blocks(backbone)


def _blocks(module: nn.Module, at: str = "", in_sequence: bool = False) -> list[tuple[str, nn.Module]]:
    """The blocks in ``module``, whose name is ``at``; itself if it is one."""
    sequence = isinstance(module, SEQUENCES)
    found = [
        block
        for name, child in module.named_children()
        for block in _blocks(child, f"{at}.{name}".lstrip("."), sequence)
    ]
    is_block = in_sequence and not sequence and _matrices(module) > 1
    if is_block and 2 * sum(_size(block) for _, block in found) < _size(module):
        return [(at, module)]
    return found


def _layers(module: nn.Module, at: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The children of ``module`` with weights; where they are sequences, their elements."""
    for name, child in module.named_children():
        name = f"{at}.{name}".lstrip(".")
        if isinstance(child, SEQUENCES):
            yield from _layers(child, name)
        elif _matrices(child):
            yield name, child


def _matrices(module: nn.Module) -> int:
    return sum(parameter.dim() > 1 for parameter in module.parameters())


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@dataclass
class BlockOutputs:
    """The outputs of the blocks, the backbone and the heads of ``method`` as rows, one for each image.

    Feature maps are averaged over their positions. Of tokens, the class token is taken, or the mean of the patches
    where that is the network's representation.

    Attributes:
        layers: the names, from the input to the output: those of blocks begin with ``backbone.``.
        skipped: the names of blocks that are not called, or whose outputs are not rows.
        beyond: the names of blocks beyond ``MOST_BLOCKS``.
        pooled: how tokens become a row: ``cls`` or ``mean``; None for a network without tokens.
    """

    method: Method
    layers: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    pooled: str | None = None
    _features: dict[str, Features] = field(default_factory=dict)

    @classmethod
    @torch.inference_mode()
    def of(
        cls, method: Method, image_size: int, device: torch.device, like: BlockOutputs | None = None
    ) -> BlockOutputs:
        """Finds the blocks by a forward pass on one image; tokens become a row as in ``like``, if it is given."""
        images = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0)).to(device)
        found = cls(method, pooled=_representation_tokens(method, images) if like is None else like.pooled)
        counts: dict[int, int] = {}
        if found.pooled is not None:
            counts[image_size] = last_layer(method.backbone, images).shape[1]
        for name in block_names(method.backbone):
            layer = f"backbone.{name}"
            found._features[layer] = Features(method, layer, counts=counts)
        usable: dict[str, bool] = {}  # in the order of the calls

        def look(layer: str, out: Any) -> None:
            if layer in usable:
                return
            try:
                found._rows(layer, out, images)
            except SSLToolError:
                usable[layer] = False
            else:
                usable[layer] = True

        outputs = found._run(images, look)
        found.skipped = [layer for layer in found._features if not usable.get(layer)]
        blocks = [layer for layer, is_usable in usable.items() if is_usable]
        kept = [blocks[i] for i in evenly_spaced(len(blocks) - 1, MOST_BLOCKS - 1)] + blocks[-1:]
        found.beyond = [layer for layer in blocks if layer not in kept]
        found._features = {layer: found._features[layer] for layer in kept}
        found.layers = [*kept, *outputs]
        return found

    def __call__(self, images: Tensor, patches: Patches | None = None) -> dict[str, Tensor]:
        """The rows (N, D) of each layer for ``images`` (N, 3, S, S); ``patches`` is called for the blocks of a
        transformer."""
        rows: dict[str, Tensor] = {}

        def keep(layer: str, out: Any) -> None:
            if layer in rows:  # a block that is used again
                return
            rows[layer] = self._rows(layer, out, images)
            if patches is not None and self.pooled is not None:
                tokens = self._features[layer].sequence(self._features[layer].checked(out, images), images)
                patches(layer, tokens.tokens[:, tokens.layout.prefix :])

        outputs = self._run(images, keep)
        rows |= {name: out.clone() for name, out in outputs.items()}
        return {name: rows[name] for name in self.layers}

    def _run(self, images: Tensor, take: Callable[[str, Any], None]) -> dict[str, Tensor]:
        """The outputs of the backbone and the heads; ``take`` is called with the output of each block."""

        def hook(layer: str) -> Callable[[nn.Module, Any, Any], None]:
            return lambda module, given, out: take(layer, out)

        with contextlib.ExitStack() as hooks:
            for layer in self._features:
                hooks.callback(self.method.get_submodule(layer).register_forward_hook(hook(layer)).remove)
            return self.method.outputs(images)

    def _rows(self, layer: str, out: Any, images: Tensor) -> Tensor:
        """A copy of the output of a block as rows (N, D)."""
        features = self._features[layer]
        out = features.checked(out, images)
        if out.dim() == 2:
            return out.clone()
        sequence = features.sequence(out, images)
        choice = sequence.default if self.pooled is None or not sequence.layout.class_token else self.pooled
        return sequence.select(choice, layer)[0].clone()


def _representation_tokens(method: Method, images: Tensor) -> str | None:
    """Whether the representation is the class token of the last layer (``cls``) or the mean of its patches (``mean``),
    whichever is nearer in direction; None for a network without tokens."""
    layout = token_layout(method.backbone)
    if layout is None:
        return None
    if not layout.class_token:
        return "mean"
    tokens, out = last_layer(method.backbone, images), method.embed(images, "backbone")
    if out.shape[-1] != tokens.shape[-1]:
        return "cls"
    choices = {"cls": tokens[:, 0], "mean": tokens[:, layout.prefix :].mean(dim=1)}
    return max(choices, key=lambda name: float(F.cosine_similarity(choices[name], out).mean()))
