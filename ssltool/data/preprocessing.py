"""How an image becomes the input of a network: its size, resizing, crop, and the statistics that standardise it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel means and standard deviations of ImageNet, for pixels in [0, 1]."""


@dataclass(frozen=True)
class Preprocessing:
    """The transform that a network was trained for.

    Attributes:
        size: the side S of the input in pixels.
        resize: the length in pixels to which the shorter side is resized before the centre crop of ``size``.
        squash: whether both sides are resized to ``resize``, which changes the aspect ratio.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        mean, std: the channels' means and standard deviations, for pixels in [0, 1].
    """

    size: int = 224
    resize: int = 256
    squash: bool = False
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def at(self, size: int) -> Preprocessing:
        """The same transform for inputs of ``size`` pixels: the image is resized in the same ratio to its crop."""
        return dataclasses.replace(self, size=size, resize=round(self.resize * size / self.size))


IMAGENET = Preprocessing()
"""ssltool's own, and that of most networks trained on ImageNet."""
