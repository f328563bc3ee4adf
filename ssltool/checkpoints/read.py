"""Opening a file of weights, whoever wrote it, without executing anything: torch's files, and safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssltool.errors import SSLToolError, first_line
from ssltool.files import FilePath, load_dict

SAFETENSORS = ".safetensors"

PLAIN = (str, int, float, bool)


def read_entries(path: FilePath) -> dict[str, Any]:
    """What a file of weights holds at its top level, memory-mapped where it can be. Of a .safetensors file these are
    the tensors, and its header's ``__metadata__``.

    Raises:
        SSLToolError: if there is no such file, it is unreadable, or reading it would mean executing it.
    """
    if Path(path).suffix == SAFETENSORS:
        return _read_safetensors(path)
    return load_dict(path, mmap=True)


def _read_safetensors(path: FilePath) -> dict[str, Any]:
    if not Path(path).is_file():
        raise SSLToolError(f"no such file: {path}")
    package = safetensors_package()
    try:
        with package.safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return tensors | {"__metadata__": dict(file.metadata() or {})}
    except (package.SafetensorError, OSError) as error:
        raise SSLToolError(f"{path} is no readable .safetensors file ({first_line(error)}); copy it again") from error


def safetensors_package() -> Any:
    """The package ``safetensors``.

    Raises:
        SSLToolError: if it is not installed.
    """
    try:
        import safetensors.torch
    except ImportError as error:
        raise SSLToolError(f"{SAFETENSORS} files need a package: pip install 'ssltool[safetensors]'") from error
    return safetensors


def settings_in(entries: dict[str, Any]) -> dict[str, Any]:
    """What a file's ``entries`` say beside weights and the state of an optimiser: numbers, texts, settings."""
    named = ("args", "config", "hyper_parameters", "__metadata__")
    kept = {key: value for key, value in entries.items() if isinstance(value, PLAIN) or key in named}
    found: dict[str, Any] = _plain(kept)
    return found


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: what is no number, text, list or dict by the name of its type."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value if isinstance(value, PLAIN) or value is None else f"<{type(value).__name__}>"
