"""The types of options for click: choices and names that are looked up when they are needed."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

import click
from click.shell_completion import CompletionItem
from click.types import StringParamType


class OneOf(click.ParamType):  # type: ignore[type-arg]
    """A choice among names that are looked up when needed, because plug-ins may add to a registry."""

    name = "choice"

    def __init__(self, names: Collection[str]) -> None:
        self.names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return click.Choice(tuple(self.names)).convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        return click.Choice(tuple(self.names)).get_metavar(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return click.Choice(tuple(self.names)).shell_complete(ctx, param, incomplete)


class Named(StringParamType):
    """Text with shell completion of a name or a comma-separated list of names.

    ``target`` is the registry with the names, or a function that returns those that begin with a text, as
    ``module:attribute``.
    """

    def __init__(self, target: str) -> None:
        self.target = target

    def names(self, start: str = "") -> list[str]:
        """The current names that begin with ``start``, including those of plug-ins."""
        module, _, attribute = self.target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        return list(found(start)) if callable(found) else [name for name in found if name.startswith(start)]

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        head, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{head}{comma}{name}") for name in self.names(last)]


class NumberOr(click.ParamType):  # type: ignore[type-arg]
    """A number, or one of some words."""

    name = "number"

    def __init__(self, number: click.IntRange, words: Collection[str]) -> None:
        self.number, self.words = number, words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.words:
            return value
        try:
            return self.number.convert(value, param, ctx)
        except click.BadParameter:
            least = "" if self.number.min is None else f" of at least {self.number.min}"
            self.fail(f"'{value}' is neither a whole number{least} nor {' or '.join(self.words)}.", param, ctx)


def click_type(kind: type, m: Any) -> Any:
    """The type of an option for a setting of type ``kind`` with the metadata ``m``."""
    if m["choices"]:
        return OneOf(m["choices"])
    if m["names"]:
        return Named(m["names"])
    if kind is int and m["minimum"] is not None:
        whole = click.IntRange(min=m["minimum"], max=m["maximum"])
        return NumberOr(whole, m["alone"]) if m["alone"] else whole
    return kind
