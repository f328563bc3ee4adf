"""Tables of many runs or files: group means, and .csv or .json files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ssltool.files.text import csv_cell
from ssltool.files.writing import FilePath, write_json, write_text
from ssltool.settings import Record

UNKNOWN = "unknown"
"""The group of files whose metadata lacks the key to group by."""


def means_of_groups(results: Sequence[Record], by: str, names: Sequence[str]) -> list[Record]:
    """The mean and standard deviation (N - 1; 0 for one file) of the metrics ``names`` in each group of files.

    ``results`` are the "files" of the collapse stage. A group is the files with the same value of ``by`` in their
    "origin", in the order of the first file of each.

    Returns:
        One {by: value, "files", "mean": {...}, "std": {...}} for each group.
    """
    values = [str(result["origin"].get(by, UNKNOWN)) for result in results]
    frame = pd.DataFrame([{name: result["metrics"].get(name) for name in names} for result in results]).astype(float)
    groups = []
    for value, rows in frame.groupby(pd.Series(values, dtype=object), sort=False):
        deviations = rows.std(ddof=1).where(rows.count() > 1, rows.mean() * 0.0)
        groups.append({by: value, "files": len(rows), "mean": rows.mean().to_dict(), "std": deviations.to_dict()})
    return groups


def file_rows(results: Sequence[Record]) -> pd.DataFrame:
    """A row for each of the "files" of the collapse stage: path, size, origin, metrics, verdict and notes."""
    rows = [
        {"path": result["path"], "n": result["n"], "d": result["d"], **result["origin"], **result["metrics"]}
        | {
            "verdict": result["verdict"]["state"],
            "kinds": ", ".join(kind["kind"] for kind in result["verdict"]["kinds"]),
            "used": result["verdict"]["used"],
            "notes": "; ".join(result["notes"]),
        }
        for result in results
    ]
    return pd.DataFrame(rows, dtype=object)  # pandas' own type of text has no lone surrogates


def frame_of(rows: Sequence[Record]) -> pd.DataFrame:
    """The ``rows``, which have the same keys, as a table of dtype object. Integers beside a missing value stay
    integers."""
    return pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in rows[0]})


def write_table(path: FilePath, document: Record, rows: pd.DataFrame) -> None:
    """Writes ``document`` where ``path`` ends in .json, else ``rows``, of dtype object, as .csv without formulas.

    Raises:
        SSLToolError: if the file cannot be written.
    """
    if Path(path).suffix.lower() == ".json":
        write_json(path, document)
    else:
        cells = {csv_cell(name): pd.Series([*map(csv_cell, rows[name])], dtype=object) for name in rows}
        write_text(path, pd.DataFrame(cells).to_csv(index=False))
