"""The base class of families of backbones: their names, how they are built, and their layers."""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ssltool.data.preprocessing import IMAGENET, Preprocessing
from ssltool.errors import SSLToolError
from ssltool.models import Architecture
from ssltool.models.counterpart import Counterpart
from ssltool.models.masking import Masking

SMALL_IMAGE = 64
"""Image size in pixels up to which ``auto`` is the small stem and a ViT's patches are 4 pixels wide."""


@dataclass(frozen=True)
class TokenLayout:
    """The order of a transformer's tokens: its class token, its registers, then the patches, row by row."""

    class_token: bool = True
    registers: int = 0

    @property
    def prefix(self) -> int:
        """The number of tokens before the patches."""
        return self.class_token + self.registers


def square_grid(patches: int) -> tuple[int, int] | None:
    """The grid of ``patches`` patches if it is square, else None."""
    side = math.isqrt(max(patches, 0))
    return (side, side) if side and side * side == patches else None


class Family(ABC):
    """Backbones that are built by the same code. A family is a single object without state.

    Attributes:
        settings: which of ``stem``, ``zero_init_residual``, ``stop_grad_conv1`` and the methods' option ``drop_path``
            have an effect.
        declares_layers: whether ``layer_of`` is defined.
        pools_last_layer: whether the output of a backbone is the first token of its ``last_layer``, or the mean over
            the positions of a feature map.
        listing: a command that lists the names, if they are too many.
    """

    settings: frozenset[str] = frozenset()
    declares_layers: bool = False
    pools_last_layer: bool = False
    listing: str | None = None

    @abstractmethod
    def names(self) -> list[str]:
        """The names to list and to suggest; more may match."""

    def completions(self, start: str) -> list[str]:
        """The names that begin with ``start``, for shell completion."""
        return [name for name in self.names() if name.startswith(start)]

    @abstractmethod
    def matches(self, name: str) -> bool:
        """Whether ``name`` is a backbone of this family."""

    @abstractmethod
    def build(
        self, name: str, *, stem: str, image_size: int, stop_grad_conv1: bool, zero_init_residual: bool
    ) -> tuple[nn.Module, int]:
        """Builds a backbone, initialised from torch's global generator; returns it and the width of its output."""

    def owns(self, backbone: nn.Module) -> bool:
        """Whether ``backbone`` was built by this family."""
        return False

    def layer_of(self, parameter: str) -> int | None:
        """The layer of a parameter, from 0 at the input; None if it counts with the head.

        Raises:
            SSLToolError: for a parameter that the family does not have.
        """
        raise SSLToolError(f"no layer is declared for the parameter {parameter}; use --layer-decay 1")

    def layers(self, backbone: nn.Module) -> dict[str, int | None] | None:
        """The layer of each parameter of ``backbone`` by name, as ``layer_of`` gives it; None if none are declared.

        Raises:
            SSLToolError: for a parameter that the family does not have.
        """
        if not self.declares_layers:
            return None
        return {name: self.layer_of(name) for name, _ in backbone.named_parameters()}

    def token_layout(self, backbone: nn.Module) -> TokenLayout | None:
        """The order of the tokens of a transformer; None if the backbone computes feature maps."""
        return None

    def last_width(self, backbone: nn.Module, dim: int) -> int:
        """The width of what ``last_layer`` returns, for a backbone whose output is ``dim`` wide."""
        return dim

    def last_layer(self, backbone: nn.Module, images: Tensor) -> Tensor:
        """The output of the last layer for ``images`` (N, 3, S, S) before it is pooled: the tokens (N, T, D) of a
        transformer, in the order of ``token_layout``, or a feature map (N, D, H, W).

        Raises:
            SSLToolError: if the family does not define it.
        """
        raise SSLToolError(f"the outputs for each position of a {type(backbone).__name__} are not known")

    def takes_masks(self, backbone: nn.Module) -> bool:
        """Whether ``backbone`` is a transformer whose patches can be masked: ``masked_tokens`` is defined, and
        ``patch_size`` is not None."""
        return False

    def masked_tokens(self, backbone: nn.Module, images: Tensor, masking: Masking) -> Tensor:
        """The tokens of the last layer, as ``last_layer`` returns them, if it sees the patches of ``images`` (N, 3, S,
        S) that ``masking`` describes: (N, prefix + P, D), or (N, prefix + K, D) if only K patches are kept.

        Raises:
            SSLToolError: unless ``takes_masks``.
        """
        raise SSLToolError(f"the patches of a {type(backbone).__name__} cannot be masked; use a ViT")

    def grid(self, backbone: nn.Module, patches: int) -> tuple[int, int] | None:
        """The numbers of rows and columns of the ``patches`` of a square image; None if they are not known."""
        return square_grid(patches)

    def channels_last(self, backbone: nn.Module) -> bool:
        """Whether feature maps inside ``backbone`` are (N, H, W, D) instead of (N, D, H, W)."""
        return False

    def preprocessing(self, name: str, image_size: int | None) -> Preprocessing:
        """The transform for the backbone ``name``, at ``image_size`` or, if that is None, at its own size."""
        return IMAGENET if image_size is None else IMAGENET.at(image_size)

    def own_size(self, name: str) -> int | None:
        """The image size that the backbone ``name`` was designed for; None if it has none."""
        return None

    def fits(self, name: str, size: int) -> bool:
        """Whether the backbone ``name`` can be built for images of ``size`` pixels. A family whose backbones have no
        own size builds them for any, or says why not."""
        return True

    def check_size(self, backbone: nn.Module, size: int, flag: str = "--image-size") -> None:  # noqa: B027 (most take any)
        """Checks that ``backbone`` takes images of ``size`` pixels, which ``flag`` gives.

        Raises:
            SSLToolError: if not; the message names sizes that it takes.
        """

    def patch_size(self, backbone: nn.Module) -> int | None:
        """The side in pixels of the patches, of which image sizes are multiples; None if there are none."""
        return None

    def depends_on_size(self, backbone: nn.Module, size: int) -> bool:
        """Whether parameters of ``backbone``, such as positional embeddings, have another shape for images of ``size``
        pixels."""
        return self.token_layout(backbone) is not None

    def counterpart(self, library: str, name: str, *, stem: str, image_size: int) -> Counterpart | None:
        """The same network in ``library`` (``torchvision``, ``timm``, ``transformers``), or for ``PYTHON`` as Python
        without ssltool builds it; None if there is none. The arguments are those of ``build``."""
        return None

    def meant_by(self, name: str) -> list[str]:
        """The backbones of a library that ``name`` names without the library, or with it but not as ssltool does."""
        return []


