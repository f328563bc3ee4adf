"""How wide numbers are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def widest_float(device: torch.device) -> torch.dtype:
    """float64, but on Apple's GPUs, which have none, float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def without_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` in the precision of its arguments: autocast would make its matrix products bf16 or fp16."""

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> T:
        first: object = next(iter((*args, *kwargs.values())), None)
        while isinstance(first, (list, tuple)) and first:
            first = first[0]
        if not isinstance(first, Tensor):
            return function(*args, **kwargs)  # which will say what it takes
        with torch.autocast(first.device.type, enabled=False):
            return function(*args, **kwargs)

    return exact
