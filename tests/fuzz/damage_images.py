"""Changes of image files: other modes, depths, sizes and formats, and what is no image."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from fuzz.values import HOSTILE


def image_file(path: Path, rng: Random) -> str:
    """Another mode, size or format under the name of an image, or no file at all."""
    image = Image.open(path).convert("RGB")
    grey = np.arange(256, dtype=np.int64).reshape(16, 16)
    makes: dict[str, Callable[[], Any]] = {
        "16 bits": lambda: Image.fromarray((grey * 257).astype(np.uint16)).save(path, "PNG"),
        "floats": lambda: Image.fromarray((grey / 255).astype(np.float32)).save(path, "TIFF"),
        "32-bit integers": lambda: Image.fromarray(grey.astype(np.int32)).save(path, "TIFF"),
        "values of 12 bits": lambda: Image.fromarray((grey * 16).astype(np.uint16)).save(path, "PNG"),
        "low values of 16 bits": lambda: Image.fromarray(grey.astype(np.uint16)).save(path, "TIFF"),
        "16 bits as PGM": lambda: path.write_bytes(b"P5 16 16 65535\n" + (grey * 257).astype(">u2").tobytes()),
        "floats with NaN": lambda: Image.fromarray(np.where(grey, grey / 255, np.nan).astype("f4")).save(path, "TIFF"),
        "floats of 1e38": lambda: Image.fromarray(np.full((16, 16), 1e38, "f4")).save(path, "TIFF"),
        "64-bit floats": lambda: _tiff(path, (grey / 255).astype("<f8"), 3),
        "64-bit integers": lambda: _tiff(path, grey.astype("<i8"), 2),
        "complex numbers": lambda: _tiff(path, grey.astype("<c8"), 6),
        "five channels": lambda: _tiff(path, np.stack([grey.astype("u1")] * 5, axis=2), 1),
        "no channels": lambda: _tiff(path, grey.astype("u1"), 1, channels=0),
        "grey and alpha": lambda: image.convert("LA").save(path, "PNG"),
        "wholly transparent": lambda: Image.new("RGBA", (16, 18)).save(path, "PNG"),
        "CIELAB": lambda: image.convert("LAB").save(path, "TIFF"),
        "YCbCr": lambda: image.convert("YCbCr").save(path, "TIFF"),
        "frames of a PNG": lambda: image.save(path, "PNG", save_all=True, append_images=[image.rotate(90)]),
        "icons": lambda: image.save(path, "ICO", sizes=[(16, 16), (8, 8)]),
        "palette": lambda: image.convert("P").save(path, "PNG", transparency=0),
        "1 bit": lambda: image.convert("1").save(path, "PNG"),
        "alpha": lambda: image.convert("RGBA").save(path, "PNG"),
        "CMYK": lambda: image.convert("CMYK").save(path, "JPEG"),
        "GIF": lambda: image.save(path, "GIF", save_all=True, append_images=[image, image]),
        "WebP": lambda: image.save(path, "WEBP"),
        "one pixel": lambda: image.resize((1, 1)).save(path, "PNG"),
        "1 x 5000": lambda: image.resize((1, 5000)).save(path, "PNG"),
        "large": lambda: Image.new("L", (14_000, 13_000)).save(path, "PNG"),
        "orientation": lambda: _oriented(image, path),
        "sizes in the header": lambda: _png_size(image, path, rng),
        "an empty file": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text(HOSTILE),
        "SVG": lambda: path.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>'),
        "a folder": lambda: (path.unlink(), path.mkdir()),
        "a named pipe": lambda: (path.unlink(), os.mkfifo(path)),
        "a broken link": lambda: (path.unlink(), path.symlink_to("missing.png")),
        "a link to itself": lambda: (path.unlink(), path.symlink_to(path.name)),
        "a link to a device": lambda: (path.unlink(), path.symlink_to("/dev/zero")),
        "a link to the parent folder": lambda: (path.unlink(), path.symlink_to("../..", target_is_directory=True)),
        "no file": path.unlink,
        "no permission": lambda: path.chmod(0),
    }
    name = rng.choice(list(makes))
    makes[name]()
    return name


def _tiff(path: Path, pixels: np.ndarray, sample_format: int, *, channels: int | None = None) -> None:
    """A TIFF of one strip, of any type and number of channels, which Pillow does not write."""
    height, width = pixels.shape[:2]
    count = (pixels.shape[2] if pixels.ndim == 3 else 1) if channels is None else channels
    data, bits = pixels.tobytes(), 8 * pixels.dtype.itemsize
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 8, 277: count, 278: height}
    tags |= {279: len(data), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)
    )


def _oriented(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(path, "JPEG", exif=exif)


def _png_size(image: Image.Image, path: Path, rng: Random) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = struct.pack(">II", rng.choice([0, 1, 40_000, 2**31 - 1]), rng.choice([0, 1, 40_000, 2**31 - 1]))
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