class Single(Family):
    """One backbone, registered under its name with a factory."""

    def __init__(self, name: str, factory: Callable[..., nn.Module], entry: Architecture) -> None:
        self.name, self.factory, self.entry = name, factory, entry
        self.declares_layers = entry.layer_of is not None

    def names(self) -> list[str]:
        return [self.name]

    def matches(self, name: str) -> bool:
        return name == self.name

    def build(
        self, name: str, *, stem: str, image_size: int, stop_grad_conv1: bool, zero_init_residual: bool
    ) -> tuple[nn.Module, int]:
        sized = "image_size" in inspect.signature(self.factory).parameters
        backbone = self.factory(image_size=image_size) if sized else self.factory()
        if not isinstance(backbone, nn.Module):
            raise SSLToolError(f"the factory of {name} returned a {type(backbone).__name__}, not a torch.nn.Module")
        backbone.architecture_name = name  # type: ignore[assignment]
        return backbone, self.entry.dim or _width(backbone, name, image_size)

    def owns(self, backbone: nn.Module) -> bool:
        return getattr(backbone, "architecture_name", None) == self.name

    def layer_of(self, parameter: str) -> int | None:
        return super().layer_of(parameter) if self.entry.layer_of is None else self.entry.layer_of(parameter)


def _width(backbone: nn.Module, name: str, image_size: int) -> int:
    """The width of a backbone's representations, measured by a forward pass in eval mode."""
    training = backbone.training
    with torch.no_grad():
        out = backbone.eval()(torch.zeros(2, 3, image_size, image_size))
    backbone.train(training)
    if not isinstance(out, Tensor) or out.dim() != 2 or len(out) != 2:
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise SSLToolError(f"{name} maps images (2, 3, {image_size}, {image_size}) to {found}; it must return (2, dim)")
    return out.shape[1]
