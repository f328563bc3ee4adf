"""The files that the stages hand each other: checkpoints, representations, spectra, probes.

Each file is one dict of tensors, strings, numbers, lists and dicts that names its format
(``ssltool/<kind>/<version>``) and is read with ``weights_only=True``: loading never executes anything. Files are
written to a temporary name beside the target, flushed to disk and renamed, so a reader never sees half a file and a
full disk never costs the previous one. ``docs/file-formats.md`` lists every key.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import torch
from torch import Tensor

import ssltool
from ssltool.errors import SSLToolError, first_line

FilePath = str | os.PathLike[str]

Settings = dict[str, Any]
"""Settings as plain values: what ``config.json`` and a checkpoint's ``config`` hold."""

Record = dict[str, Any]
"""Named results as plain values: a line of ``metrics.jsonl``, or what a stage returns."""

S = TypeVar("S", bound="Stored")


@contextlib.contextmanager
def writing(path: FilePath) -> Iterator[None]:
    """Turns a failure to write ``path`` within the block into an ``SSLToolError`` that says why."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns a failed write into a RuntimeError; others, from a device say, are not the disk's.
        if isinstance(error, RuntimeError) and not any(part in str(error) for part in ("inline_container", "Writer")):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        kept = "; what was there is kept" if Path(path).exists() else ""
        raise SSLToolError(f"cannot write {path}: {reason}{kept}; free some space or choose another place") from error


def write_atomically(path: FilePath, write: Callable[[IO[bytes]], object]) -> None:
    """Calls ``write`` with a binary stream whose contents then replace ``path`` in one step.

    Raises:
        SSLToolError: if the file cannot be written (disk full, no permission); ``path`` is then as it was before.
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
        with contextlib.suppress(OSError):  # there is none where its folder could not be made
            temporary.unlink()


def write_json(path: FilePath, document: Any) -> None:
    """Writes ``document`` as indented JSON, atomically."""
    text = to_json(document, indent=2) + "\n"
    write_atomically(path, lambda stream: stream.write(text.encode()))


def file_hash(path: FilePath) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha(stream)


def weights_hash(state_dict: dict[str, Tensor]) -> str:
    """SHA-256 over named tensors, in hex: equal before and after means unchanged, bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in state_dict.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def matching(path: FilePath) -> FilePath | list[str]:
    """The files that a name stands for: itself, or where it is a pattern such as ``train_*.pt`` what matches, in order.
    Where there is no such file but several ranks wrote their parts of it, these parts.

    Raises:
        SSLToolError: if nothing matches.
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


def load_dict(path: FilePath, *, mmap: bool = False) -> dict[str, Any]:
    """The dict that a ``.pt`` file holds, on the CPU.

    Raises:
        SSLToolError: if there is no such file, it is cut short, it is no dict, or reading it would mean executing it.
    """
    path = Path(path)
    if not path.is_file():
        raise SSLToolError(f"no such file: {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            contents = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except Exception as error:  # on bytes that are no pickle, torch's reader may fail in any way
        if "TorchScript" in str(error):
            raise SSLToolError(
                f"refused {path}: it is a TorchScript program; save the state_dict() of its network instead, as "
                "docs/checkpoints.md shows"
            ) from error
        if "Weights only load failed" in str(error) and "Unsupported operand" not in str(error):
            named = re.search(r"GLOBAL (\S+)", str(error))
            what = f" ({named[1]})" if named else ""
            raise SSLToolError(
                f"refused {path}: it holds pickled Python objects{what}, which loading would execute; save it again "
                "with tensors, numbers, strings, lists and dicts only, as docs/checkpoints.md shows"
            ) from error
        raise SSLToolError(f"{path} is not a readable .pt file; it may be cut short: copy or make it again") from error
    if not isinstance(contents, dict):
        raise SSLToolError(f"{path} holds a {type(contents).__name__}, not the dict that ssltool's files are")
    return contents


@dataclass
class Stored:
    """A file kind: its dataclass fields are the file's keys."""

    FORMAT: ClassVar[str]

    def save(self, path: FilePath) -> None:
        """Writes the file atomically.

        Raises:
            SSLToolError: if it cannot be written; what was there before is kept.
        """
        contents = {"format": self.FORMAT, "ssltool": ssltool.__version__, "torch": str(torch.__version__)}
        contents |= {f.name: getattr(self, f.name) for f in fields(self)}
        write_atomically(path, lambda stream: torch.save(contents, stream))

    @classmethod
    def load(cls: type[S], path: FilePath) -> S:
        """Reads the file, executing nothing.

        Raises:
            SSLToolError: if it is missing, cut short, of another kind, or holds pickled objects.
        """
        return cls._load(path)

    @classmethod
    def _load(cls: type[S], path: FilePath, *, mmap: bool = False) -> S:
        return cls.of(load_dict(path, mmap=mmap), path)

    @classmethod
    def of(cls: type[S], contents: dict[str, Any], path: FilePath) -> S:
        """What the ``contents`` of ``path`` are.

        Raises:
            SSLToolError: if they are of another kind, or a key is missing.
        """
        found = contents.get("format", "no format")
        if found != cls.FORMAT:
            raise SSLToolError(
                f"{path} is not a {cls.FORMAT} file: it says {found!r}, with keys {first_keys(contents)}"
            )
        needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        missing = [name for name in needed if name not in contents]
        if missing:
            raise SSLToolError(f"{path} lacks {', '.join(missing)}; make it again")
        return cls(**{f.name: contents[f.name] for f in fields(cls) if f.name in contents})


def first_keys(contents: dict[str, Any]) -> str:
    """The first names in ``contents``, for an error."""
    return ", ".join(list(map(str, contents))[:6]) or "none"


def finite(value: Any) -> Any:
    """``value`` with None in place of numbers that JSON does not know."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(one) for key, one in value.items()}
    return [finite(one) for one in value] if isinstance(value, (list, tuple)) else value


def to_json(document: Any, *, indent: int | None = None) -> str:
    """``document`` as JSON; what is not finite becomes null."""
    return json.dumps(finite(document), indent=indent, allow_nan=False)
