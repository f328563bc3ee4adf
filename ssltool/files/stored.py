"""The base class of ssltool's file formats: checkpoints, representations, spectra, probes.

Each file is one dict of tensors, strings, numbers, lists and dicts that names its format
(``ssltool/<kind>/<version>``). It is loaded with ``weights_only=True``, which never executes code, and checked by the
schema that its fields declare. ``docs/file-formats.md`` lists every key.
"""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, dataclass, fields
from typing import IO, Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor

import ssltool
from ssltool.errors import SSLToolError
from ssltool.files.integrity import HashingWriter, check_written
from ssltool.files.misfit import describe, name_keys
from ssltool.files.placeholders import placeholder_names
from ssltool.files.schema import conform, mapping, text
from ssltool.files.torch_files import load_dict
from ssltool.files.writing import FilePath, write_atomically

Entries = dict[str, Any]
"""The top-level entries of a file: tensors, numbers, strings, lists and dicts."""

VERSIONS = dict.fromkeys(("ssltool", "torch"), text(200))
"""The versions that wrote the file."""

S = TypeVar("S", bound="Stored")


def format_of(contents: Entries) -> str:
    """The format that a file names; empty if it names none, or one that is no text."""
    found = contents.get("format")
    return found if isinstance(found, str) else ""


def refuse_objects(contents: Entries, path: FilePath) -> None:
    """Raises ``SSLToolError`` if ``contents`` of a file of ssltool hold placeholders, which ssltool never writes."""
    if names := placeholder_names(contents):
        raise SSLToolError(
            f"{path} holds pickled objects ({name_keys(names, most=3)}), which no file of ssltool does; regenerate the "
            "file, or copy it again"
        )


def weights_hash(state_dict: dict[str, Tensor]) -> str:
    """The SHA-256 of the names and bytes of tensors, in hex."""
    digest = hashlib.sha256()
    for name, tensor in state_dict.items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)  # not copied
    return digest.hexdigest()


def _save(contents: Entries, stream: IO[bytes]) -> None:
    writer = HashingWriter(stream)
    torch.save(contents, cast(IO[bytes], writer))  # which only writes and flushes
    writer.finish()


@dataclass
class Stored:
    """Base class of file formats. The dataclass fields of a format are the file's keys, declared with ``entry``."""

    FORMAT: ClassVar[str]

    def save(self, path: FilePath) -> None:
        """Writes the file atomically, with its hash, by which it is checked before it replaces an existing file.

        Raises:
            SSLToolError: if it cannot be written; an existing file is kept.
        """
        contents = {"format": self.FORMAT, "ssltool": ssltool.__version__, "torch": str(torch.__version__)}
        contents |= {f.name: getattr(self, f.name) for f in fields(self)}
        write_atomically(path, lambda stream: _save(contents, stream), check_written)

    @classmethod
    def load(cls: type[S], path: FilePath) -> S:
        """Loads the file, without executing code, and compares it with its hash unless it is memory-mapped.

        Raises:
            DamagedFile: if it is truncated, or its bytes do not have the hash in it.
            SSLToolError: if it is missing, of another format, or contains pickled objects.
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
                f"{name_keys(contents)}; name a file of that format"
            )
        refuse_objects(contents, path)
        checks = {f.name: f.metadata["check"] for f in fields(cls)}
        needed = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        held = {name: contents[name] for name in (*checks, *VERSIONS) if name in contents}
        schema = mapping({name: checks[name] for name in needed}, checks | VERSIONS)
        conformed = conform(held, schema, path)
        return cls(**{name: conformed[name] for name in checks if name in conformed})
