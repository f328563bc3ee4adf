"""A file that may be a log, as its readers see it: bytes, text, JSON lines, or a table."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ssltool.errors import SSLToolError, counted
from ssltool.files.reading import parse_json, read_bytes
from ssltool.files.writing import FilePath

SEPARATORS = (",", "\t", ";")

Row = dict[str, float]
"""The numbers of one line of a log."""


class LogFile:
    """The file ``path``. What its readers need is parsed once.

    Raises:
        SSLToolError: if it cannot be read, or is larger than ``--size-limit``.
    """

    def __init__(self, path: FilePath) -> None:
        self.path = str(path)
        self.data = read_bytes(path)

    @cached_property
    def text(self) -> str | None:
        """The text of the file; None if it is binary. Bytes that are no UTF-8 are replaced."""
        if b"\0" in self.data[:4096]:
            return None
        return self.data.decode("utf-8-sig", "replace")

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text that are not empty, without white space at their ends."""
        return [line.strip() for line in (self.text or "").splitlines() if line.strip()]

    @cached_property
    def _json_objects(self) -> list[dict[str, Any]]:
        """The lines that are JSON objects; empty if there are none or most lines are other text."""
        if not self.lines or sum(line.startswith("{") for line in self.lines) * 2 < len(self.lines):
            return []
        return [value for value in map(_parsed, self.lines) if isinstance(value, dict)]

    @cached_property
    def json_rows(self) -> list[Row]:
        """The numbers of each line that is a JSON object."""
        return [numbers(value) for value in self._json_objects]

    @cached_property
    def json_notes(self) -> list[str]:
        """Notes on the lines that are no JSON objects, such as the command line, or a line that was cut off, and on
        losses that are no numbers."""
        losses = [value for row in self._json_objects for name, value in row.items() if "loss" in name]
        left_out = {
            "lines that are no JSON object": len(self.lines) - len(self.json_rows),
            "losses that are no numbers": sum(number(value) is None for value in losses),
        }
        return [f"{what}, left out: {count}" for what, count in left_out.items() if count and self.json_rows]

    @cached_property
    def json(self) -> Any:
        """The whole text as one JSON document; None if it is none."""
        return _parsed(self.text or "")

    @cached_property
    def table(self) -> tuple[list[str], list[Row]] | None:
        """The header and the rows of a table; None if the file is none. Empty cells are left out.

        Cells are separated by what the header has most of, of ``SEPARATORS``.
        """
        separator = max(SEPARATORS, key=lambda mark: self.lines[0].count(mark)) if self.lines else SEPARATORS[0]
        try:
            rows = list(csv.reader(io.StringIO(self.text or ""), delimiter=separator, strict=True))
        except csv.Error:
            return None
        rows = [row for row in rows if row]
        if len(rows) < 2 or any(number(cell) is not None for cell in rows[0]):
            return None
        header = [cell.strip() for cell in rows[0]]
        if any(len(row) != len(header) for row in rows[:-1]):  # the last line may be cut off
            return None
        found = [numbers(dict(zip(header, row, strict=False))) for row in rows[1:]]
        return (header, found) if 2 * sum(map(bool, found)) >= len(found) else None


def _parsed(line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def number(value: object) -> float | None:
    """``value`` as a number, also if it is text such as ``1e-3`` or ``NaN``; None if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def numbers(values: dict[str, Any]) -> Row:
    """The entries of ``values`` that are numbers."""
    found = {str(name): number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def has_all(rows: Sequence[Row], *names: str) -> bool:
    """Whether most of the ``rows`` have all of ``names``, and there is a row."""
    return bool(rows) and 2 * sum(set(names) <= row.keys() for row in rows) > len(rows)


def names_of(rows: Sequence[Row]) -> list[str]:
    """The names in ``rows``, in the order in which they appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def column(rows: Sequence[Row], name: str) -> list[float | None]:
    """The values of a column, None where a row has none."""
    return [row.get(name) for row in rows]


def repeated_steps(path: str, at: Sequence[float | None]) -> list[str]:
    """A note if steps are logged again, as by a resumed run; see ``Curve.of``."""
    steps = [step for step in at if step is not None]
    back = sum(after < before for before, after in itertools.pairwise(steps))
    return [f"the log goes back {counted(back, 'time')}, as that of a resumed run: later values count"] if back else []


def require_column(path: str, names: Sequence[str], loss: str | None) -> None:
    """Refuses a ``--loss`` that is no column.

    Raises:
        SSLToolError: with the names of the columns.
    """
    if loss is not None and loss not in names:
        raise SSLToolError(f"{path} has no column {loss}; its columns are {', '.join(names)}")


def finite_steps(at: Sequence[float | None]) -> list[float | None]:
    """Steps, None where one is not finite."""
    return [step if step is not None and math.isfinite(step) else None for step in at]
