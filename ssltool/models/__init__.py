"""Networks: the registry of architectures; backbones, heads, the depth of parameters, and the outputs of layers.

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

    Args:
        target: a factory that returns a module which maps images (N, 3, S, S) to representations (N, dim), and is
            called with ``image_size`` if it has such a parameter; or a ``family.Family``.
        dim: the width of a factory's representations; None to measure it by a forward pass.
        layer_of: maps the name of a parameter of a factory's module to its layer, 0 at the input and None for
            parameters that count with the head. ``--layer-decay`` needs it.
    """

    target: str | Callable[..., nn.Module] | Family
    dim: int | None = None
    layer_of: Callable[[str], int | None] | None = None


ARCHITECTURES: Registry[Architecture] = Registry(
    "architecture",
    __name__,
    {
        "resnet": Architecture(".resnet:FAMILY"),
        "wide_resnet": Architecture(".wide_resnet:FAMILY"),
        "vit": Architecture(".vit:FAMILY"),
        "vit_notebook": Architecture(".vit_notebook:FAMILY"),
        "timm": Architecture(".timm_models:FAMILY"),
        "transformers": Architecture(".transformers_models:FAMILY"),
        "torchvision": Architecture(".torchvision_models:FAMILY"),
    },
)
"""Families and single backbones, in the order in which a name is looked up."""
