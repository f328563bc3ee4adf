"""Image files that Pillow cannot write: PNGs of any colour type, and TIFFs of any type of value."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's colour type for each number of channels."""


def png_bytes(values: np.ndarray, transparent: Sequence[int] | None = None, bits: int | None = None) -> bytes:
    """A PNG of ``values`` (H, W, C), uint8 or uint16, with a transparent colour of C values.

    ``bits`` of 1, 2 or 4 packs grey values below 2 to their power.
    """
    height, width, channels = values.shape
    wide = values.astype(values.dtype.newbyteorder(">"))
    if bits is not None:
        each = np.unpackbits(values, axis=2)[..., 8 - bits :]
        wide = np.packbits(each.reshape(height, width * bits), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    header = struct.pack(">2I5B", width, height, bits or 8 * values.itemsize, COLOUR_TYPES[channels], 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    if transparent is not None:
        parts.insert(1, (b"tRNS", struct.pack(f">{channels}H", *transparent)))
    chunks = (
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def lzw_bytes(data: bytes) -> bytes:
    """``data`` in TIFF's LZW code, of literals only; 256 empties the table of codes before they need 10 bits."""
    codes = [code for i, byte in enumerate(data) for code in ([256, byte] if i % 200 == 0 else [byte])]
    bits = "".join(f"{code:09b}" for code in (*codes, 257))
    return int(bits + "0" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8), "big")


COMPRESSIONS = {"none": (1, bytes), "lzw": (5, lzw_bytes), "deflate": (8, zlib.compress)}
"""TIFF's number of each compression, and what compresses a strip."""


def tiff_bytes(
    values: np.ndarray,
    *,
    extra: int | None = None,
    white_is_zero: bool = False,
    planes: int = 1,
    compression: str = "none",
    differences: bool = False,
) -> bytes:
    """A TIFF of ``values`` (H, W, C) of any real type and byte order, in two strips.

    Args:
        extra: the meaning of channels beyond grey or RGB: 0 unspecified, 1 associated alpha, 2 alpha.
        differences: store the differences of neighbouring pixels (predictor 2).
    """
    height, width, channels = values.shape
    order = ">" if values.dtype.byteorder == ">" else "<"
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    colours = 3 if channels >= 3 else 1
    if differences:
        native = values.astype(values.dtype.newbyteorder("="))
        native[:, 1:] -= native[:, :-1].copy()
        values = native.astype(values.dtype)
    if planes == 2:
        strips = [np.ascontiguousarray(values[..., c]).tobytes() for c in range(channels)]
        rows = height
    else:
        rows = -(-height // 2)
        strips = [values[start : start + rows].tobytes() for start in range(0, height, rows)]
    number, compress = COMPRESSIONS[compression]
    strips = [compress(strip) for strip in strips]
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [8 * values.itemsize] * channels),
        259: ("H", [number]),
        262: ("H", [0 if white_is_zero else 2 if colours == 3 else 1]),
        273: ("I", [0] * len(strips)),
        277: ("H", [channels]),
        278: ("I", [rows]),
        279: ("I", [len(strip) for strip in strips]),
        284: ("H", [planes]),
        317: ("H", [2 if differences else 1]),
        339: ("H", [kind] * channels),
    }
    if channels > colours:
        tags[338] = ("H", [extra or 0] * (channels - colours))
    end_of_tags = 8 + 2 + 12 * len(tags) + 4
    sizes = {tag: struct.calcsize(f"<{len(v)}{code}") for tag, (code, v) in tags.items()}
    first = end_of_tags + sum(size for size in sizes.values() if size > 4)
    tags[273] = ("I", [first + sum(map(len, strips[:i])) for i in range(len(strips))])
    entries, outside = b"", b""
    for tag, (code, numbers) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(numbers)}{code}", *numbers)
        entry = struct.pack(f"{order}HHI", tag, 3 if code == "H" else 4, len(numbers))
        if len(packed) > 4:
            entries += entry + struct.pack(f"{order}I", end_of_tags + len(outside))
            outside += packed
        else:
            entries += entry + packed.ljust(4, b"\0")
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return (
        start + struct.pack(f"{order}H", len(tags)) + entries + struct.pack(f"{order}I", 0) + outside + b"".join(strips)
    )
