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
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import IO, Any, ClassVar, TypeVar

import torch
from torch import Tensor

import ssltool
from ssltool.errors import SSLToolError, first_line
from ssltool.plain import to_json

FilePath = str | os.PathLike[str]
S = TypeVar("S", bound="_Stored")


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
class _Stored:
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
            raise SSLToolError(f"{path} is not a {cls.FORMAT} file: it says {found!r}, with keys {_some(contents)}")
        needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        missing = [name for name in needed if name not in contents]
        if missing:
            raise SSLToolError(f"{path} lacks {', '.join(missing)}; make it again")
        return cls(**{f.name: contents[f.name] for f in fields(cls) if f.name in contents})


def _some(contents: dict[str, Any]) -> str:
    return ", ".join(list(map(str, contents))[:6]) or "none"


@dataclass
class Checkpoint(_Stored):
    """A run at one moment: everything needed to use the model or to go on training, bit for bit.

    ``epoch`` counts completed epochs, ``step`` completed optimiser steps; ``state_dict`` has the prefixes
    ``backbone.``, ``projector.``, ``predictor.``; ``metrics`` holds the finished epochs' records and the sums of the
    unfinished one.
    """

    FORMAT: ClassVar[str] = "ssltool/checkpoint/1"

    method: str
    arch: str
    epoch: int
    step: int
    config: dict[str, Any]
    state_dict: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any] | None
    metrics: dict[str, Any]


@dataclass
class Probe(_Stored):
    """A linear probe: ``weight`` (C, D), ``bias`` (C,), which take features as they are, and what it was trained on.

    ``labels`` (C,) int64 are the classes of its rows, 0 to C - 1 where there are none. ``state`` is what training
    goes on from.
    """

    FORMAT: ClassVar[str] = "ssltool/probe/1"

    weight: Tensor
    bias: Tensor
    config: dict[str, Any]
    metrics: dict[str, Any]
    labels: Tensor | None = None
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> Tensor:
        """The classes of the rows of ``weight``, (C,) int64."""
        return torch.arange(len(self.weight)) if self.labels is None else self.labels


@dataclass
class Spectrum(_Stored):
    """``stds`` (min(N, d),) float64: singular values, or per-dimension deviations (d,); the key is the paper's."""

    FORMAT: ClassVar[str] = "ssltool/spectrum/1"

    stds: Tensor
    metrics: dict[str, float]
    meta: dict[str, Any]

    @classmethod
    def load(cls, path: FilePath) -> Spectrum:
        """Reads a spectrum; the paper's own files, which hold ``stds`` alone, load too."""
        contents = load_dict(path)
        if "format" not in contents and "stds" in contents:
            return cls(contents["stds"].double(), {}, {})
        return cls._load(path)


