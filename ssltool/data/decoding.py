"""Decodes image files into 8-bit RGB.

Pillow turns images with more than 8 bits white or black when it converts them, leaves the colours that transparency
hides, and ignores the EXIF orientation. Here ``PixelRules`` say how each of them is read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from ssltool.data.opening import BITS, SAMPLE_FORMAT, open_image, samples_in
from ssltool.data.pixels import DEFAULT_RULES, FLOAT, SIXTEEN_BITS, PixelRules, ValueType, to_bytes
from ssltool.data.sources import Encoded
from ssltool.errors import SSLToolError

FRAMES = ("AVIF", "FLI", "GIF", "PNG", "TIFF", "WEBP")
"""Formats with frames. In others, such as MPO and PSD, the first image is the picture and the rest are parts of it."""

ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION = 0x0112
PHOTOMETRIC = 262
"""Numbers of EXIF and TIFF tags."""

PNG_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
"""The keys under which Pillow looks for the orientation of a PNG."""

GREY_STEPS: dict[object, int] = {"L;2": 85, "L;4": 17}
"""The difference of two grey levels, with 8 bits, of the raw modes with 2 and 4 bits."""

NATIVE = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"} if sys.byteorder == "little" else {}
"""libtiff, which decodes compressed files, swaps the bytes of big-endian values, and Pillow would swap them back."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of each EXIF orientation upright, as in Pillow's ``exif_transpose``."""

SIDEWAYS = 5
"""The first orientation that exchanges width and height."""


@dataclass(frozen=True)
class Header:
    """What the header of an image file tells.

    Attributes:
        size: (width, height), upright.
        kind: the type of its values, None for 8 bits.
        alpha: whether it has an alpha channel or a transparent colour.
        turned: whether its EXIF orientation is not upright.
        frames: whether it has several frames.
        unnamed: whether it has a further channel whose meaning the file does not tell.
    """

    size: tuple[int, int]
    kind: ValueType | None
    alpha: bool
    turned: bool
    frames: bool
    unnamed: bool


def decode(
    path: Encoded, rules: PixelRules = DEFAULT_RULES, reduction: Callable[[tuple[int, int]], int] | None = None
) -> Image.Image:
    """The image in a file, or of a source, as RGB with 8 bits.

    Args:
        reduction: given the (width, height) of a grey or RGB JPEG, upright, the factor 1, 2, 4 or 8 by which to reduce
            it. The decoder then computes fewer pixels, each the mean of a block. It is not called for other files.

    Raises:
        CorruptImage: if it cannot be decoded.
        SSLToolError: if ``rules`` or the type of its values do not allow it. Both name the file.
    """
    with open_image(path, rules) as (image, stream):
        kind = _value_type(image)
        if rules.raw:
            return _raw(image, path)
        if reduction is not None and image.format == "JPEG" and image.mode in ("L", "RGB"):
            _reduce(image, reduction)
        rgb = _composite(image, rules) if kind is None else _scaled(image, stream, kind, rules, path)
        return _upright(rgb, _orientation(image))


def read_header(path: Encoded, rules: PixelRules = DEFAULT_RULES) -> Header:
    """The header of an image file.

    Raises:
        CorruptImage, SSLToolError: as ``decode``, if the header shows it.
    """
    with open_image(path, rules) as (image, _):
        orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns a TIFF itself
        sideways = orientation >= SIDEWAYS and not rules.raw
        return Header(
            size=image.size[::-1] if sideways else image.size,
            kind=_value_type(image),
            alpha=_has_alpha(image),
            turned=orientation != 1,
            frames=image.format in FRAMES and bool(getattr(image, "is_animated", False)),
            unnamed=samples_in(image) > len(image.getbands()),
        )


def read_values(path: Encoded, rules: PixelRules) -> np.ndarray:
    """The values of an image with more than 8 bits as they are stored, without alpha: (H, W) or (H, W, 3).

    Raises:
        CorruptImage, SSLToolError: as ``decode``.
    """
    with open_image(path, rules) as (image, stream):
        return _stored(image, stream)[0]


# Values


def _value_type(image: ImageFile.ImageFile) -> ValueType | None:
    """The type of the stored values; None for 8 bits."""
    if image.mode == "F":
        return FLOAT
    if image.mode.startswith("I;16") or _has_wide_colour(image):
        return SIXTEEN_BITS
    if image.mode != "I":
        return None
    if image.format in ("PNG", "PPM"):  # Pillow scales a PGM's own range to 16 bits
        return SIXTEEN_BITS
    tags = getattr(image, "tag_v2", {})
    bits, signed = tags.get(BITS, (32,))[0], tags.get(SAMPLE_FORMAT, (2,))[0] == 2
    return ValueType(f"{bits}-bit {'integer' if signed else 'unsigned integer'}", None)


def _has_wide_colour(image: ImageFile.ImageFile) -> bool:
    """Whether the file has several channels of 16 bits, of which Pillow keeps the upper 8."""
    if image.mode.startswith("I"):
        return False
    name, *more = _tile_arguments(image)
    maximum = more[0] if image.format == "PPM" and more else 0
    return ";16" in str(name) or (isinstance(maximum, int) and maximum > 255)


