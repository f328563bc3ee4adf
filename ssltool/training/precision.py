"""Floating-point precision of computations."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from ssltool.training.processor import BF16_FLAGS, CPUINFO, cpu_flags

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


def native_precision(device: torch.device) -> str:
    """What ``--precision auto`` is on ``device``: "bf16" if it multiplies bfloat16 numbers, else "fp32"."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.backends.mkldnn.is_available() and _has_flag(BF16_FLAGS)
    return "bf16" if native else "fp32"


def _has_flag(names: Collection[str], cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor has one of the features ``names``."""
    return not cpu_flags(cpuinfo).isdisjoint(names)
