"""Opens image files: regular files of a known format, within the limit of pixels.

Each failure is one line that names the file. Pillow's warnings, which name none, are silent.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import BinaryIO

from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from ssltool.data.pixels import PixelRules
from ssltool.data.sources import Encoded
from ssltool.errors import SSLToolError, counted, first_line

UNUSED_FORMATS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
"""Formats that Pillow identifies but decodes only with another program, such as Ghostscript, which a file could use."""

BITS, SAMPLES, PLANES, SAMPLE_FORMAT = 258, 277, 284, 339
"""Numbers of TIFF tags."""

MOST_SAMPLES = 4

logging.getLogger("PIL").addHandler(logging.NullHandler())  # without one, Pillow's errors are printed on stderr


class CorruptImage(SSLToolError):
    """An image file that cannot be decoded; ``--skip-corrupt`` leaves it out."""


@contextmanager
def open_image(path: Encoded, rules: PixelRules) -> Iterator[tuple[ImageFile.ImageFile, BinaryIO]]:
    """The image in a file or a source, not yet decoded, and the file. Errors within the ``with`` block name it."""
    try:
        with without_warnings(), _open(path) as stream:
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


def _corrupt(path: Encoded, reason: str) -> CorruptImage:
    return CorruptImage(f"corrupt image {path} ({reason}); replace it, or skip it with --skip-corrupt")


def _open(path: Encoded) -> BinaryIO:
    """Opens a regular file, as a FIFO or a device could block for ever, or an image of a source."""
    try:
        if not isinstance(path, str):
            return io.BytesIO(path.read())
        stream = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    except OSError as error:
        raise CorruptImage(
            f"cannot open image {path}: {error.strerror}; restore it, or skip it with --skip-corrupt"
        ) from error
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        stream.close()
        raise _corrupt(path, "not a regular file")
    return stream


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _identified(path: Encoded, stream: BinaryIO, rules: PixelRules) -> ImageFile.ImageFile:
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


def _too_large(path: Encoded, size: tuple[int, int], rules: PixelRules) -> SSLToolError:
    width, height = size
    pixels = width * height
    return SSLToolError(
        f"{path} has {width} x {height} = {pixels:,} pixels, more than the limit of {rules.max_pixels:,}; make it "
        f"smaller, or raise the limit with --max-pixels {pixels}"
    )


def _unsupported(path: Encoded, reason: str) -> SSLToolError:
    return SSLToolError(
        f"{path} has {reason}, which cannot be read; save it as a grey or RGB image with 8 or 16 bits, or save all "
        "images as one .npy array"
    )


def _refuse_channels(image: ImageFile.ImageFile, path: Encoded) -> None:
    """Raises an ``SSLToolError`` if Pillow would leave out channels, or mix up their bytes."""
    tags = getattr(image, "tag_v2", {})
    if samples_in(image) > MOST_SAMPLES and image.mode != "CMYK":
        raise _unsupported(path, f"{samples_in(image)} channels")
    if samples_in(image) > 1 and max(tags.get(BITS, (8,))) > 8 and tags.get(PLANES) == 2:
        raise _unsupported(path, "16-bit channels in separate planes")


def _unsupported_tiff(stream: BinaryIO) -> str | None:
    """The channels and bits of a TIFF that Pillow does not identify because of them; None for anything else."""
    try:
        stream.seek(0)
        head = stream.read(8)
        tags = TiffImagePlugin.ImageFileDirectory_v2(head)
        stream.seek(tags.next)
        tags.load(stream)
        samples, bits = int(tags.get(SAMPLES, 1)), set(tags[BITS])
        kind = {1: "unsigned integer", 2: "signed integer", 3: "float"}[tags.get(SAMPLE_FORMAT, (1,))[0]]
    except Exception:  # not a TIFF, or a damaged one
        return None
    if len(bits) != 1 or not bits <= {8, 16, 32, 64}:
        return None
    depth = bits.pop()
    readable = (samples, depth) == (1, 32) and (kind != "unsigned integer" or head[:2] == b"II")
    if readable or (samples <= MOST_SAMPLES and kind == "unsigned integer" and depth <= 8):
        return None  # Pillow reads these: the file is damaged
    order = "big-endian " if head[:2] == b"MM" else ""
    return f"{counted(samples, 'channel')} of {order}{depth}-bit {kind} values"


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


def samples_in(image: ImageFile.ImageFile) -> int:
    """The channels in the file, of which Pillow may leave out some; only a TIFF tells."""
    return int(getattr(image, "tag_v2", {}).get(SAMPLES, 1))
