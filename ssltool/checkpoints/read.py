"""Reads files of weights written by any program, in torch's format or as safetensors, without executing code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssltool.errors import SSLToolError, first_line
from ssltool.files.misfit import describe, name_keys
from ssltool.files.plain_values import plain_value
from ssltool.files.reading import kind_of_content, open_file
from ssltool.files.schema import MAX_DEPTH
from ssltool.files.stored import Entries
from ssltool.files.torch_files import load_dict
from ssltool.files.writing import FilePath
from ssltool.settings import Settings

SAFETENSORS = ".safetensors"

PLAIN_TYPES = (str, int, float, bool)

METADATA = "__metadata__"
"""The entry with the metadata of a .safetensors file."""

SETTINGS_ENTRIES = ("args", "cfg", "config", "hyper_parameters", "hparams", "opt", "model_args", METADATA)
"""Entries of checkpoints that hold settings, in the order in which they are looked for."""

LONGEST = 10_000
"""Maximum length of text, lists and dicts that are shown."""

MOST_SHOWN = 1_000_000
"""Maximum number of values that are shown; lists that hold one another several times can stand for any number."""


def read_entries(path: FilePath) -> Entries:
    """The top-level entries of a file of weights, memory-mapped if possible.

    The entries of a .safetensors file are its tensors, and the metadata of its header.

    Raises:
        SSLToolError: if the file does not exist, is unreadable, or could only be read by executing code.
    """
    if Path(path).suffix == SAFETENSORS:
        return _read_safetensors(path)
    return load_dict(path, mmap=True, wanted="a checkpoint that torch.save wrote, or a .safetensors file")


def _read_safetensors(path: FilePath) -> Entries:
    with open_file(path) as stream:
        head = stream.read(512)
    if head.startswith(b"version https://git-lfs"):
        raise SSLToolError(f"{path} holds {kind_of_content(head)}")
    package = safetensors_package()
    try:
        with package.safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return tensors | {METADATA: dict(file.metadata() or {})}
    except (package.SafetensorError, OSError) as error:
        raise SSLToolError(
            f"{path} is not a readable .safetensors file ({first_line(error)}); copy it again"
        ) from error


def safetensors_package() -> Any:
    """The package ``safetensors``.

    Raises:
        SSLToolError: if it is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise SSLToolError(f"{SAFETENSORS} files need safetensors: pip install 'ssltool[safetensors]'") from error
    return safetensors


def extract_settings(entries: Mapping[str, Any]) -> Settings:
    """The numbers, strings and saved settings among a file's ``entries``, as values that JSON can hold."""
    plain_entries = {key: plain_value(value) for key, value in entries.items()}
    kept = {
        key: value for key, value in plain_entries.items() if isinstance(value, PLAIN_TYPES) or key in SETTINGS_ENTRIES
    }
    settings: Settings = plain(kept)
    return settings


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it; an object of another type, or nested too deeply, becomes the name of its type.

    Long text, long lists and large dicts are described, and so is what follows the first ``MOST_SHOWN`` values.
    """
    left = MOST_SHOWN

    def walk(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        said = plain_value(value)
        if said is not value:
            return walk(said, depth - 1) if depth else f"<{type(value).__name__}>"
        if isinstance(value, (dict, list, tuple)):
            if not depth:
                return f"<{type(value).__name__}>"
            if len(value) > min(LONGEST, left):
                return describe(value)
            if isinstance(value, dict):
                return {name_keys([key]): walk(item, depth - 1) for key, item in value.items()}
            return [walk(item, depth - 1) for item in value]
        if (isinstance(value, str) and len(value) > LONGEST) or (type(value) is int and value.bit_length() > 128):
            return describe(value)
        return value if isinstance(value, PLAIN_TYPES) or value is None else f"<{type(value).__name__}>"

    return walk(value, MAX_DEPTH)
