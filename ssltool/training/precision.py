"""Floating-point precision of computations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def widest_float(device: torch.device) -> torch.dtype:
    """float64, or float32 on MPS, which does not support float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def without_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: runs ``function`` with autocast disabled, so that it computes in the precision of its arguments."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        first: object = next(iter((*args, *kwargs.values())), None)
        while isinstance(first, (list, tuple)) and first:
            first = first[0]
        if not isinstance(first, Tensor):
            return function(*args, **kwargs)  # which raises its own error
        with torch.autocast(first.device.type, enabled=False):
            return function(*args, **kwargs)

    return wrapper
