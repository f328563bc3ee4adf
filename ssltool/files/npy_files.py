"""Reads NumPy's ``.npy`` and ``.npz`` files. Headers are compared with the size of the file before memory is allocated.

No pickled objects are loaded.
"""

from __future__ import annotations

import math
import os
import sys
import zipfile
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ssltool.errors import SSLToolError, first_line
from ssltool.files.reading import MAX_RATIO, kind_of_content, open_file, size_limit, too_large

NUMPY = b"\x93NUMPY"
"""How a .npy file begins."""

LOCAL_HEADER = 30
"""Length in bytes of the fixed part of a zip archive's header of an entry; the name and the extra field follow."""


def read_npy(path: str | os.PathLike[str], *, mmap: bool = False) -> np.ndarray:
    """The array in a ``.npy`` file; with ``mmap`` memory-mapped, and changes are not written back.

    Raises:
        SSLToolError: if there is no such file or it may not be read, if it is no such array or cut short, or if it
            holds pickled objects.
    """
    with open_file(path) as stream:
        try:
            return _with_text(_mapped(stream, os.fstat(stream.fileno()).st_size, mmap))
        except Exception as error:  # NumPy evaluates the header, which may raise anything
            stream.seek(0)
            raise SSLToolError(_reason(path, stream.read(512), error)) from error


def _reason(path: object, head: bytes, error: Exception) -> str:
    if head and not head.startswith(NUMPY):
        return f"{path} is not a .npy array but holds {kind_of_content(head)}; name a file that numpy.save wrote"
    found = first_line(error) if head else "it is empty"
    return f"{path} is not a readable .npy array ({found}); copy it again, or write it with numpy.save"


def is_npz(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a ``.npz`` archive by its content, whatever its name; raises as ``open_file``."""
    with open_file(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                names = archive.namelist()
        except Exception:  # as in read_npz
            return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(path: str | os.PathLike[str], *, mmap: bool = False) -> dict[str, np.ndarray]:
    """The arrays in a ``.npz`` file by name; with ``mmap`` those that are not compressed are memory-mapped.

    Raises:
        SSLToolError: as ``read_npy``, or if a compressed array is larger than the limit.
    """
    with open_file(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        try:
            with zipfile.ZipFile(stream) as archive:
                entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
                largest = max((entry.file_size for entry in entries), default=0)
                if largest > max(MAX_RATIO * size, size_limit()):
                    raise too_large(path, "a compressed array", largest)
                return {entry.filename[:-4]: _with_text(_of_archive(stream, archive, entry, mmap)) for entry in entries}
        except SSLToolError:
            raise
        except Exception as error:  # as above, and what zipfile raises for a damaged archive
            raise SSLToolError(
                f"{path} is not a readable .npz archive ({first_line(error)}); write it with numpy.savez"
            ) from error


def to_tensor(array: np.ndarray, path: str | os.PathLike[str], name: str) -> Tensor | list[Any]:
    """A tensor that shares the memory of ``array``, or a list of text.

    Raises:
        SSLToolError: for other kinds of values.
    """
    if array.dtype.kind == "U":
        return array.tolist()  # type: ignore[no-any-return]
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8", "replace").tolist()  # type: ignore[no-any-return]
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    try:
        return torch.from_numpy(np.require(array, requirements="W"))
    except TypeError as error:
        raise SSLToolError(
            f"{path}: {name} is an array of {array.dtype}; save float32 rows, and integers or text as labels"
        ) from error


def _of_archive(stream: IO[bytes], archive: zipfile.ZipFile, entry: zipfile.ZipInfo, mmap: bool) -> np.ndarray:
    if mmap and entry.compress_type == zipfile.ZIP_STORED:
        stream.seek(entry.header_offset)
        header = stream.read(LOCAL_HEADER)
        if header[:4] != b"PK\x03\x04":
            raise ValueError(f"the header of {entry.filename} is damaged")
        stream.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
        return _mapped(stream, min(stream.tell() + entry.file_size, os.fstat(stream.fileno()).st_size), mmap)
    with archive.open(entry) as inner:
        shape, fortran, dtype = _header(inner)
        wanted = math.prod(shape) * dtype.itemsize
        data = inner.read(wanted)
        if len(data) < wanted:
            raise ValueError(f"{entry.filename} declares {wanted:,} bytes of shape {shape}, but holds {len(data):,}")
    return np.frombuffer(bytearray(data), dtype).reshape(shape, order="F" if fortran else "C")


def _mapped(stream: IO[bytes], end: int, mmap: bool) -> np.ndarray:
    """The array from the current position of ``stream`` on; it ends at ``end`` at the latest."""
    shape, fortran, dtype = _header(stream)
    count, start = math.prod(shape), stream.tell()
    if count * dtype.itemsize > end - start:
        raise ValueError(f"it declares {count * dtype.itemsize:,} bytes of shape {shape}, but holds {end - start:,}")
    order = "F" if fortran else "C"
    if mmap and count:
        return np.memmap(stream, dtype, "c", start, shape, order)  # type: ignore[call-overload, no-any-return]
    return np.fromfile(stream, dtype, count).reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"version {version[0]}.{version[1]} of the format is not supported")
    shape, fortran, dtype = readers[version](stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects, which loading would execute")
    if min(shape, default=0) < 0:
        raise ValueError(f"it declares the shape {shape}")
    return shape, fortran, dtype


def _with_text(array: np.ndarray) -> np.ndarray:
    """``array``, if its text, which NumPy does not check, is Unicode."""
    if array.dtype.kind == "U" and array.size:
        codes = np.ascontiguousarray(array).view(array.dtype.str[0] + "u4")
        if codes.max() > sys.maxunicode:
            raise ValueError("its text is damaged")
    return array
