"""Reads the dict in a file of ``torch.save`` without executing anything, and says what is wrong with other files."""

from __future__ import annotations

import functools
import io
import os
import re
import zipfile
import zlib
from typing import IO, Any, cast

from ssltool.errors import SSLToolError, first_line
from ssltool.files.integrity import DamagedFile, check_end, check_hash
from ssltool.files.pickle_outline import NotReadable, outline_pickle
from ssltool.files.placeholders import Placeholder, load_without_objects, module_weights
from ssltool.files.reading import UNKNOWN, kind_of_content, open_file, size_limit, too_large

SMALL = 2**20
"""Bytes to which the entries of any zip archive may inflate."""

STEP_BYTES = 8
"""Size at which each step of reading a pickle counts at least, because each takes a microsecond."""

OBJECTS = "objects beside its tensors"

MOST_OF_VERSIONS = 1000
"""Maximum number of operations of each pickle that precedes the objects in torch's legacy format."""

LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that torch's legacy format begins with, as pickles of any protocol write it."""

BYTEARRAY = b"\nbytearray\n"
"""How a pickle names the type whose constructor allocates any number of bytes."""

STATE_DICT = "where it was written, save its state_dict() with torch.save"
"""What to do about a network that cannot be read."""

WHOLE = "model"
"""The key of a whole network that was saved instead of a dict."""

PICKLED = {
    b"haiku": "parameters of Haiku, a library for jax, such as those that BYOL's authors published",
    b"jax": "arrays of jax",
    b"torch": "tensors that pickle wrote",
    b"numpy": "arrays of NumPy",
}
"""What other pickles hold, by a name in them."""


def load_dict(
    path: str | os.PathLike[str], *, mmap: bool = False, wanted: str = "a file that torch.save wrote"
) -> dict[Any, Any]:
    """Loads the dict in a ``.pt`` file, to the CPU. ``wanted`` is what messages ask for in place of another kind.

    A file that is not memory-mapped is compared with its hash, if it has one.

    Raises:
        DamagedFile: if it is cut short, or its bytes do not have the hash in it.
        SSLToolError: if there is no such file or it may not be read, if it is of another kind or larger than the
            limit, if it is not a dict, or could only be read by executing code.
    """
    with open_file(path) as stream:
        if not mmap:
            check_hash(stream, path)
        zipped, mappable = _check_kind(path, stream, wanted)
        source = functools.partial(_torch_path if zipped else _limited, path, stream)
        try:
            pickles, stored = _zipped_pickles(stream) if zipped else ([_legacy_pickle(path, stream)], None)
            most = size_limit() // STEP_BYTES
            contents = load_without_objects(source, pickles, most=most, mmap=mmap and mappable, stored=stored)
        except SSLToolError:
            raise
        except Exception as error:  # torch.load may raise anything if the bytes are not a pickle
            raise _reason(path, error) from error
    contents = _unwrapped(contents)
    if not isinstance(contents, dict):
        raise SSLToolError(
            f"{path} contains a {type(contents).__name__}; ssltool reads files that contain a dict, such as the "
            "state_dict() of a network"
        )
    return contents


def _unwrapped(contents: Any) -> Any:
    """A dict in place of a whole network, or of an object of another class with attributes."""
    if module_weights(contents) is not None:
        return {WHOLE: contents}
    held = contents.state if isinstance(contents, Placeholder) else None
    return held if isinstance(held, dict) else contents


def _torch_path(path: str | os.PathLike[str], stream: IO[bytes]) -> str:
    """``path`` as torch, which encodes it in UTF-8, opens it: by its descriptor if the locale encodes it otherwise."""
    name = os.fspath(path)
    return name if name.encode("utf-8", "replace") == os.fsencode(name) else f"/dev/fd/{stream.fileno()}"


def _limited(path: str | os.PathLike[str], stream: IO[bytes]) -> _Limited:
    stream.seek(0)
    return _Limited(stream, path)


def _zipped_pickles(stream: IO[bytes]) -> tuple[list[IO[bytes]], dict[bytes, int]]:
    """The pickles with objects in a zip archive, in memory; their size has been checked. And the bytes of each storage,
    by its key."""
    with zipfile.ZipFile(stream) as archive:
        storages = (entry for entry in archive.infolist() if "/data/" in entry.filename)
        stored = {entry.filename.rpartition("/data/")[2].encode(): entry.file_size for entry in storages}
        pickles = [io.BytesIO(archive.read(name)) for name in archive.namelist() if name.endswith("data.pkl")]
    return [*pickles], stored


def _legacy_pickle(path: str | os.PathLike[str], stream: IO[bytes]) -> IO[bytes]:
    """The file of torch's legacy format at its fourth pickle, which has the objects; three of versions precede it."""
    source = cast(IO[bytes], _limited(path, stream))
    for _ in range(3):
        outline_pickle(source, MOST_OF_VERSIONS)
    return source