def _tile_arguments(image: ImageFile.ImageFile) -> tuple[object, ...]:
    """The raw mode of the stored values, and further arguments of the decoder; only before an image is decoded."""
    arguments = image.tile[0][3] if image.tile else None
    return arguments if isinstance(arguments, tuple) and arguments else (arguments,)


def _has_alpha(image: ImageFile.ImageFile) -> bool:
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    return image.mode in ALPHA_MODES or "transparency" in image.info or palette.endswith("A")


def _raw(image: ImageFile.ImageFile, path: Encoded) -> Image.Image:
    """The image as torchvision's ``ImageFolder`` reads it."""
    if image.mode == "F" or image.mode.startswith("I"):
        raise SSLToolError(
            f"{path} has more than 8 bits, and raw pixels, which a run of an earlier version has too, would be white "
            "or black; use --no-raw-pixels"
        )
    return image.convert("RGB")


def _composite(image: ImageFile.ImageFile, rules: PixelRules) -> Image.Image:
    """An 8-bit image on the background."""
    step = GREY_STEPS.get(_tile_arguments(image)[0], 1)
    image.load()
    transparent = image.info.get("transparency")
    if step > 1 and isinstance(transparent, int):  # Pillow scales the pixels to 8 bits, but not this
        image.info["transparency"] = step * transparent
    if not _has_alpha(image):
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, rules.background)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _scaled(
    image: ImageFile.ImageFile, stream: BinaryIO, kind: ValueType, rules: PixelRules, path: Encoded
) -> Image.Image:
    """An image with more than 8 bits, scaled to 8 bits, on the background."""
    if _has_wide_colour(image) and _other_byte(image) is None:
        if rules.value_range is not None and rules.value_range != (0.0, SIXTEEN_BITS.white):
            raise SSLToolError(
                f"--value-range needs all 16 bits of {path}, and of {image.format} in colour only the upper 8 can be "
                "read; save it as PNG"
            )
        return _composite(image, rules)
    values, alpha = _stored(image, stream)
    pixels = to_bytes(values, kind, rules, str(path))
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == 0:  # 0 is white
        pixels = 255 - pixels
    rgb = Image.fromarray(pixels).convert("RGB")
    if alpha is None:
        return rgb
    canvas = Image.new("RGB", rgb.size, rules.background)
    canvas.paste(rgb, mask=Image.fromarray(alpha))
    return canvas


def _stored(image: ImageFile.ImageFile, stream: BinaryIO) -> tuple[np.ndarray, np.ndarray | None]:
    """The values (H, W) or (H, W, 3) as they are stored, and the alpha channel (H, W) uint8 if there is one."""
    transparent = image.info.get("transparency")
    if _has_wide_colour(image):
        values = _wide_colour(image, stream)
        if values.shape[2] == 4:
            return values[..., :3], to_bytes(values[..., 3], SIXTEEN_BITS, DEFAULT_RULES, "")
        opaque = None if transparent is None else (values != np.array(transparent)).any(axis=2)
    else:
        raw_mode, *rest = _tile_arguments(image)
        if raw_mode in NATIVE and image.tile[0][0] == "libtiff":
            image.tile = [tile._replace(args=(NATIVE[str(raw_mode)], *rest)) for tile in image.tile]
        values = np.asarray(image)
        tags = getattr(image, "tag_v2", {})
        if image.mode == "I" and tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (2,))[0] == 1:
            values = values.view(np.uint32)
        opaque = None if transparent is None else values != transparent
    return values, None if opaque is None else np.where(opaque, 255, 0).astype(np.uint8)


def _other_byte(image: ImageFile.ImageFile) -> str | None:
    """The raw mode in which Pillow keeps the lower 8 bits of 16-bit colour; None if there is none."""
    raw_mode = str(_tile_arguments(image)[0])
    known = image.format in ("PNG", "TIFF") and raw_mode[:-1] in ("RGB;16", "RGBA;16", "RGBX;16")
    native, other = "LB" if sys.byteorder == "little" else "BL"
    return raw_mode[:-1] + {"L": "B", "B": "L", "N": other, native: other}[raw_mode[-1]] if known else None


def _wide_colour(image: ImageFile.ImageFile, stream: BinaryIO) -> np.ndarray:
    """16-bit colour (H, W, C) uint16. Pillow keeps the upper byte of each value; it is read a second time as if the
    order of the bytes were the other, which keeps the lower one."""
    other = _other_byte(image)
    upper = np.asarray(image).astype(np.uint16)
    if other is None:
        return upper * 257
    stream.seek(0)
    with Image.open(stream, formats=(str(image.format),)) as again:
        rest = _tile_arguments(again)[1:]  # those of all tiles are the same
        again.tile = [tile._replace(args=(other, *rest) if rest else other) for tile in again.tile]
        return upper * 256 + np.asarray(again)


def _reduce(image: ImageFile.ImageFile, reduction: Callable[[tuple[int, int]], int]) -> None:
    width, height = image.size
    factor = reduction((height, width) if _orientation(image) >= SIDEWAYS else (width, height))
    if factor > 1:
        image.draft(None, (width // factor, height // factor))


# Orientation


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation; 1, upright, if there is none or the EXIF data cannot be read."""
    if image.format == "PNG" and image.info.keys().isdisjoint(PNG_METADATA):
        return 1  # Pillow would decode the image to look behind its pixels
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data in an image that can be decoded
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)
