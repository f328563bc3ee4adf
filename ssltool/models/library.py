"""The base class of the families whose architectures are another library's: ``timm:NAME``, ``torchvision:NAME``.

What such a network returns is found by a forward pass on the meta device, which takes no memory and little time.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssltool.errors import SSLToolError, UsageError, first_line
from ssltool.models.arch_name import ArchName, compose, parse
from ssltool.models.family import Family, TokenLayout

STEPS = (14, 16, 32, 64)
"""Image sizes in pixels that suit most networks are multiples of these."""

SHOWN = 2
"""Image sizes that an error message suggests."""


@dataclass(frozen=True)
class Outline:
    """What a network of a library returns for images of one size.

    Attributes:
        width: the width D of its output (N, D).
        shapes: the shapes of its parameters and buffers by name.
        last: the shape of the output of its last layer, without N; None if that is not one tensor.
        tokens: the order of its tokens; None if the last layer gives a feature map.
        channels_last: whether the last layer gives a feature map (N, H, W, D) instead of (N, D, H, W).
    """

    width: int
    shapes: dict[str, tuple[int, ...]]
    last: tuple[int, ...] | None
    tokens: TokenLayout | None = None
    channels_last: bool = False

    @property
    def last_width(self) -> int:
        """The width of the last layer, which is not that of the output if a layer follows the pooling."""
        if self.last is None:
            return self.width
        return self.last[-1] if self.tokens is not None or self.channels_last else self.last[0]


class LibraryModels(Family):
    """The architectures of a library. A backbone remembers its name and the image size that it was built for.

    Attributes:
        library: the name before the colon.
        refused: settings of the library's builder that do not describe a network, or are given by flags, and what to
            do instead.
    """

    library: ClassVar[str]
    refused: ClassVar[dict[str, str]]

    @abstractmethod
    def create(self, arch: ArchName, image_size: int) -> nn.Module:
        """The network without its classifier. Any exception means that the library cannot build it."""

    @abstractmethod
    def features(self, backbone: nn.Module, images: Tensor) -> Any:
        """The output of the last layer before it is pooled, as the library gives it."""

    @abstractmethod
    def check_name(self, arch: ArchName) -> None:
        """Raises ``UsageError`` if the library has no such model."""

    @abstractmethod
    def models(self) -> list[str]:
        """The models of the library; none if it is not installed."""

    def names(self) -> list[str]:
        return []  # there are too many to list

    def completions(self, start: str) -> list[str]:
        """The name of the library, and after its colon the names of its models."""
        prefix = f"{self.library}:"
        offered = [f"{prefix}{model}" for model in self.models()] if self.matches(start) else [prefix]
        return [name for name in offered if name.startswith(start)]

    def matches(self, name: str) -> bool:
        return name.startswith(f"{self.library}:")

    def build(
        self, name: str, *, stem: str, image_size: int, stop_grad_conv1: bool, zero_init_residual: bool
    ) -> tuple[nn.Module, int]:
        outline = self.outline(name, image_size)
        backbone = self.create(self.parsed(name), image_size)
        backbone.architecture_name, backbone.built_size = name, image_size  # type: ignore[assignment]
        return backbone, outline.width

    def owns(self, backbone: nn.Module) -> bool:
        return self.matches(str(getattr(backbone, "architecture_name", "")))

    def own_size(self, name: str) -> int | None:
        return self.preprocessing(name, None).size

    def fits(self, name: str, size: int) -> bool:
        own = self._size(name)
        return not self._failure(name, size, size) or bool(self._failure(name, own, own))

    def check_size(self, backbone: nn.Module, size: int, flag: str = "--image-size") -> None:
        self.outline(*_origin(backbone), size, flag)

    def depends_on_size(self, backbone: nn.Module, size: int) -> bool:
        name, built = _origin(backbone)
        return self.outline(name, built).shapes != self.outline(name, size).shapes

    def token_layout(self, backbone: nn.Module) -> TokenLayout | None:
        return self.outline(*_origin(backbone)).tokens

    def patch_size(self, backbone: nn.Module) -> int | None:
        return _patch(backbone)

    def grid(self, backbone: nn.Module, patches: int) -> tuple[int, int] | None:
        height, width = _patch_sides(backbone) or (1, 1)
        rows = math.isqrt(patches * width // height)
        return (rows, patches // rows) if rows and rows * rows * height == patches * width else None

    def channels_last(self, backbone: nn.Module) -> bool:
        return self.outline(*_origin(backbone)).channels_last

    def last_width(self, backbone: nn.Module, dim: int) -> int:
        return self.outline(*_origin(backbone)).last_width

    def last_layer(self, backbone: nn.Module, images: Tensor) -> Tensor:
        outline = self.outline(*_origin(backbone))
        if outline.last is None:
            return super().last_layer(backbone, images)
        out: Tensor = self.features(backbone, images)
        return out.permute(0, 3, 1, 2) if outline.channels_last else out

    def parsed(self, name: str) -> ArchName:
        """The parts of ``name``.

        Raises:
            UsageError: if the library has no such model, or a setting does not describe the network.
        """
        arch = parse(name)
        if arch is None or arch.library != self.library:
            raise UsageError(f"{name} is no name of {self.library}; write {self.library}:NAME")
        self.check_name(arch)
        for key in arch.settings:
            if key in self.refused:
                raise UsageError(f"{name}: {key} cannot be set in the name; {self.refused[key]}")
        return arch

    def outline(self, name: str, built: int, size: int | None = None, flag: str = "--image-size") -> Outline:
        """The outline of the network ``name`` that was built for images of ``built`` pixels, for images of ``size``
        pixels, which are by default as many.

        Raises:
            UsageError: for an unknown model or a setting that it does not take.
            SSLToolError: if it takes no images of this size; the message names sizes that work, after ``flag``.
        """
        size = built if size is None else size
        found = _outline(self, name, built, size)
        if isinstance(found, Outline):
            return found
        raise self._explained(name, built, size, flag, found) from found

    def _failure(self, name: str, built: int, size: int) -> Exception | None:
        found = _outline(self, name, built, size)
        return None if isinstance(found, Outline) else found

    def _size(self, name: str) -> int:
        return self.own_size(name) or 224

    def _explained(self, name: str, built: int, size: int, flag: str, error: Exception) -> SSLToolError:
        """The error that says which setting, or else which image size, is wrong."""
        arch, own = self.parsed(name), self._size(name)
        for key, value in arch.settings.items():
            alone = compose(arch.library, arch.model, {key: value})
            if failure := self._failure(alone, own, own):
                return UsageError(f"{name}: {self.library}'s {arch.model} does not take this {key}: {reason(failure)}")
        if failure := self._failure(name, own, own):
            return SSLToolError(f"{self.library} cannot build {name}: {reason(failure)}")
        of_built = "" if size == built else f", built for {built} pixels,"
        works = list(self._sizes_near(name, built, size, own))
        remedy = f"; use {flag} {' or '.join(map(str, works))}" if works else ""
        return SSLToolError(f"{name}{of_built} takes no images of {size} pixels: {reason(error)}{remedy}")

    def _sizes_near(self, name: str, built: int, size: int, own: int) -> Iterator[int]:
        """Image sizes that work, those nearest to ``size`` first."""
        multiples = {size // step * step + more for step in (*STEPS, own) for more in (0, step)}
        tried = sorted({*multiples, own, built} - {0, size}, key=lambda other: (abs(other - size), other))
        works = (other for other in tried if not self._failure(name, other if built == size else built, other))
        for other, _ in zip(works, range(SHOWN), strict=False):
            yield other


def reason(error: Exception) -> str:
    """The first line of an exception of a library; a ``KeyError`` is only a name."""
    return f"unknown {error}" if isinstance(error, KeyError) else first_line(error)


def _patch_sides(backbone: nn.Module) -> tuple[int, int] | None:
    """Height and width in pixels of the patches that do not overlap; None if the network has none."""
    projection = getattr(getattr(backbone, "patch_embed", None), "proj", None)
    if not isinstance(projection, nn.Conv2d) or projection.kernel_size != projection.stride:
        return None
    height, width = projection.kernel_size
    return height, width


def _patch(backbone: nn.Module) -> int | None:
    """The side in pixels of which image sizes are multiples; None if the network has no such patches."""
    sides = _patch_sides(backbone)
    return None if sides is None else math.lcm(*sides)


def _origin(backbone: nn.Module) -> tuple[str, int]:
    return str(backbone.architecture_name), int(backbone.built_size)  # type: ignore[arg-type]


@functools.lru_cache(maxsize=256)
def _outline(family: LibraryModels, name: str, built: int, size: int) -> Outline | Exception:
    """The outline, or the library's exception."""
    arch = family.parsed(name)
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]), torch.no_grad():
            backbone = family.create(arch, built).eval()
            patch = _patch(backbone)
            if patch is not None and size % patch:
                raise ValueError(f"they are not divisible into patches of {patch} pixels")
            images = torch.zeros(2, 3, size, size)
            out, last = backbone(images), family.features(backbone, images)
    except Exception as error:  # whatever the library raises
        return error.with_traceback(None)
    if not isinstance(out, Tensor) or out.dim() != 2:
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        return ValueError(f"2 images give {found} instead of one vector each")
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    return Outline(out.shape[1], shapes, *_last(backbone, last))


def _last(backbone: nn.Module, out: object) -> tuple[tuple[int, ...] | None, TokenLayout | None, bool]:
    """The shape of the last layer's output ``out``, its tokens, and whether its channels come last."""
    if not isinstance(out, Tensor) or out.dim() not in (3, 4):
        return None, None, False
    shape = tuple(out.shape[1:])
    if out.dim() == 3:
        tokens = _tokens(backbone, shape[0])
        return (None if tokens is None else shape), tokens, False
    last = getattr(backbone, "output_fmt", "NCHW") == "NHWC" or (shape[0] == shape[1] and shape[1] != shape[2])
    return shape, None, last


def _tokens(backbone: nn.Module, count: int) -> TokenLayout | None:
    """The order of ``count`` tokens; None if it is unknown."""
    prefix = getattr(backbone, "num_prefix_tokens", None)
    class_token = getattr(backbone, "cls_token", None) is not None
    if prefix is None:
        prefix = count - math.isqrt(count) ** 2  # square images have a square number of patches
        known = prefix == 1 or (prefix == 0 and not class_token)  # PiT gives its class token only
        return TokenLayout(class_token=prefix == 1) if known else None
    return TokenLayout(class_token, int(prefix) - class_token)
