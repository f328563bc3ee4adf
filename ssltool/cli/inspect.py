"""``ssltool inspect``."""

from __future__ import annotations

import textwrap
from typing import Any

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import cell, emit, table
from ssltool.config import InspectConfig
from ssltool.files.text import one_line
from ssltool.settings import Record

APART = ("settings", "keys", "last", "metrics")
"""Long values, printed below the table."""


@click.command("inspect", cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1)
@settings(InspectConfig, positional=("files",))
@json_option
def command(config: InspectConfig, as_json: bool) -> None:
    """Describe each FILE: a checkpoint of ssltool or another library, representations, a spectrum, a probe, neighbours,
    an order, a run folder, or a folder of the Hugging Face hub.

    For a checkpoint it prints the library, method, architecture, epoch, number of tensors and parameters, and settings.
    Nothing is executed: a file that cannot be loaded without that is reported as unreadable.

    \b
    ssltool inspect run/checkpoint.pt
    ssltool inspect checkpoint_0099.pth.tar resnet50.pth --json
    ssltool inspect model.safetensors --keys
    """
    from ssltool.stages.inspect import run

    result = run(config)
    emit({"files": result}, "\n\n".join(map(_text, result)), as_json)


def _text(about: Record) -> str:
    parts = [table([[key, _line(value)] for key, value in about.items() if key not in APART and value not in ("", [])])]
    for key in APART:
        value = about.get(key)
        if key == "keys" and value is not None:
            rows = [[name, dtype, " x ".join(map(str, sides)) or "number"] for name, dtype, *sides in value]
            parts.append(table(rows, ["tensor", "type", "shape"]) if rows else "no tensors")
        elif value:
            wrapped = textwrap.fill(_line(value), 110, initial_indent="  ", subsequent_indent="  ")
            parts.append(f"{key}:\n{wrapped}")
    return "\n".join(parts)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{cell(key)}={_line(inner)}" for key, inner in value.items())
    return one_line(" ".join(map(cell, value))) if isinstance(value, list) else cell(value)
