"""Reads NumPy's ``.npy`` files, whose header is compared with the size of the file before memory is allocated."""

from __future__ import annotations

import math
import os

import numpy as np

from ssltool.errors import SSLToolError, first_line
from ssltool.files.reading import open_file


def read_npy(path: str | os.PathLike[str], *, mmap: bool = False) -> np.ndarray:
    """The array in a ``.npy`` file; with ``mmap`` memory-mapped, and changes are not written back.

    Raises:
        SSLToolError: if there is no such file or it may not be read, if it is no such array or cut short, or if it
            holds pickled objects.
    """
    with open_file(path) as stream:
        try:
            version = np.lib.format.read_magic(stream)
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in readers:
                raise ValueError(f"version {version[0]}.{version[1]} of the format is not supported")
            shape, fortran, dtype = readers[version](stream)
            if dtype.hasobject:
                raise ValueError("it holds pickled objects, which loading would execute")
            count, start = math.prod(shape), stream.tell()
            held = os.fstat(stream.fileno()).st_size - start
            if min(shape, default=0) < 0 or count * dtype.itemsize > held:
                raise ValueError(f"it declares {count * dtype.itemsize:,} bytes of shape {shape}, but holds {held:,}")
            order = "F" if fortran else "C"
            if mmap and count:
                return np.memmap(stream, dtype, "c", start, shape, order)  # type: ignore[call-overload, no-any-return]
            return np.fromfile(stream, dtype, count).reshape(shape, order=order)  # type: ignore[call-overload, no-any-return]
        except Exception as error:  # NumPy evaluates the header, which may raise anything
            raise SSLToolError(f"{path} is not a readable .npy array: {first_line(error)}") from error
