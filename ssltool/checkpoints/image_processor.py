"""The preprocessing that a folder of transformers describes: the settings of its image processor."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

from ssltool.data.preprocessing import Preprocessing
from ssltool.errors import SSLToolError, first_line
from ssltool.files.misfit import describe
from ssltool.files.reading import read_json
from ssltool.files.schema import boolean, conform, either, integer, listing, mapping, nested, optional, real
from ssltool.models.transformers_config import quiet, transformers_package
from ssltool.settings import Settings

FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
"""Where the settings are; in the second under ``INNER``, beside those of a tokenizer. The third is of networks for
video."""

INNER = "image_processor"

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of interpolations."""

MOST_SQUASHED = 384
"""Size from which ConvNeXt's processor resizes both sides to it instead of cropping."""

SIDE = integer(1, 2**16)
SIZE = either(SIDE, mapping(optional={}, other=optional(SIDE)))
CHECKS = {
    **dict.fromkeys(("do_resize", "do_center_crop", "do_rescale", "do_normalize"), optional(boolean())),
    **dict.fromkeys(("size", "crop_size"), optional(SIZE)),
    "resample": optional(integer(0, 5)),
    "rescale_factor": optional(real(1e-9, 1e9)),
    "image_mean": optional(listing(real(), 3)),
    "image_std": optional(listing(real(1e-9), 3)),
    "crop_pct": optional(real(0.01, 1)),
    **dict.fromkeys(("patch_size", "max_num_patches"), optional(integer(1, 2**16))),
}
"""The settings of image processors that are used."""

DEFAULT = "ViTImageProcessor"
"""The class of a file that names none, or one that the library does not have."""

NAMES = ("image_processor_type", "feature_extractor_type")
"""Keys of the processor's class."""


def read_image_processor(folder: Path) -> tuple[Settings, Path] | None:
    """The settings of the image processor in ``folder``, and their file; None if there are none.

    Raises:
        SSLToolError: if the file is not readable.
    """
    for name in FILES:
        path = folder / name
        if path.is_file():
            found = read_json(path)
            found = found.get(INNER) if name == FILES[1] and isinstance(found, dict) else found
            if found is not None:
                return conform(found, mapping(other=nested()), path), path
    return None


def preprocessing_of(settings: Settings, path: Path) -> Preprocessing:
    """The transform of the image processor with these ``settings``, which come from the file ``path``.

    Raises:
        SSLToolError: if a value is not as it should be, or the transform is not one that ``Preprocessing`` describes.
    """
    used = {key: value for key, value in settings.items() if key in CHECKS}
    for key in ("size", "crop_size"):
        if isinstance(used.get(key), list):  # (height, width)
            used[key] = dict(zip(("height", "width"), used[key], strict=False))
    s = _complete(settings, conform(used, mapping(optional=CHECKS), path), path)
    size, resize, squash = _geometry(s, path)
    number = int(s.get("resample", 2))
    if number not in RESAMPLE:
        raise SSLToolError(f"{path}: resample is {number}; ssltool has {', '.join(RESAMPLE.values())} (0 to 3)")
    mean, std = _statistics(s)
    return Preprocessing(size, resize, squash, RESAMPLE[number], mean, std)


def _complete(settings: Settings, used: Settings, path: Path) -> Settings:
    """The settings ``used`` with sizes by side, and with the values of the library's class for missing ones."""
    named = next((settings[key] for key in NAMES if isinstance(settings.get(key), str)), DEFAULT)
    name = re.sub(r"(FeatureExtractor|ImageProcessorFast|ImageProcessorPil)$", "ImageProcessor", named)
    package = transformers_package()
    with quiet():
        cls = getattr(package, name, None) if re.fullmatch(r"[A-Za-z0-9]+ImageProcessor", name) else None
        if not isinstance(cls, type) or not issubclass(cls, package.ImageProcessingMixin):
            cls = getattr(package, DEFAULT)
        try:
            values = cls(**{key: value for key, value in used.items() if value is not None}).to_dict()
        except Exception as error:  # the library checks settings with exceptions of several kinds
            raise SSLToolError(f"{path}: transformers cannot build this processor: {first_line(error)}") from error
    return {key: value for key, value in values.items() if key in CHECKS and value is not None}


def _geometry(s: Settings, path: Path) -> tuple[int, int, bool]:
    """The size, the resized length, and whether both sides are resized to it."""
    edge = s.get("size", {}).get("shortest_edge")
    crop = _side(s.get("crop_size"), path) if s.get("do_center_crop") else None
    if not s.get("size"):  # SigLIP 2 takes any aspect ratio; a square of as many patches
        patches = s.get("max_num_patches")
        side = math.isqrt(patches) * s.get("patch_size", 16) if patches else crop or Preprocessing.size
        return crop or side, side, True
    if "crop_pct" in s and edge is not None:  # ConvNeXt
        return (edge, int(edge / s["crop_pct"]), False) if edge < MOST_SQUASHED else (edge, edge, True)
    if not s.get("do_resize", True):  # images of other sizes are resized all the same
        side = crop or edge or _side(s["size"], path)
        return side, side, False
    resize = edge or _side(s["size"], path)
    return crop or resize, resize, edge is None


def _side(size: Settings | None, path: Path) -> int:
    """The side of a square ``size``."""
    sides = {value for value in (size or {}).values() if value is not None}
    if len(sides) != 1:
        raise SSLToolError(f"{path}: the size is {describe(size) if not sides else sorted(sides)}; it must be square")
    return int(sides.pop())


def _statistics(s: Settings) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The means and standard deviations for pixels in [0, 1]. The processor multiplies values in 0 to 255 by its
    factor before it standardises them."""
    factor = 255 * (s.get("rescale_factor", 1 / 255) if s.get("do_rescale", True) else 1.0)
    standardised = s.get("do_normalize", True) and "image_mean" in s and "image_std" in s
    mean, std = (s["image_mean"], s["image_std"]) if standardised else ((0.0,) * 3, (1.0,) * 3)
    return _three(mean, factor), _three(std, factor)


def _three(values: Sequence[float], factor: float) -> tuple[float, float, float]:
    r, g, b = (value if abs(factor - 1) < 1e-9 else value / factor for value in map(float, values))
    return r, g, b
