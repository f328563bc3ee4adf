"""``ssltool inspect``."""

from __future__ import annotations

import os
import textwrap
from typing import Any

import click

from ssltool.cli.flags import Command, json_option, settings
from ssltool.cli.output import cell, emit, table
from ssltool.config import InspectConfig
from ssltool.errors import SSLToolError, counted
from ssltool.files.text import one_line
from ssltool.settings import Record

APART = ("settings", "keys", "last", "metrics", "checkpoints")
"""Long values, printed below the table."""

SHOWN = 6
"""Names that a row lists."""


@click.command("inspect", cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1)
@settings(InspectConfig, positional=("files",))
@json_option
def command(config: InspectConfig, as_json: bool) -> None:
    """Describe each FILE: a checkpoint of ssltool or another library, representations, a spectrum, a probe, neighbours,
    an order, a run folder, a folder of the Hugging Face hub, or any folder of checkpoints.

    For a checkpoint it prints the library, method, architecture, epoch, number of tensors and parameters, and settings;
    the checkpoints in a folder are a table with one row each. Nothing is executed: a file that cannot be loaded without
    that is reported as unreadable.

    \b
    ssltool inspect run/checkpoint.pt
    ssltool inspect checkpoint_0099.pth.tar resnet50.pth --json
    ssltool inspect model.safetensors --keys
    ssltool inspect downloads/
    ssltool inspect --verify run/
    """
    from ssltool.stages.inspect import run

    if config.verify:
        _verify(config, as_json)
        return
    result = run(config)
    emit({"files": result}, "\n\n".join(map(_text, result)), as_json)


def _verify(config: InspectConfig, as_json: bool) -> None:
    """Prints the state of every file, and raises ``SSLToolError`` if one is damaged."""
    from ssltool.stages.inspect import DAMAGED, verify

    result = verify(config)
    rows = [[one["path"], round(one["bytes"] / 1e6, 1), one["state"], one.get("problem", "")] for one in result]
    emit({"files": result}, table(rows, ["file", "MB", "state", "problem"]) if rows else "no checkpoints", as_json)
    damaged = sum(one["state"] == DAMAGED for one in result)
    if damaged:
        raise SSLToolError(f"{damaged} of {counted(len(result), 'file')} damaged; copy or regenerate what is damaged")


def _text(about: Record) -> str:
    parts = [table([[key, _line(value)] for key, value in about.items() if key not in APART and value not in ("", [])])]
    for key in APART:
        value = about.get(key)
        if key == "checkpoints":
            parts += ["", *_table_of(about)] if value else []
            continue
        if key == "keys" and value is not None:
            rows = [[name, dtype, " x ".join(map(str, sides)) or "number"] for name, dtype, *sides in value]
            parts.append(table(rows, ["tensor", "type", "shape"]) if rows else "no tensors")
        elif value:
            wrapped = textwrap.fill(_line(value), 110, initial_indent="  ", subsequent_indent="  ")
            parts.append(f"{key}:\n{wrapped}")
    return "\n".join(parts)


def _table_of(folder: Record) -> list[str]:
    """One row for each checkpoint of a folder, and how many cannot be used."""
    checkpoints, unusable = folder["checkpoints"], folder["unusable"]
    header = ["file", "program", "arch", "method", "epoch", "width", "MB", "notes"]
    rows = [
        [os.path.relpath(one["path"], folder["path"]), *map(one.get, header[1:6]), _size(one), _notes(one)]
        for one in checkpoints
    ]
    return [table(rows, header), f"{counted(len(rows), 'file')}, {unusable} of them unusable"]


def _size(about: Record) -> float | None:
    """The size in MB, with one decimal."""
    return round(about["bytes"] / 1e6, 1) if "bytes" in about else None


def _notes(about: Record) -> str:
    """Why a file cannot be used, or what is not used of it."""
    if "problem" in about:
        reason = about["problem"].removeprefix(about["path"]).lstrip(": ")
        return f"{about['kind']}: {reason}"
    notes = {
        "ignored": about.get("left_out"),
        "not taken": about.get("not_taken"),
        "objects not read": about.get("skipped"),
        "assumed": about.get("assumed"),
    }
    listed = [f"{what}: {_first(names)}" for what, names in notes.items() if names]
    return "; ".join(listed if about["kind"] == "checkpoint" else [about["kind"], *listed])


def _first(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{cell(key)}={_line(inner)}" for key, inner in value.items())
    return one_line(" ".join(map(cell, value))) if isinstance(value, list) else cell(value)
