"""How stored values become 8-bit pixels: the range of a type, or the range that ``--value-range`` gives.

8-bit values stay as they are. Wider values are scaled linearly: the low end of the range is 0, the high end 255.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import ImageColor

from ssltool.config import DataSettings
from ssltool.config.fields import AUTO
from ssltool.errors import SSLToolError, UsageError, counted
from ssltool.settings import Settings

PERCENTILES = (0.5, 99.5)
"""The percentiles of a sample that ``--value-range auto`` takes, those of nnU-Net (doi:10.1038/s41592-020-01008-z)."""

MIN_SHARE = 1 / 8
"""Fraction of a type's range below which the largest value shows that the data use a part of it only."""

SAMPLE_IMAGES = 64
"""Images whose values are examined."""

SAMPLE_VALUES = 10_000
"""Values of each of them that the percentiles are taken of."""

MAX_PIXELS = 2 * 89_478_485
"""Default limit of the pixels of an image, as in Pillow."""

WHITE = (255, 255, 255)


@dataclass(frozen=True)
class PixelRules:
    """How images become 8-bit RGB.

    Attributes:
        value_range: the values that become 0 and 255, of images with more than 8 bits; None for the range of the type.
        auto: ``value_range`` is to be taken from a sample.
        background: the RGB colour behind transparent pixels.
        raw: neither alpha nor EXIF orientation is applied, as in torchvision's ``ImageFolder``.
        max_pixels: images with more pixels are refused.
        cache_size: the images come from a cache, which reduced their shorter side to this; None if they do not.
    """

    value_range: tuple[float, float] | None = None
    auto: bool = False
    background: tuple[int, int, int] = WHITE
    raw: bool = False
    max_pixels: int = MAX_PIXELS
    cache_size: int | None = None

    @classmethod
    def of(cls, settings: DataSettings) -> PixelRules:
        """The rules that the settings give.

        Raises:
            UsageError: if the background is not an opaque colour.
        """
        given = settings.value_range
        auto = given is not None and given[0] == AUTO
        return cls(
            value_range=None if given is None or auto else (float(given[0]), float(given[1])),
            auto=auto,
            background=_colour(settings.background),
            raw=bool(settings.raw_pixels),
            max_pixels=settings.max_pixels or MAX_PIXELS,
            cache_size=settings.cache_size,
        )

    def settings(self) -> Settings:
        """The settings that give these rules. They change the pixels, and are saved with a run."""
        return {
            "value_range": None if self.value_range is None else tuple(f"{value:.9g}" for value in self.value_range),
            "background": "#{:02x}{:02x}{:02x}".format(*self.background),
            "raw_pixels": self.raw,
            "cache_size": self.cache_size,
        }


DEFAULT_RULES = PixelRules()


def unused(rules: PixelRules, *, wide: bool, alpha: bool) -> list[str]:
    """A note for each given rule that changes no image of a set.

    Args:
        wide: whether an image has more than 8 bits.
        alpha: whether an image is transparent.
    """
    ranged = rules.auto or rules.value_range is not None
    notes = {
        "--value-range is not used: all images have 8 bits": ranged and not wide,
        "--background is not used: no image is transparent": rules.background != WHITE and not alpha,
    }
    return [note for note, holds in notes.items() if holds]


def _colour(text: str | None) -> tuple[int, int, int]:
    try:
        colour: tuple[int, ...] = WHITE if text is None else ImageColor.getrgb(text)
        red, green, blue = colour
    except ValueError as error:  # also for a colour with alpha, which has four values
        raise UsageError(f"--background is '{text}'; it must be the name of a colour, or #rrggbb") from error
    return red, green, blue


@dataclass(frozen=True)
class ValueType:
    """The type of stored values: its ``name`` in messages, and the value of white; None if only the user knows it."""

    name: str
    white: float | None


SIXTEEN_BITS = ValueType("16-bit", 65535.0)
FLOAT = ValueType("float", 1.0)


