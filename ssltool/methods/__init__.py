"""The registry of methods: a name, and the module that holds it. A module is imported when its method is used."""

from __future__ import annotations

import importlib
from typing import Any

from ssltool.errors import unknown
from ssltool.methods.base import Method, read_options

METHODS = {"simsiam": "ssltool.methods.simsiam:SimSiam"}


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        SSLToolError: for an unknown name, with the nearest ones.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    module, _, attribute = METHODS[name].partition(":")
    cls: type[Method] = getattr(importlib.import_module(module), attribute)
    return cls


def method_options(name: str, given: dict[str, Any]) -> Any:
    """The checked options of a method; see ``base.read_options``."""
    return read_options(name, method_class(name).Options, given)