def _reason(path: str | os.PathLike[str], error: Exception) -> SSLToolError:
    """The error for a file that could not be loaded."""
    text = str(error)
    if "TorchScript" in text:
        return _torchscript(path)
    if isinstance(error, NotReadable) and error.large:
        return too_large(path, OBJECTS, STEP_BYTES * max(os.path.getsize(path), SMALL))
    if isinstance(error, NotReadable) and not error.damaged:
        return SSLToolError(f"{path} cannot be read: {error}; {STATE_DICT}")
    if blocked := re.search(r"GLOBAL (\S{1,100}) whose module", text):
        return SSLToolError(f"{path} names {blocked[1]}, which torch never reads; use a file of another source")
    if "Weights only load failed" in text and "Unsupported operand" not in text:
        return SSLToolError(f"{path} contains objects that only executing them could read; {STATE_DICT}")
    return DamagedFile(f"{path} is not a readable .pt file and may be truncated; copy or regenerate it")


def _torchscript(path: object) -> SSLToolError:
    return SSLToolError(f"{path} is a TorchScript program, which loading would execute; {STATE_DICT}")


def _check_kind(path: object, stream: IO[bytes], wanted: str) -> tuple[bool, bool]:
    """Checks the kind of the file and the sizes that it declares.

    Returns:
        Whether it is a zip archive of ``torch.save``, else one of its legacy format; and whether it can be mapped.

    Raises:
        SSLToolError: if it is neither.
    """
    head = stream.read(512)
    stream.seek(0)
    if head[:2] == b"PK":
        return True, _check_zip(path, stream, wanted)
    if head[:1] == b"\x80" and LEGACY in head[:40]:
        return False, False
    if head[:1] == b"\x80":
        begins = head + stream.read(2**20)
        found = next((f" ({what})" for name, what in PICKLED.items() if name in begins), "")
        raise SSLToolError(
            f"{path} is a pickle that torch.save did not write{found}, and loading it would execute code; where it was "
            "written, save a state_dict of tensors with torch.save"
        )
    if not head.strip(b"\0"):
        found = "is empty" if not head else "begins with zeros, as after a power cut"
        raise DamagedFile(f"{path} {found}; copy or regenerate it")
    raise _other_kind(path, kind_of_content(head), wanted)


def _other_kind(path: object, kind: str, wanted: str) -> SSLToolError:
    error = DamagedFile if kind == UNKNOWN else SSLToolError
    return error(f"{path} holds {kind}; name {wanted}")


def _check_zip(path: object, stream: IO[bytes], wanted: str) -> bool:
    """Checks what a zip archive declares before its entries are read. Returns whether it can be mapped.

    Raises:
        SSLToolError: if it is cut short, not of torch, or declares other or larger contents than it can hold.
    """
    size = os.fstat(stream.fileno()).st_size
    try:
        with zipfile.ZipFile(stream) as archive:
            check_end(stream, path)
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            pickles = [entry for entry in entries if entry.filename.endswith("data.pkl")]
            if any(name.endswith("/constants.pkl") for name in names):
                raise _torchscript(path)
            if not pickles:
                kind = "a NumPy .npz archive" if any(name.endswith(".npy") for name in names) else "a zip archive"
                raise _other_kind(path, kind, wanted)
            declared = sum(entry.file_size for entry in entries)
            if declared > max(size, SMALL):
                raise SSLToolError(
                    f"{path} declares {declared:,} bytes, but is {size:,} bytes long; copy it again, or write it "
                    "without compression, as torch.save does"
                )
            if len(set(names)) < len(names):
                raise SSLToolError(f"{path} holds two entries of one name; copy or regenerate it")
            objects = sum(entry.file_size for entry in entries if "/data/" not in entry.filename)
            if objects > size_limit():
                raise too_large(path, OBJECTS, objects)
            for data in map(archive.read, pickles):
                if BYTEARRAY in data:
                    raise _bytes_error(path)
            return all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        cut = "not a zip file" in str(error)
        found = "its list of contents, which is at its end, is missing" if cut else first_line(error)
        raise DamagedFile(f"{path} is cut short or damaged ({found}); copy it again") from error
    finally:
        stream.seek(0)


def _bytes_error(path: object) -> SSLToolError:
    return SSLToolError(f"{path} holds a bytearray; save it again with tensors, numbers, strings, lists and dicts only")


class _Limited(io.RawIOBase):
    """A file of torch's legacy format. What is read through it is limited; torch reads tensors past it."""

    def __init__(self, stream: IO[bytes], path: object) -> None:
        self.stream, self.path, self.left = stream, path, size_limit()

    def _counted(self, data: bytes) -> bytes:
        self.left -= max(len(data), STEP_BYTES)
        if self.left < 0:
            raise too_large(self.path, OBJECTS, os.fstat(self.stream.fileno()).st_size)
        return data

    def read(self, size: int = -1) -> bytes:
        return self._counted(self.stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1))

    def readline(self, size: int | None = -1) -> bytes:
        line = self._counted(self.stream.readline(self.left + 1))
        if line == BYTEARRAY[1:]:
            raise _bytes_error(self.path)
        return line

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def tell(self) -> int:
        return self.stream.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.stream.seek(offset, whence)

    def fileno(self) -> int:
        return self.stream.fileno()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
