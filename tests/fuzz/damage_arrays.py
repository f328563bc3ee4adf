"""Changes of NumPy's .npy and .npz files: values, shapes and types of arrays, headers and archives."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from pathlib import Path
from random import Random

import numpy as np

from fuzz.values import HOSTILE, Executed


def npy_file(path: Path, rng: Random) -> str:
    """A .npy file: the values, shape and type of its array, or its header."""
    array = np.load(path)
    name, data = _header(array, rng) if rng.random() < 0.3 else _changed(array, rng)
    path.write_bytes(data)
    return name


def npz_file(path: Path, rng: Random) -> str:
    """A .npz archive: one of its arrays, as a .npy file, or the archive around them."""
    with np.load(path) as archive:
        arrays = dict(archive)
    files = {name: _bytes(array) for name, array in arrays.items()}
    name = rng.choice(list(files))
    kind = rng.choice(["values"] * 4 + ["header"] * 2 + ["missing", "renamed", "swapped", "text", "bomb", "twice"])
    if kind in ("values", "header"):
        kind, files[name] = (_changed if kind == "values" else _header)(arrays[name], rng)
    elif kind == "missing":
        del files[name]
    elif kind == "renamed":
        files[rng.choice([HOSTILE, "arr_0", f"{name}x", "../x", ""])] = files.pop(name)
    elif kind == "swapped":
        other = rng.choice(list(files))
        files[name], files[other] = files[other], files[name]
    elif kind == "text":
        files[name] = HOSTILE.encode()
    elif kind == "bomb":
        files[name] = _bytes(np.zeros((10**8, 4), np.float32))
    members = [*files.items(), (name, _bytes(arrays[name]))] if kind == "twice" else files.items()
    method = zipfile.ZIP_DEFLATED if kind == "bomb" else rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method, compresslevel=1) as archive:
        warnings.simplefilter("ignore")  # two members of one name
        for member, data in members:
            archive.writestr(f"{member}.npy", data)
    return f"{name}: {kind}"


def _bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def _changed(array: np.ndarray, rng: Random) -> tuple[str, bytes]:
    """What was done to an array, and it as a .npy file."""
    name, make = rng.choice(
        [
            ("float64", lambda: array.astype(float)),
            ("float64 + 0.5", lambda: array + 0.5),
            ("float16", lambda: array.astype(np.float16)),
            ("int8", lambda: array.astype(np.int8)),
            ("uint64", lambda: array.astype(np.uint64)),
            ("big-endian", lambda: array.astype(array.dtype.newbyteorder(">"))),
            ("complex", lambda: array.astype(complex)),
            ("bool", lambda: array.astype(bool)),
            ("texts", lambda: array.astype("U8")),
            ("bytes", lambda: array.astype("S8")),
            ("times", lambda: array.astype(np.int64).astype("M8[s]")),
            ("objects", lambda: array.astype(object)),
            ("an object that executes", lambda: np.array([Executed()], object)),
            ("a structure", lambda: np.zeros(4, [("a", "i4"), ("b", "f4")])),
            ("0-d", lambda: array.reshape(-1)[0]),
            ("2-d", lambda: array[None]),
            ("a column", lambda: array[:, None]),
            ("empty", lambda: array[:0]),
            ("no columns", lambda: np.zeros((len(array), 0), array.dtype)),
            ("one fewer", lambda: array[:-1]),
            ("twice", lambda: np.concatenate([array, array])),
            ("negative", lambda: -array.astype(np.int64) - 1),
            ("+ 10^9", lambda: array + 10**9),
            ("NaN", lambda: np.full(array.shape, np.nan)),
            ("infinite", lambda: np.full(array.shape, np.inf)),
            ("1e307", lambda: np.full(array.shape, 1e307)),
            ("equal", lambda: np.full_like(array, 2)),
            ("Fortran order", lambda: np.asfortranarray(np.atleast_2d(array))),
        ]
    )
    return name, _bytes(make())


def _header(array: np.ndarray, rng: Random) -> tuple[str, bytes]:
    """What was done to the header of an array, and it as a .npy file."""
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    name, text = rng.choice(
        [
            ("4 x 10^9 entries", repr(header | {"shape": (4 * 10**9,)})),
            ("10^18 entries", repr(header | {"shape": (10**18,)})),
            ("a negative shape", repr(header | {"shape": (-1,)})),
            ("65 axes", repr(header | {"shape": (1,) * 65})),
            ("a shape of texts", repr(header | {"shape": ("a",)})),
            ("an unknown type", repr(header | {"descr": "<q99"})),
            ("objects", repr(header | {"descr": "|O"})),
            ("a call", "__import__('os').mkdir('executed')"),
            ("no key", "{}"),
            ("no dict", "[1]"),
            ("deep", "(" * 5000),
            ("long", repr(header) + " " * 200_000),
            ("empty", ""),
        ]
    )
    data = (text + "\n").encode()
    version, length = rng.choice([(2, struct.pack("<I", len(data))), (2, struct.pack("<I", 2**31)), (9, b"\0\0\0\0")])
    return f"header: {name}", b"\x93NUMPY" + bytes([version, 0]) + length + data + array.tobytes()
