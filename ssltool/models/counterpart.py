"""A backbone as another library, or Python without ssltool, builds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

PYTHON = "python"
"""Stands for any library: the network is the backbone itself, with its own names of parameters."""

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Counterpart:
    """A network that computes exactly what a backbone does.

    Attributes:
        model: the library's name of the model.
        arguments: the arguments of the library's builder that differ from its own.
        build: lines of Python that import what they need and assign the network to ``variable``.
        translate: from the state dict of the backbone to that of the network.
        prefix: what the names of the backbone's parameters begin with, in addition to those of the network, if
            ``translate`` only removes it.
        variable: the name of the network's variable.
        define: lines of Python that define ``model(images)``, the representations, if ``variable`` is not ``model``.
    """

    model: str
    arguments: dict[str, Any] = field(default_factory=dict)
    build: str = ""
    translate: Callable[[Weights], Weights] = dict
    prefix: str = ""
    variable: str = "model"
    define: str = ""


def call(function: str, *values: Any, **arguments: Any) -> str:
    """Python that calls ``function`` with these values."""
    listed = [*map(repr, values), *(f"{name}={value!r}" for name, value in arguments.items())]
    return f"{function}({', '.join(listed)})"
