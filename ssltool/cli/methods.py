"""``ssltool methods``."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from typing import Any

import click

from ssltool.cli.options import Command, json_option
from ssltool.cli.output import emit, table
from ssltool.settings import flag


@click.command("methods", cls=Command)
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the methods that pretrain knows, or what there is to know of the method NAME.

    A method's options are set with --set option=value; --recipe sets its published optimiser, schedule and views.

    \b
    ssltool methods
    ssltool methods vicreg
    ssltool pretrain --method vicreg --set std=0 --set dim=512 --dry-run
    """
    from ssltool.methods import METHODS

    if name is None:
        rows = [[n, str(e.year), f"arXiv:{e.paper}", e.prevents, e.needs] for n, e in METHODS.items()]
        listed = [{"name": n, **dataclasses.asdict(e)} for n, e in METHODS.items()]
        header = ["method", "year", "paper", "what prevents collapse", "what it needs"]
        emit({"methods": listed}, table(rows, header), as_json)
        return
    found = describe(name)
    emit(found, page(found), as_json)


def describe(name: str) -> dict[str, Any]:
    """What there is to know of a method, as plain values."""
    from ssltool.methods import method_class, method_entry
    from ssltool.methods.recipes import RECIPES
    from ssltool.settings import value_type

    cls, entry = method_class(name), method_entry(name)
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
    facts = {key: value for key, value in dataclasses.asdict(entry).items() if key != "target"}
    return {"name": name, **facts, "about": about, "options": options, "recipes": recipes}


def page(found: dict[str, Any]) -> str:
    """``describe``'s findings as text."""
    rows = [[o["name"], " | ".join(o["choices"]) or o["type"], str(o["default"]), o["help"]] for o in found["options"]]
    parts = [found["about"], "needs: " + found["needs"] + "\nprevents collapse by: " + found["prevents"]]
    parts.append(table(rows, ["option", "type", "default", ""]))
    for name, recipe in found["recipes"].items():
        options = [f"--set {k}={v}" for k, v in recipe.get("options", {}).items()]
        flags = [
            flag(k) if v is True else f"{flag(k)} {v}" for k, v in recipe.items() if k != "options" and v is not False
        ]
        line = " ".join([*flags, *options])
        parts.append(f"--recipe {name} stands for\n" + textwrap.fill(line, 100, break_on_hyphens=False))
    return "\n\n".join(parts)
