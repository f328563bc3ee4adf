"""Results on stdout: a small table, or one JSON document; messages on stderr, each one line. Text is escaped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Real
from typing import Any

import click

from ssltool.files.text import each_line, one_line
from ssltool.files.writing import to_json
from ssltool.settings import Record
from ssltool.training.launch import launch


def table(rows: Sequence[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Columns of minimum width; numbers right-aligned, text left-aligned; a dash for None and NaN."""
    cells = [[cell(value) for value in row] for row in ([list(header)] if header else []) + [list(r) for r in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    right = [all(isinstance(row[i], (int, float)) or row[i] is None for row in rows) for i in range(len(widths))]
    lines = []
    for row in cells:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A value as text: floats with four significant digits, a dash for None and NaN."""
    if value is None or (isinstance(value, Real) and value != value):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return one_line(value)


def emit(document: Record, text: str, as_json: bool) -> None:
    """Prints ``document`` as JSON, or ``text``; of several ranks, rank 0 does."""
    if launch().rank == 0:
        click.echo(to_json(document) if as_json else each_line(text))


def note(text: object) -> None:
    """Prints a note to a result on stderr; of several ranks, rank 0 does."""
    if launch().rank == 0:
        message(f"note: {text}")


def message(text: object) -> None:
    """Prints a line on stderr."""
    print(one_line(text), file=sys.stderr, flush=True)
