"""How an image becomes the input of a network: its size, resizing, crop, and the statistics that standardise it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssltool.config.fields import TRANSFORM
from ssltool.errors import SSLToolError
from ssltool.files.schema import boolean, integer, listing, mapping, nested, optional, real, text
from ssltool.settings import Record, Settings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Channel means and standard deviations of ImageNet, for pixels in [0, 1]."""

PREPROCESSING = mapping(
    optional={
        **dict.fromkeys(("size", "resize"), integer(1, 2**20)),
        **dict.fromkeys(("squash", "keeps_size"), boolean()),
        "interpolation": text(200),
        **dict.fromkeys(("mean", "std"), listing(real(), 3, what="a list of numbers")),
        "crop_pct": optional(real()),
    },
    other=nested(),
    what="a transform",
)
"""A saved ``Preprocessing``."""


@dataclass(frozen=True)
class Preprocessing:
    """The transform that a network was trained for.

    Attributes:
        size: the side S of the input in pixels.
        resize: the length in pixels to which the shorter side is resized before the centre crop of ``size``.
        squash: whether both sides are resized to ``resize``, which changes the aspect ratio.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        mean, std: the channels' means and standard deviations, for pixels in [0, 1].
        crop_pct: the fraction of the resized side that is cropped, if that defines ``resize`` at every size, as in
            timm: ``floor(size / crop_pct)``.
        keeps_size: whether images that have the size of the input are only standardised, although ``resize`` is larger.
    """

    size: int = 224
    resize: int = 256
    squash: bool = False
    interpolation: str = "bilinear"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop_pct: float | None = None
    keeps_size: bool = False

    @classmethod
    def read(cls, record: Record) -> Preprocessing:
        """The transform with the values that ``record()`` returned."""
        known = {f.name: record[f.name] for f in dataclasses.fields(cls) if f.name in record}
        return cls(**{name: _as_tuple(value) for name, value in known.items()})

    @classmethod
    def of(cls, meta: Record) -> Preprocessing | None:
        """The transform of representations or a run, from their metadata or settings; None if they do not show it.

        Files of earlier versions have ``image_size`` only; their transform is ImageNet's.
        """
        if meta.get("preprocessing") is not None:
            return cls.read(meta["preprocessing"])
        size = meta.get("image_size")
        return None if size is None else IMAGENET.at(size).with_settings(meta)

    def at(self, size: int) -> Preprocessing:
        """The same transform for inputs of ``size`` pixels: the image is resized in the same ratio to its crop."""
        if size == self.size:
            return self
        in_ratio = round(self.resize * size / self.size)
        resize = in_ratio if self.crop_pct is None else math.floor(size / self.crop_pct)
        return dataclasses.replace(self, size=size, resize=resize)

    def with_settings(self, given: Mapping[str, Any]) -> Preprocessing:
        """This transform with the settings of ``given``, a mapping with the names in ``TRANSFORM``; None changes
        nothing. With ``crop_pct``, images of any size are resized and cropped."""
        changes = {name: _as_tuple(given[name]) for name in TRANSFORM if given.get(name) is not None}
        if "crop_pct" in changes:
            changes |= {"resize": math.floor(self.size / changes["crop_pct"]), "keeps_size": False}
        return dataclasses.replace(self, **changes)

    def settings(self) -> Settings:
        """The settings that give this transform, from any network's own of the same ``resize``."""
        return {name: getattr(self, name) for name in TRANSFORM}

    def record(self) -> Record:
        """The values as plain numbers and lists, for metadata."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def keeps(self, image_size: tuple[int, int] | None) -> bool:
        """Whether an image of this (width, height) is only standardised; False if the size is None, unknown."""
        return image_size == (self.size, self.size) and (self.keeps_size or self.resize == self.size)

    def describe(self, image_size: tuple[int, int] | None = None) -> str:
        """The steps for an image of this (width, height), or if it is not known, of any other than the input's."""
        steps = []
        if not self.keeps(image_size):
            sides = f"{self.resize} x {self.resize}" if self.squash else f"{self.resize}"
            how = "" if self.interpolation == "bilinear" else f" ({self.interpolation})"
            steps = [f"resize {sides}{how}", f"centre crop {self.size}"]
        return ", ".join([*steps, self._statistics()])

    def notes(self) -> list[str]:
        """A line about the transform, unless it is ssltool's own."""
        return [] if self == IMAGENET.at(self.size) else [f"input: {self.size} px, {self.describe()}"]

    def describe_views(self) -> str:
        """The steps beside the random ones of an augmented view."""
        how = [] if self.interpolation == "bilinear" else [f"resize ({self.interpolation})"]
        return ", ".join([*how, self._statistics()])

    def _statistics(self) -> str:
        return f"normalise mean {self.mean} std {self.std}"


IMAGENET = Preprocessing(keeps_size=True)
"""ssltool's own, and that of most networks trained on ImageNet."""


def refuse_unused(own: Preprocessing, used: Preprocessing, *image_sizes: tuple[int, int] | None, crops: bool) -> None:
    """Refuses flags that change a network's ``own`` transform but nothing of the images.

    Args:
        used: the transform with the flags.
        image_sizes: (width, height) of the images; None if it is unknown or differs.
        crops: whether random crops are used too.

    Raises:
        SSLToolError: naming the flag.
    """
    square = all(size is not None and size[0] == size[1] for size in image_sizes)
    kept = not crops and all(map(used.keeps, image_sizes))
    for name, unused, why in (
        ("squash", square, "all images are square"),
        ("interpolation", kept, "all images have the size of the input and are not resized"),
    ):
        if unused and getattr(used, name) != getattr(own, name):
            raise SSLToolError(f"--{name} has no effect: {why}; leave it out")


def differences(*metas: Record) -> list[str]:
    """What differs between the transforms that ``metas`` show, each with its values; see ``Preprocessing.of``.

    The size is not compared, and without equal sizes neither is the resize.
    """
    known = [one for one in map(Preprocessing.of, metas) if one is not None]
    ignored = {"size", "crop_pct"} | ({"resize"} if len({one.size for one in known}) > 1 else set())
    found = []
    for name in (f.name for f in dataclasses.fields(Preprocessing) if f.name not in ignored):
        values = dict.fromkeys(_shown(getattr(one, name)) for one in known)
        if len(values) > 1:
            found.append(f"{name.replace('_', ' ')} {' and '.join(values)}")
    return found


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: object) -> str:
    return " ".join(f"{one:g}" for one in value) if isinstance(value, tuple) else str(value)
