"""Decodes image files into 8-bit RGB.

Pillow turns images with more than 8 bits white or black when it converts them, leaves the colours that transparency
hides, and ignores the EXIF orientation. Here ``PixelRules`` say how each of them is read.
"""

from __future__ import annotations

import functools
import logging
import os
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from ssltool.data.pixels import DEFAULT_RULES, FLOAT, SIXTEEN_BITS, PixelRules, ValueType, to_bytes
from ssltool.errors import SSLToolError, first_line

UNUSED_FORMATS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow identifies but decodes only with another program, such as Ghostscript, which a file could use."""

FRAMES = ("AVIF", "FLI", "GIF", "PNG", "TIFF", "WEBP")
"""Formats with frames. In others, such as MPO and PSD, the first image is the picture and the rest are parts of it."""

ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
ORIENTATION = 0x0112
PHOTOMETRIC, BITS, SAMPLES, SAMPLE_FORMAT, PLANES = 262, 258, 277, 339, 284
"""Numbers of EXIF and TIFF tags."""

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

MOST_SAMPLES = 4

SIDEWAYS = 5
"""The first orientation that exchanges width and height."""

logging.getLogger("PIL").addHandler(logging.NullHandler())  # without one, Pillow's errors are printed on stderr


class CorruptImage(SSLToolError):
    """An image file that cannot be decoded; ``--skip-corrupt`` leaves it out."""


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


def decode(path: str, rules: PixelRules = DEFAULT_RULES) -> Image.Image:
    """The image in a file, as RGB with 8 bits.

    Raises:
        CorruptImage: if it cannot be decoded.
        SSLToolError: if ``rules`` or the type of its values do not allow it. Both name the file.
    """
    with _opened(path, rules) as (image, stream):
        kind = _value_type(image)
        if rules.raw:
            return _raw(image, path)
        rgb = _composite(image, rules) if kind is None else _scaled(image, stream, kind, rules, path)
        return _upright(rgb, _orientation(image))


def read_header(path: str, rules: PixelRules = DEFAULT_RULES) -> Header:
    """The header of an image file.

    Raises:
        CorruptImage, SSLToolError: as ``decode``, if the header shows it.
    """
    with _opened(path, rules) as (image, _):
        orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns a TIFF itself
        sideways = orientation >= SIDEWAYS and not rules.raw
        return Header(
            size=image.size[::-1] if sideways else image.size,
            kind=_value_type(image),
            alpha=_has_alpha(image),
            turned=orientation != 1,
            frames=image.format in FRAMES and bool(getattr(image, "is_animated", False)),
            unnamed=_samples(image) > len(image.getbands()),
        )


def read_values(path: str, rules: PixelRules) -> np.ndarray:
    """The values of an image with more than 8 bits as they are stored, without alpha: (H, W) or (H, W, 3).

    Raises:
        CorruptImage, SSLToolError: as ``decode``.
    """
    with _opened(path, rules) as (image, stream):
        return _stored(image, stream)[0]


# Opening


@contextmanager
def _opened(path: str, rules: PixelRules) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """The image in a file, not yet decoded, and the file. Errors within the ``with`` block name the file."""
    try:
        with without_warnings(), _open_regular(path) as stream:
            _allow(rules.max_pixels)
            with _identified(path, stream, rules) as image:
                if image.width * image.height > rules.max_pixels:
                    raise _too_large(path, image.size, rules)
                _refuse_channels(image, path)
                yield image, stream
    except SSLToolError:
        raise
    except MemoryError as error:
        raise SSLToolError(f"{path} does not fit into memory when it is decoded; make the image smaller") from error
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise _corrupt(path, first_line(error)) from error


def _corrupt(path: str, reason: str) -> CorruptImage:
    return CorruptImage(f"corrupt image {path} ({reason}); replace it, or skip it with --skip-corrupt")


def _open_regular(path: str) -> BinaryIO:
    """Opens a regular file; a FIFO or a device could block for ever."""
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise CorruptImage(
            f"cannot open image {path}: {error.strerror}; restore it, or skip it with --skip-corrupt"
        ) from error
    if not regular:
        os.close(descriptor)
        raise _corrupt(path, "not a regular file")
    return os.fdopen(descriptor, "rb")


def _identified(path: str, stream: BinaryIO, rules: PixelRules) -> ImageFile.ImageFile:
    try:
        return Image.open(stream, formats=_formats())
    except UnidentifiedImageError as error:
        reason = _unsupported_tiff(stream)
        if reason is not None:
            raise _unsupported(path, reason) from error
        raise _corrupt(path, "no image of a known format") from error
    except Image.DecompressionBombError as error:
        raise _too_large(path, _size_of_large(stream), rules) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in UNUSED_FORMATS)


def _allow(pixels: int) -> None:
    """Raises Pillow's own limit, which is of the process, if it is below ``pixels``."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and 2 * limit < pixels:
        Image.MAX_IMAGE_PIXELS = -(-pixels // 2)


_LIMIT_LOCK = threading.Lock()


def _size_of_large(stream: BinaryIO) -> tuple[int, int]:
    """The size of an image beyond Pillow's limit, from its header."""
    with _LIMIT_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(stream, formats=_formats()) as image:
                return image.size
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _too_large(path: str, size: tuple[int, int], rules: PixelRules) -> SSLToolError:
    width, height = size
    pixels = width * height
    return SSLToolError(
        f"{path} has {width} x {height} = {pixels:,} pixels, more than the limit of {rules.max_pixels:,}; make it "
        f"smaller, or raise the limit with --max-pixels {pixels}"
    )


def _unsupported(path: str, reason: str) -> SSLToolError:
    return SSLToolError(
        f"{path} has {reason}, which cannot be read; save it as a grey or RGB image with 8 or 16 bits, or save all "
        "images as one .npy array"
    )


def _refuse_channels(image: ImageFile.ImageFile, path: str) -> None:
    """Raises an ``SSLToolError`` if Pillow would leave out channels, or mix up their bytes."""
    tags = getattr(image, "tag_v2", {})
    if _samples(image) > MOST_SAMPLES and image.mode != "CMYK":
        raise _unsupported(path, f"{_samples(image)} channels")
    if _samples(image) > 1 and max(tags.get(BITS, (8,))) > 8 and tags.get(PLANES) == 2:
        raise _unsupported(path, "16-bit channels in separate planes")


def _unsupported_tiff(stream: BinaryIO) -> str | None:
    """The channels and bits of a TIFF that Pillow does not identify because of them; None for anything else."""
    try:
        stream.seek(0)
        tags = TiffImagePlugin.ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
        samples, bits = int(tags.get(SAMPLES, 1)), set(tags[BITS])
        kind = {1: "unsigned integer", 2: "signed integer", 3: "float"}[tags.get(SAMPLE_FORMAT, (1,))[0]]
    except Exception:  # not a TIFF, or a damaged one
        return None
    if len(bits) != 1 or not bits <= {8, 16, 32, 64}:
        return None
    return f"{samples} {'channel' if samples == 1 else 'channels'} of {bits.pop()}-bit {kind} values"


_WARNINGS_LOCK = threading.Lock()
_quiet_threads = 0
_filters: AbstractContextManager[object] | None = None


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silences Pillow's warnings, which do not name the file. Warning filters are of the process, so the first of
    several threads sets them and the last one restores them."""
    global _quiet_threads, _filters
    with _WARNINGS_LOCK:
        _quiet_threads += 1
        if _filters is None:
            _filters = warnings.catch_warnings()
            _filters.__enter__()
            warnings.filterwarnings("ignore", module="PIL")
    try:
        yield
    finally:
        with _WARNINGS_LOCK:
            _quiet_threads -= 1
            if _quiet_threads == 0 and _filters is not None:
                _filters.__exit__(None, None, None)
                _filters = None


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


def _samples(image: ImageFile.ImageFile) -> int:
    """The channels in the file, of which Pillow may leave out some; only a TIFF tells."""
    return int(getattr(image, "tag_v2", {}).get(SAMPLES, 1))


def _has_alpha(image: ImageFile.ImageFile) -> bool:
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    return image.mode in ALPHA_MODES or "transparency" in image.info or palette.endswith("A")


def _raw(image: ImageFile.ImageFile, path: str) -> Image.Image:
    """The image as torchvision's ``ImageFolder`` reads it."""
    if image.mode == "F" or image.mode.startswith("I"):
        raise SSLToolError(
            f"{path} has more than 8 bits, and raw pixels, which a run of an earlier version has too, would be white "
            "or black; use --no-raw-pixels"
        )
    return image.convert("RGB")


def _composite(image: ImageFile.ImageFile, rules: PixelRules) -> Image.Image:
    """An 8-bit image on the background."""
    image.load()
    if not _has_alpha(image):
        return image if image.mode == "RGB" else image.convert("RGB")
    rgba = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, rules.background)
    canvas.paste(rgba, mask=rgba.getchannel("A"))
    return canvas


def _scaled(image: ImageFile.ImageFile, stream: BinaryIO, kind: ValueType, rules: PixelRules, path: str) -> Image.Image:
    """An image with more than 8 bits, scaled to 8 bits, on the background."""
    if _has_wide_colour(image) and _other_byte(image) is None:
        if rules.value_range is not None and rules.value_range != (0.0, SIXTEEN_BITS.white):
            raise SSLToolError(
                f"--value-range needs all 16 bits of {path}, and of {image.format} in colour only the upper 8 can be "
                "read; save it as PNG"
            )
        return _composite(image, rules)
    values, alpha = _stored(image, stream)
    pixels = to_bytes(values, kind, rules, path)
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


# Orientation


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation; 1, upright, if there is none or the EXIF data cannot be read."""
    if image.format == "PNG" and image.tile and "exif" not in image.info:
        return 1  # Pillow would decode the image to look behind its pixels
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF data in an image that can be decoded
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)
