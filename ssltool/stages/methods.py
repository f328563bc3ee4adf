"""The methods stage: lists the methods of ``pretrain``, or describes one."""

from __future__ import annotations

import dataclasses
import inspect
from typing import TYPE_CHECKING

from ssltool.config import MethodsConfig
from ssltool.methods import FAMILIES, METHODS, method_class
from ssltool.methods.recipes import RECIPES, published, recipes_of
from ssltool.settings import value_type

if TYPE_CHECKING:  # the list of methods needs no torch
    from ssltool.settings import Record


def run(config: MethodsConfig) -> Record:
    """``{"methods": [{"name", "family", "year", "paper", "prevents", "needs"}, ...]}`` by family, or with a name
    ``describe(name)``.

    Raises:
        UsageError: for an unknown name.
    """
    if config.name is not None:
        return describe(config.name)
    return {"methods": [{"name": name, **_facts(name)} for name in by_family()]}


def by_family() -> list[str]:
    """The names of all methods, ordered by family and within it by year."""
    families = list(dict.fromkeys([*FAMILIES, *(entry.family for entry in METHODS.values())]))
    return sorted(METHODS, key=lambda name: (families.index(METHODS[name].family), METHODS[name].year))


def describe(name: str) -> Record:
    """Describes a method: name, family, year, paper, requirements, options and published recipes.

    Raises:
        UsageError: for an unknown name.
    """
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
    recipes = {one: published(name, one, vit="arch" in RECIPES[one][name]) for one in recipes_of(name)}
    about = (inspect.getdoc(inspect.getmodule(cls)) or "").replace("``", "")
    return {"name": name, **_facts(name), "about": about, "options": options, "recipes": recipes}


def _facts(name: str) -> Record:
    entry = METHODS[name]
    return {
        "family": entry.family,
        "year": entry.year,
        "paper": entry.paper,
        "prevents": entry.prevents,
        "needs": entry.needs,
    }
