"""Settings from a row of a table of runs, as ``ssltool table --out`` writes it."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import re
from typing import Any

from ssltool.errors import SSLToolError
from ssltool.files.reading import open_file
from ssltool.settings import Settings, value_type
from ssltool.training.progress import info

OPTION = re.compile(r"(?P<name>\w+) \(option\)")
RUN = "run"
"""The column with the names of the runs."""


def row_of(path: str) -> tuple[str, int] | None:
    """The file and the number of the row, from 1, that ``path`` names as ``FILE.csv:ROW``; None for another path."""
    found = re.fullmatch(r"(?P<file>.+\.csv):(?P<row>[0-9]{1,9})", path)
    return None if found is None else (found["file"], int(found["row"]))


def read_row(file: str, number: int, cls: type) -> Settings:
    """The settings of the configuration ``cls`` in a row; an empty cell is the default. Columns that are neither
    settings nor options of a method, such as losses, are named on stderr.

    Raises:
        SSLToolError: if the file cannot be read, or has no such row.
    """
    with open_file(file) as stream:
        text = stream.read()
    try:
        rows = list(csv.DictReader(io.StringIO(text.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise SSLToolError(f"{file} is not a .csv table ({error}); write one as ssltool table --out does") from error
    if not 1 <= number <= len(rows):
        raise SSLToolError(f"{file} has {len(rows)} rows below its header, and row {number} is asked for")
    row = {name: value for name, value in rows[number - 1].items() if value and isinstance(name, str)}
    names = {f.name for f in dataclasses.fields(cls)}
    settings = {name: _typed(value, value_type(cls, name)) for name, value in row.items() if name in names}
    options = {found["name"]: value for name, value in row.items() if (found := OPTION.fullmatch(name))}
    unused = [name for name in row if name not in names and name != RUN and not OPTION.fullmatch(name)]
    if unused:
        info(f"{file}: these columns are no settings and have no effect: {', '.join(unused)}")
    return settings | ({"method_options": options} if options else {})


def _typed(text: str, kind: type) -> Any:
    """A cell as a value of a setting. What is not of its type stays text, which the check of the setting refuses."""
    text = text.removeprefix("'")
    if kind is str:
        return text
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        return int(value) if kind is int and isinstance(value, float) and value.is_integer() else value
    return text