def value_type(dtype: np.dtype, source: str) -> ValueType | None:
    """The type of the values of an array; None for 8 bits.

    Raises:
        SSLToolError: naming ``source``, if they are not real numbers.
    """
    if dtype == np.uint8:
        return None
    known = {"u2": SIXTEEN_BITS, "b1": ValueType("boolean", 1.0)}
    if dtype.kind not in "buif":
        raise SSLToolError(f"{source}: values of type {dtype} are not pixels; save them as uint8, uint16 or float32")
    name = f"{'unsigned ' if dtype.kind == 'u' else ''}{8 * dtype.itemsize}-bit integer"
    return FLOAT if dtype.kind == "f" else known.get(dtype.str[1:], ValueType(name, None))


def to_bytes(values: np.ndarray, kind: ValueType, rules: PixelRules, source: str) -> np.ndarray:
    """``values`` of any shape as uint8. Values outside ``--value-range`` become 0 or 255.

    Raises:
        SSLToolError: naming ``source``, if a value is not finite or, without a range, the type gives none or a float
            is outside 0 to 1.
    """
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise SSLToolError(f"{source} contains NaN or infinite values; replace them by numbers")
        if rules.value_range is None and values.size and not 0 <= values.min() <= values.max() <= 1:
            raise SSLToolError(
                f"{source} has float values from {values.min():g} to {values.max():g}, outside 0 to 1; {NAME_THE_RANGE}"
            )
    low, high = rules.value_range or (0.0, kind.white)
    if high is None:
        raise no_range(kind, source)
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(scaled.clip(0.0, 255.0)).astype(np.uint8)


NAME_THE_RANGE = "give the values of black and white with --value-range LOW HIGH, or --value-range auto"


def no_range(kind: ValueType, source: str) -> SSLToolError:
    """The error for values whose type does not show which value is white."""
    return SSLToolError(f"{source} has {kind.name} values, and the type does not show which is white; {NAME_THE_RANGE}")


def settle(rules: PixelRules, sample: Iterable[tuple[ValueType, np.ndarray]]) -> PixelRules:
    """``rules`` with the range of a ``sample`` of images, each its type and its values, if it is to be taken from it.

    Raises:
        SSLToolError: if the sample shows that the range of the type is not that of the data, or it has one value only.
    """
    if rules.value_range is not None:
        return rules
    parts: list[np.ndarray] = []
    largest: dict[ValueType, float] = {}
    for kind, values in sample:
        flat = values.ravel()
        flat = flat[np.isfinite(flat)]
        if len(flat):
            largest[kind] = max(largest.get(kind, -math.inf), float(flat.max()))
            parts.append(flat[:: max(1, len(flat) // SAMPLE_VALUES)].astype(np.float64))
    if rules.auto and parts:
        return _from_percentiles(rules, parts)
    for kind, value in largest.items():
        if kind.white is not None and value < MIN_SHARE * kind.white:
            raise SSLToolError(
                f"the largest value of a sample of the {kind.name} images is {value:g}, below an eighth of the range "
                f"up to {kind.white:g}; {NAME_THE_RANGE}"
            )
    return rules


def _from_percentiles(rules: PixelRules, parts: list[np.ndarray]) -> PixelRules:
    # Rounded as the settings are, so that a run and its later stages use the same numbers.
    low, high = (float(f"{value:.9g}") for value in np.percentile(np.concatenate(parts), PERCENTILES))
    if low >= high:
        raise SSLToolError(
            f"--value-range auto: nearly all values of {counted(len(parts), 'image')} are {low:g}; give LOW HIGH"
        )
    return dataclasses.replace(rules, value_range=(low, high), auto=False)


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most ``most`` of the numbers below ``count``, evenly spaced from 0, ascending."""
    return np.unique(np.arange(most) * count // most) if count > most else np.arange(count)