@dataclass
class Neighbours(_Stored):
    """The nearest rows of a bank to each query, nearest first: ``indices`` (N, k) int64, rows of the bank's file, and
    ``distances`` (N, k) float32, 1 - cosine or Euclidean as ``meta["metric"]`` says; -1 and inf where there are fewer
    than k. ``index`` (N,) int64 are the queries' and ``bank_index`` (N, k) the neighbours' numbers in their datasets.
    """

    FORMAT: ClassVar[str] = "ssltool/neighbours/1"

    indices: Tensor
    distances: Tensor
    index: Tensor
    bank_index: Tensor
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class Clusters(_Stored):
    """Which cluster each image is in: ``assignments`` (N,) int64, ``confidence`` (N,) float32, its probability, NaN
    where there is none, ``targets`` (N,) int64 with -1 where unlabelled, ``index`` (N,) int64, the image's number in
    its dataset, and ``meta``, how they were made and how well they agree with the classes.
    """

    FORMAT: ClassVar[str] = "ssltool/clusters/1"

    assignments: Tensor
    confidence: Tensor
    targets: Tensor
    index: Tensor
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class Representations(_Stored):
    """One row per image: ``representations`` (N, D) float32 or bfloat16, or (N, Q, D) of Q views, ``targets`` (N,)
    int64 with -1 where unlabelled, ``index`` (N,) int64, the image's number in its dataset, and ``meta``, where the
    rows come from. Where ``meta["places"]`` is P, an image has P rows, one after the other, each with its label and
    number.
    """

    FORMAT: ClassVar[str] = "ssltool/representations/1"

    representations: Tensor
    targets: Tensor
    index: Tensor
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.representations)

    @classmethod
    def load(cls, path_or_paths: FilePath | Sequence[FilePath]) -> Representations:
        """Reads one file (memory-mapped), or several as one, in the order given.

        The paper's files load too: their targets become integers, and rows are numbered from 0.

        Raises:
            SSLToolError: if a file is unreadable, holds no representations or several of each image, has rows
                and targets that do not match, NaN or infinite values, or if the files' widths differ.
        """
        if isinstance(path_or_paths, (str, os.PathLike)):
            return cls._load_one(path_or_paths)
        parts = [cls._load_one(path) for path in path_or_paths]
        if not parts:
            raise SSLToolError("no representation files were given; name at least one")
        widths = [part.representations.shape[1] for part in parts]
        if len(set(widths)) > 1:
            found = ", ".join(f"{path}: {width}" for path, width in zip(path_or_paths, widths, strict=True))
            raise SSLToolError(f"representations of different widths cannot be read as one ({found})")
        return cls(
            torch.cat([part.representations for part in parts]),
            torch.cat([part.targets for part in parts]),
            torch.cat([part.index for part in parts]),
            parts[0].meta,
        )

    @classmethod
    def _load_one(cls, path: FilePath) -> Representations:
        stored = cls.mapped(path)
        stored.representations = stored.representations.float()
        return stored

    @classmethod
    def mapped(cls, path: FilePath) -> Representations:
        """One file of one row an image, memory-mapped and in its own precision; raises as ``load`` does."""
        stored = cls.stored(path)
        if stored.representations.dim() == 3:
            views = stored.representations.shape[1]
            raise SSLToolError(f"{path} holds {views} views of each image; save one row an image, without --views")
        if places := stored.meta.get("places"):
            raise SSLToolError(f"{path} holds {places} places of each image; save one row an image, the mean of them")
        _refuse_nonfinite(path, stored.representations)
        return stored

    @classmethod
    def stored(cls, path: FilePath) -> Representations:
        """One file as it is: memory-mapped, in its own precision, (N, D) or (N, Q, D), with whatever values.

        Raises:
            SSLToolError: if it is unreadable, holds no representations, or its rows and targets do not match.
        """
        contents = load_dict(path, mmap=True)
        rows = contents.get("representations")
        if not isinstance(rows, Tensor) or rows.dim() < 2 or not rows.is_floating_point():
            raise SSLToolError(f"{path} holds no representations; its keys are {_some(contents)}")
        many = rows.reshape(-1, rows.shape[-1])
        if rows.dim() > 3 or len(contents.get("targets", many)) == len(many):  # rows by any shape, of patches say
            rows = many
        n = len(rows)
        targets = torch.as_tensor(contents.get("targets", torch.full((n,), -1))).to(torch.int64)
        index = torch.as_tensor(contents.get("index", torch.arange(n))).to(torch.int64)
        if len(targets) != n or len(index) != n:
            raise SSLToolError(
                f"{path}: {n} representations, {len(targets)} targets and {len(index)} indices do not match"
            )
        return cls(rows, targets, index, contents.get("meta", {}))


def _refuse_nonfinite(path: FilePath, rows: Tensor, chunk: int = 8192) -> None:
    bad, first = 0, None
    for start in range(0, len(rows), chunk):
        broken = (~torch.isfinite(rows[start : start + chunk])).any(dim=1)
        count = int(broken.sum())
        if count and first is None:
            first = start + int(broken.nonzero()[0])
        bad += count
    if bad:
        raise SSLToolError(
            f"{path}: {bad} of {len(rows)} rows hold NaN or infinite values, the first is row {first}; "
            "the network that made them diverged or the images are broken"
        )
