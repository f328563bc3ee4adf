"""Networks: backbones, heads, the depth of a parameter, and which output is taken; here the registry of architectures.

An architecture's module is imported when its name is looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssltool.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from ssltool.models.family import Family


@dataclass(frozen=True)
class Architecture:
    """A backbone, or a family of them.

    ``target`` is a factory: a callable that returns a module which maps images (N, 3, S, S) to representations
    (N, dim); it is called with ``image_size`` if it takes such an argument. Or ``target`` is a ``family.Family`` that
    builds many names. Of a factory, ``dim`` is the width of the representations, None to measure it by a forward pass,
    and ``layer_of`` maps a parameter's name to its layer, 0 at the input and None at the head, for ``--layer-decay``.
    """

    target: str | Callable[..., nn.Module] | Family
    dim: int | None = None
    layer_of: Callable[[str], int | None] | None = None


ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture", __name__, {"resnet": Architecture(".resnet:FAMILY"), "vit": Architecture(".vit:FAMILY")}
)
"""Families and single backbones, in the order in which a name is looked up."""
