"""ssltool's file formats (checkpoints, representations, spectra, probes), and reading and writing files.

Each file is one dict of tensors, strings, numbers, lists and dicts that names its format
(``ssltool/<kind>/<version>``). It is loaded with ``weights_only=True``, which never executes code. Files are written
atomically: to a temporary file in the same folder, which is flushed to disk and then renamed. A reader never sees a
partly written file, and if the disk is full the previous file is kept. ``docs/file-formats.md`` lists every key.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import torch
from torch import Tensor

import ssltool
from ssltool.errors import SSLToolError, first_line
from ssltool.files.misfit import describe, name_keys
from ssltool.files.schema import conform, mapping
from ssltool.files.torch_files import load_dict as load_dict

FilePath = str | os.PathLike[str]

Entries = dict[str, Any]
"""The top-level entries of a file: tensors, numbers, strings, lists and dicts."""

S = TypeVar("S", bound="Stored")


@contextlib.contextmanager
def writing(path: FilePath) -> Iterator[None]:
    """Raises ``SSLToolError`` with the reason if writing ``path`` fails in the ``with`` block."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's zip writer raises RuntimeError if a write fails; other RuntimeErrors, as from a GPU, are re-raised.
        if isinstance(error, RuntimeError) and not any(part in str(error) for part in ("inline_container", "Writer")):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        kept = "; the existing file is kept" if Path(path).exists() else ""
        raise SSLToolError(f"cannot write {path}: {reason}{kept}; free space or choose another location") from error


def write_atomically(path: FilePath, write: Callable[[IO[bytes]], object]) -> None:
    """Replaces ``path`` atomically by what ``write`` writes to the binary stream that it is called with.

    Raises:
        SSLToolError: if the file cannot be written (disk full, no permission); ``path`` is then unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it does not exist if it was renamed or its folder could not be created
            temporary.unlink()


def write_json(path: FilePath, document: Any) -> None:
    """Writes ``document`` as indented JSON, atomically."""
    text = to_json(document, indent=2) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()))


def file_hash(path: FilePath) -> str:
    """The SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(stream)


def weights_hash(state_dict: dict[str, Tensor]) -> str:
    """The SHA-256 of the names and bytes of tensors, in hex."""
    digest = hashlib.sha256()
    for name, tensor in state_dict.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def matching(path: FilePath) -> FilePath | list[str]:
    """The files that ``path`` names.

    This is ``path`` itself if it exists; the sorted matches if it is a pattern such as ``train_*.pt``; and otherwise
    the files of all ranks, if several ranks wrote it.

    Raises:
        SSLToolError: if a pattern matches nothing.
    """
    path = Path(path)
    if path.exists():
        return path
    if not glob.has_magic(str(path)):
        of_ranks = path.parent.glob(f"{glob.escape(path.stem)}.rank*of*{path.suffix}")
        return sorted(str(file) for file in of_ranks if re.fullmatch(r".*\.rank\d+of\d+", file.stem)) or path
    found = sorted(glob.glob(str(path)))
    if not found:
        raise SSLToolError(f"no file matches {path}")
    return found


def _sha(stream: IO[bytes]) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


@dataclass
class Stored:
    """Base class of file formats. The dataclass fields of a format are the file's keys, declared with ``entry``."""

    FORMAT: ClassVar[str]

    def save(self, path: FilePath) -> None:
        """Writes the file atomically.

        Raises:
            SSLToolError: if it cannot be written; an existing file is kept.
        """
        contents = {"format": self.FORMAT, "ssltool": ssltool.__version__, "torch": str(torch.__version__)}
        contents |= {f.name: getattr(self, f.name) for f in fields(self)}
        write_atomically(path, lambda stream: torch.save(contents, stream))

    @classmethod
    def load(cls: type[S], path: FilePath) -> S:
        """Loads the file, without executing code.

        Raises:
            SSLToolError: if it is missing, truncated, of another format, or contains pickled objects.
        """
        return cls._load(path)

    @classmethod
    def _load(cls: type[S], path: FilePath, *, mmap: bool = False) -> S:
        return cls.of(load_dict(path, mmap=mmap), path)

    @classmethod
    def of(cls: type[S], contents: Entries, path: FilePath) -> S:
        """An instance with the ``contents`` of the file ``path``.

        Raises:
            SSLToolError: if the format is another one, a key is missing, or a value is not as its ``entry`` declares.
        """
        found = contents.get("format", "no format")
        if not isinstance(found, str) or found != cls.FORMAT:
            raise SSLToolError(
                f"{path} is not a {cls.FORMAT} file: its format is {describe(found)}, its keys are "
                f"{first_keys(contents)}"
            )
        checks = {f.name: f.metadata["check"] for f in fields(cls)}
        needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        held = {name: contents[name] for name in checks if name in contents}
        schema = mapping({name: checks[name] for name in needed}, checks)
        return cls(**conform(held, schema, path))


def first_keys(contents: Entries) -> str:
    """The first keys of ``contents``, for error messages."""
    return name_keys(contents)


def finite(value: Any) -> Any:
    """``value`` with None in place of NaN and infinity, which JSON does not support."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_json(document: Any, *, indent: int | None = None) -> str:
    """``document`` as JSON; NaN and infinity become null."""
    return json.dumps(finite(document), indent=indent, allow_nan=False)
