"""A value in a file that is not as expected: where it is, what it is, and what was expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

FEW = 4
"""Values of a list that a message shows."""


class Misfit(Exception):
    """A value that is not as expected; ``keys`` leads to it.

    Attributes:
        found: a short description of the value; None if keys are missing in it.
        expected: a description of what fits, or the missing keys.
    """

    def __init__(self, found: str | None, expected: str, *keys: str | int) -> None:
        super().__init__(found, expected)
        self.found, self.expected, self.keys = found, expected, list(keys)

    def inside(self, key: str | int) -> Misfit:
        """This misfit, as seen from a container that holds the value under ``key``."""
        self.keys.insert(0, key)
        return self


def key_path(keys: Sequence[str | int]) -> str:
    """How messages name a nested value: ``metrics.epochs[3].loss``; keys that are no identifiers are quoted."""
    path = ""
    for key in keys:
        if isinstance(key, str) and all(part.isidentifier() or part.isdecimal() for part in key[:100].split(".")):
            path += f".{key}" if len(key) <= 100 else f".{key[:100]}..."
        else:
            path += f"[{describe(key)}]"
    return path.removeprefix(".")


def describe(value: Any) -> str:
    """A value in a few printable characters: numbers and short texts as they are, the type and size of others."""
    match value:
        case None | bool() | float():
            return repr(value)
        case int():
            return repr(value) if value.bit_length() <= 128 else f"an integer of {value.bit_length():,} bits"
        case bytes() if len(value) <= 60:
            return repr(value)
        case str():
            return repr(value) if len(value) <= 60 else f"{value[:40]!r}... ({len(value):,} characters)"
        case Tensor():
            return _describe_tensor(value)
        case Mapping() | list() | tuple():
            return f"a {type(value).__name__} of {len(value):,}"
    return f"a value of type {type(value).__name__}"


def shown(value: Any) -> str:
    """A value of a file in a message: numbers, None and short printable text without quotes, also a few of them in a
    list; others are described."""
    if isinstance(value, list) and 0 < len(value) <= FEW and not any(isinstance(one, (list, dict)) for one in value):
        return " ".join(map(shown, value))
    plain = isinstance(value, str) and value.isprintable() and len(value) <= 200
    return value if plain else describe(value)


def name_keys(keys: Iterable[Any], most: int = 6) -> str:
    """The first keys of a file, for messages; keys that are long or not printable are quoted and cut."""
    names = list(map(shown, keys))
    return ", ".join(names[:most]) + (f", ... ({len(names):,} in total)" if len(names) > most else "") or "none"


def _describe_tensor(tensor: Tensor) -> str:
    layout = str(tensor.layout).removeprefix("torch.").replace("_", " ")
    words = ["nested"] if tensor.is_nested else [] if tensor.layout == torch.strided else [layout]
    words += [tensor.device.type] if tensor.device.type != "cpu" else []
    shape = "" if tensor.is_nested else f" {tuple(tensor.shape)}"
    return f"a {' '.join([*words, str(tensor.dtype).removeprefix('torch.')])} tensor{shape}"
