"""Registries of named objects (methods, metrics, architectures, ...), and plug-ins.

Each kind of object has one ``Registry``, so that adding an object takes one file and one line. An entry gives its
target as ``module:attribute``, relative to the package of the registry if it starts with a dot. The target is imported
only when it is loaded. A plug-in may give the object itself. This module imports only the standard library.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from ssltool.errors import SSLToolError, UsageError, first_line, unknown

GROUP = "ssltool.plugins"
"""Entry-point group of installed plug-ins."""


E = TypeVar("E")

REGISTRIES: list[Registry[Any]] = []
"""All imported registries."""

_loading: list[str] = []
_loaded: dict[str, ModuleType] = {}


class Registry(Mapping[str, E], Generic[E]):
    """Mapping from names to entries of one ``kind``, in insertion order.

    Looking up an unknown name raises ``UsageError`` with similar names.
    """

    def __init__(self, kind: str, package: str, entries: Mapping[str, E]) -> None:
        self.kind, self.package = kind, package
        self._entries = dict(entries)
        self._plugins: dict[str, str] = {}
        REGISTRIES.append(self)

    def add(self, name: str, entry: E, *, first: bool = False) -> None:
        """Adds an entry at the end, or as the ``first`` one, which matters if entries are tried in order. While a
        plug-in is loading, the entry is attributed to it.

        Raises:
            SSLToolError: if the name is already registered.
        """
        if name in self._entries:
            raise SSLToolError(f"the {self.kind} '{name}' is already registered; choose another name")
        self._entries = {name: entry, **self._entries} if first else {**self._entries, name: entry}
        if _loading:
            self._plugins[name] = _loading[-1]

    def load(self, name: str, field: str = "target") -> Any:
        """Imports and returns the ``target`` of an entry, or another ``field``: the object itself, or what
        ``"module:attribute"`` or ``".module:attribute"`` names.

        Raises:
            UsageError: for an unknown name.
        """
        target = getattr(self[name], field)
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        return getattr(importlib.import_module(module, self.package), attribute)

    def where(self, condition: Callable[[E], bool]) -> Selection[E]:
        """The entries that fulfil ``condition``, including those that are added later."""
        return Selection(self, condition)

    def plugin(self, name: str) -> str | None:
        """The plug-in that added ``name``, or None."""
        return self._plugins.get(name)

    def __getitem__(self, name: str) -> E:
        if name not in self._entries:
            raise unknown(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def get(self, name: str, default: Any = None) -> Any:
        """The entry, or ``default`` for an unknown name."""
        return self._entries.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class Selection(Mapping[str, E], Generic[E]):
    """A view of the entries of a registry that fulfil a condition. Nothing is copied: plug-ins may add to it."""

    def __init__(self, registry: Registry[E], condition: Callable[[E], bool]) -> None:
        self.registry, self.condition = registry, condition

    def __getitem__(self, name: str) -> E:
        if name not in self:
            raise unknown(self.registry.kind, name, tuple(self))
        return self.registry[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.registry and self.condition(self.registry[name])

    def get(self, name: str, default: Any = None) -> Any:
        """The entry, or ``default`` for an unknown name."""
        return self.registry.get(name, default) if name in self else default

    def __iter__(self) -> Iterator[str]:
        return (name for name, entry in self.registry.items() if self.condition(entry))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def load_plugins(names: Iterable[str]) -> None:
    """Imports plug-ins once each: importable modules (``my_project.ssl``) or ``.py`` files.

    Raises:
        UsageError: if the module or file does not exist.
        SSLToolError: if the import fails.
    """
    for name in names:
        if name not in _loaded:
            _loading.append(name)
            try:
                _loaded[name] = _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
            finally:
                _loading.pop()


def load_installed_plugins() -> None:
    """Imports the plug-ins of installed packages, declared in the entry-point group ``ssltool.plugins``."""
    load_plugins(point.module for point in importlib.metadata.entry_points(group=GROUP))


def _import_module(name: str) -> ModuleType:
    try:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name)
    except (ModuleNotFoundError, ValueError) as error:
        raise UsageError(
            f"--plugin {name}: no such module; install it, put its folder on PYTHONPATH, or name a .py file"
        ) from error
    try:
        return importlib.import_module(name)
    except SSLToolError:
        raise
    except Exception as error:
        raise SSLToolError(f"--plugin {name} failed to import: {type(error).__name__}: {first_line(error)}") from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"--plugin {path}: no such file; name a module or a .py file")
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
    name = f"ssltool_plugin_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--plugin {path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look up their module during execution
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, SSLToolError) or not isinstance(error, Exception):
            raise
        raise SSLToolError(f"--plugin {path} failed to import: {type(error).__name__}: {first_line(error)}") from error
    return module
