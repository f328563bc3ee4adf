"""Many runs in one table: short names, groups, and files that other programs read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssltool.files import write_atomically, write_json

UNKNOWN = "unknown"
"""The group of files that do not say where they come from."""


def means_of_groups(results: Sequence[dict[str, Any]], by: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """For each value of ``by`` in the files' own accounts: how many files have it, and the mean and standard deviation
    (N - 1; 0 for one file) of each metric, as {by: value, "files", "mean": {...}, "std": {...}}."""
    values = [str(result["origin"].get(by, UNKNOWN)) for result in results]
    frame = pd.DataFrame([{name: result["metrics"].get(name) for name in names} for result in results], index=values)
    groups = []
    for value in dict.fromkeys(values):
        rows = frame.loc[[value]].astype(float)
        deviations = rows.std(ddof=1).where(rows.count() > 1, rows.mean() * 0.0)
        groups.append({by: value, "files": len(rows), "mean": rows.mean().to_dict(), "std": deviations.to_dict()})
    return groups


def write_table(document: dict[str, Any], path: Path) -> None:
    """Writes the stage's document as .json, or its files as rows of a .csv.

    Raises:
        SSLToolError: if the file cannot be written.
    """
    if path.suffix.lower() == ".json":
        write_json(path, document)
        return
    rows = [
        {"path": result["path"], "n": result["n"], "d": result["d"], **result["origin"], **result["metrics"]}
        | {
            "verdict": result["verdict"]["state"],
            "used": result["verdict"]["used"],
            "notes": "; ".join(result["notes"]),
        }
        for result in document["files"]
    ]
    text = pd.DataFrame(rows).to_csv(index=False)
    write_atomically(path, lambda stream: stream.write(text.encode()))
