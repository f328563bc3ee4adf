"""The methods that ``pretrain`` knows, and what there is to know of one."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from ssltool.config import MethodsConfig
from ssltool.methods import METHODS, method_class
from ssltool.methods.recipes import RECIPES
from ssltool.settings import value_type


def run(config: MethodsConfig) -> dict[str, Any]:
    """The methods as ``{"methods": [{"name", "year", "paper", "prevents", "needs"}, ...]}``, or all about one of them.

    Raises:
        UsageError: for an unknown name.
    """
    if config.name is not None:
        return describe(config.name)
    return {"methods": [{"name": name, **_facts(name)} for name in METHODS]}


def describe(name: str) -> dict[str, Any]:
    """What there is to know of a method, as plain values: facts, its options and its published recipes."""
    cls = method_class(name)
    options = [
        {
            "name": f.name,
            "type": value_type(cls.Options, f.name).__name__,
            "default": f.default,
            "choices": list(f.metadata["choices"]),
            "help": f.metadata["help"],
        }
        for f in dataclasses.fields(cls.Options)
    ]
    recipes = {recipe: methods[name] for recipe, methods in RECIPES.items() if name in methods}
    about = (inspect.getdoc(inspect.getmodule(cls)) or "").replace("``", "")
    return {"name": name, **_facts(name), "about": about, "options": options, "recipes": recipes}


def _facts(name: str) -> dict[str, Any]:
    entry = METHODS[name]
    return {"year": entry.year, "paper": entry.paper, "prevents": entry.prevents, "needs": entry.needs}
