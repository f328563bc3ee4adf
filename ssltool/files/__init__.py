"""ssltool's file formats (checkpoints, representations, spectra, probes), and reading and writing files.

Each file is one dict of tensors, strings, numbers, lists and dicts that names its format
(``ssltool/<kind>/<version>``). It is loaded with ``weights_only=True``, which never executes code. Files are written
atomically: to a temporary file in the same folder, which is flushed to disk and then renamed. A reader never sees a
partly written file, and if the disk is full the previous file is kept. ``docs/file-formats.md`` lists every key.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import re
import warnings
import zipfile
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import torch
from torch import Tensor

import ssltool
from ssltool.errors import SSLToolError
from ssltool.files.atomic import FilePath as FilePath
from ssltool.files.atomic import copy_atomically as copy_atomically
from ssltool.files.atomic import write_atomically as write_atomically
from ssltool.files.atomic import write_text as write_text
from ssltool.files.atomic import writing as writing

Entries = dict[str, Any]
"""The top-level entries of a file: tensors, numbers, strings, lists and dicts."""

S = TypeVar("S", bound="Stored")


def write_json(path: FilePath, document: Any) -> None:
    """Writes ``document`` as indented JSON, atomically."""
    write_text(path, to_json(document, indent=2) + "\n")


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
        return sorted(map(str, path.parent.glob(f"{glob.escape(path.stem)}.rank*of*{path.suffix}"))) or path
    found = sorted(glob.glob(str(path)))
    if not found:
        raise SSLToolError(f"no file matches {path}")
    return found


def _sha(stream: IO[bytes]) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def load_dict(path: FilePath, *, mmap: bool = False) -> Entries:
    """Loads the dict in a ``.pt`` file, to the CPU.

    Raises:
        SSLToolError: if the file does not exist, is truncated, is not a dict, or could only be read by executing code.
    """
    path = Path(path)
    if not path.is_file():
        raise SSLToolError(f"no such file: {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except Exception as error:  # torch.load may raise anything if the bytes are not a pickle
        if "TorchScript" in str(error):
            raise SSLToolError(
                f"{path} is a TorchScript program, which loading would execute; save the state_dict() of its network "
                "instead, as docs/checkpoints.md shows"
            ) from error
        if "Weights only load failed" in str(error) and "Unsupported operand" not in str(error):
            match = re.search(r"GLOBAL (\S+)", str(error))
            name = f" ({match[1]})" if match else ""
            raise SSLToolError(
                f"{path} contains pickled Python objects{name}, which loading would execute; save it again with "
                "tensors, numbers, strings, lists and dicts only, as docs/checkpoints.md shows"
            ) from error
        raise SSLToolError(f"{path} is not a readable .pt file and may be truncated; copy or regenerate it") from error
    if not isinstance(contents, dict):
        raise SSLToolError(f"{path} contains a {type(contents).__name__}; ssltool reads files that contain a dict")
    return contents


@dataclass
class Stored:
    """Base class of file formats. The dataclass fields of a format are the file's keys."""

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
            SSLToolError: if the format is another one, or a key is missing.
        """
        found = contents.get("format", "no format")
        if found != cls.FORMAT:
            raise SSLToolError(
                f"{path} is not a {cls.FORMAT} file: its format is {found!r}, its keys are {first_keys(contents)}"
            )
        needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        missing = [name for name in needed if name not in contents]
        if missing:
            raise SSLToolError(f"{path} lacks {', '.join(missing)}; regenerate it")
        return cls(**{f.name: contents[f.name] for f in fields(cls) if f.name in contents})


def first_keys(contents: Entries) -> str:
    """The first keys of ``contents``, for error messages."""
    return ", ".join(list(map(str, contents))[:6]) or "none"


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
