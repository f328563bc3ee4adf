"""Activation checkpointing: what blocks of a network compute is not kept for the backward pass but computed again."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ssltool.errors import SSLToolError
from ssltool.models.blocks import named_blocks


def recompute_blocks(backbone: nn.Module, arch: str) -> None:
    """Makes the blocks of ``backbone`` keep only their input for the backward pass. Names of parameters do not change.

    Training gives the same weights and buffers bit for bit: random numbers are drawn as in the first pass, and running
    statistics are updated once.

    Raises:
        SSLToolError: if the backbone, which ``arch`` names, has no blocks.
    """
    blocks = named_blocks(backbone)
    if not blocks:
        raise SSLToolError(
            f"--checkpoint-activations has no effect with {arch}, which has no residual blocks or layers of a "
            "transformer; leave it out"
        )
    for _, block in blocks:
        block.__class__ = _recomputed(type(block))  # type: ignore[arg-type]


class _Recomputed:
    """Mixin of a block whose activations are computed again in the backward pass."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        forward = super().forward  # type: ignore[misc]
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if torch.compiler.is_compiling():  # a compiled backward pass repeats no update of buffers
            return checkpoint(forward, *args, use_reentrant=False, **kwargs)
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            context_fn=functools.partial(_contexts, self),
            **kwargs,
        )


@functools.cache
def _recomputed(cls: type[nn.Module]) -> type[nn.Module]:
    return type(cls.__name__, (_Recomputed, cls), {})


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """The contexts of the first and the second forward pass of ``block``."""
    return nullcontext(), _with_copied_buffers(block)


@contextmanager
def _with_copied_buffers(block: nn.Module) -> Iterator[None]:
    """Within it, ``block`` has copies of its buffers, so that batch norms do not add a batch to their statistics
    again."""
    kept = [(module, dict(module.named_buffers(recurse=False))) for module in block.modules()]
    for module, buffers in kept:
        for name, buffer in buffers.items():
            setattr(module, name, buffer.clone())
    try:
        yield
    finally:
        for module, buffers in kept:
            for name, buffer in buffers.items():
                setattr(module, name, buffer)
