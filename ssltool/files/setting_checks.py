"""Checks of saved settings, made from the fields that declare the settings."""

from __future__ import annotations

import dataclasses
from typing import Any

from ssltool.files.misfit import Misfit, describe
from ssltool.files.schema import Check, Sizes, boolean, choice, integer, listing, optional, real, text
from ssltool.settings import bounds, may_be_none, value_type


def _without_nul(value: Any, sizes: Sizes) -> str:
    checked: str = text()(value, sizes)
    if "\0" in checked:
        raise Misfit(describe(checked), TEXT.expected)
    return checked


TEXT = Check("text without NUL, which no command line and no path can hold", _without_nul)
"""A setting that is text, such as a name or a path."""


def setting_checks(cls: type) -> dict[str, Check]:
    """The check of each setting of the class ``cls``: its type, its choices and its inclusive bounds.

    Names of methods, architectures and other entries of registries are text, because plug-ins may add to them.
    """
    return {f.name: _check(cls, f) for f in dataclasses.fields(cls)}


def _check(cls: type, f: dataclasses.Field[Any]) -> Check:
    low, high, _ = bounds(cls, f)
    kind = value_type(cls, f.name)
    whole = integer(f.metadata.get("minimum"), f.metadata.get("maximum"))  # within 64 bits, as all integers
    checks = {bool: boolean(), int: whole, float: real(low, high), str: TEXT}
    choices = f.metadata["choices"]
    if kind is str and isinstance(choices, tuple) and choices:
        check = choice(*choices)
    elif kind == tuple[float, ...]:
        check = listing(real(low, high), f.metadata["nargs"], what="a list of numbers")
    else:
        check = checks.get(kind, listing(TEXT, what="a list of texts"))
    return optional(check) if may_be_none(cls, f.name) else check
