"""``ssltool methods``."""

from __future__ import annotations

import textwrap
from itertools import groupby
from operator import itemgetter
from typing import Any

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import emit, table
from ssltool.cli.parameter_types import Named
from ssltool.config import MethodsConfig, PretrainConfig
from ssltool.config.fields import METHODS
from ssltool.settings import Record, flag


@click.command("methods", cls=Command)
@click.argument("name", required=False, type=Named(METHODS))
@settings(MethodsConfig, positional=("name",))
@json_option
def command(config: MethodsConfig, as_json: bool) -> None:
    """List the methods of pretrain, or describe the method NAME and its options.

    Options are set with --set NAME=VALUE; --recipe sets a method's published optimizer, schedule and views.

    \b
    ssltool methods
    ssltool methods vicreg
    ssltool pretrain --method vicreg --set std=0 --set dim=512 --dry-run
    """
    from ssltool.stages.methods import run

    found = run(config)
    if config.name is not None:
        emit(found, page(found), as_json)
        return
    emit(found, listing(found["methods"]), as_json)


def listing(methods: list[Record]) -> str:
    """A table of all methods, with a line above each family."""
    rows = []
    for family, members in groupby(methods, key=itemgetter("family")):
        rows.append([f"{family}:", "", "", "", ""])
        rows += [
            [f"  {one['name']}", str(one["year"]), f"arXiv:{one['paper']}", one["prevents"], one["needs"]]
            for one in members
        ]
    return table(rows, ["method", "year", "paper", "what prevents collapse", "what it needs"])


def page(found: Record) -> str:
    """``describe``'s findings as text."""
    rows = [[o["name"], " | ".join(o["choices"]) or o["type"], str(o["default"]), o["help"]] for o in found["options"]]
    facts = f"family: {found['family']}\nneeds: {found['needs']}\nprevents collapse by: {found['prevents']}"
    parts = [found["about"], facts]
    parts.append(table(rows, ["option", "type", "default", ""]))
    for name, recipe in found["recipes"].items():
        options = [f"--set {k}={v}" for k, v in recipe.get("options", {}).items()]
        flags = [_written(k, v) for k, v in recipe.items() if k != "options"]
        line = " ".join([*filter(None, flags), *options])
        parts.append(f"--recipe {name} stands for\n" + textwrap.fill(line, 100, break_on_hyphens=False))
    return "\n\n".join(parts)


def _written(name: str, value: Any) -> str:
    """A setting as it is written on the command line; a flag at its default is not."""
    if isinstance(value, tuple):
        return " ".join([flag(name), *map(str, value)])
    if not isinstance(value, bool):
        return f"{flag(name)} {value}"
    if value == getattr(PretrainConfig, name):
        return ""
    return flag(name) if value else flag(f"no_{name}")
