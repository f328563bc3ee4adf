"""Known accuracies of runs, from linear probes or from a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssltool.errors import SSLToolError, counted, first_line
from ssltool.files.text import csv_cell
from ssltool.runs.evaluations import PROTOCOL, finished_probe

Accuracies = tuple[list[float | None], list[str]]
"""The accuracy of each item, None where it is not known, and notes for the user."""


def probe_accuracies(folders: Sequence[str], hashes: Sequence[str | None]) -> Accuracies:
    """For each of the checkpoint ``hashes``, the ``acc1`` of its linear probe in ``folders``, run folders of lincls.

    Raises:
        SSLToolError: for a folder without a finished probe, two probes of one checkpoint, or if no probe belongs to any
            of the checkpoints.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    notes = []
    for folder in folders:
        metrics = finished_probe(Path(folder))
        if metrics["random"] or metrics["checkpoint_hash"] is None:
            what = "an untrained network" if metrics["random"] else "representations of an unknown checkpoint"
            notes.append(f"{folder} is a probe of {what} and is left out")
            continue
        name, _ = found.setdefault(metrics["checkpoint_hash"], (folder, metrics))
        if name != folder:
            raise SSLToolError(f"{name} and {folder} are probes of one checkpoint; leave one of them out")
    used = [found[checkpoint] for checkpoint in hashes if checkpoint in found]
    if not used:
        raise SSLToolError(
            f"none of {counted(len(folders), 'probe')} was trained on a ranked checkpoint; probe the checkpoint of "
            "the epoch that is ranked"
        )
    if len(used) < len(found):
        notes.append(f"{len(found) - len(used)} of {len(found)} probes belong to none of the rows")
    differing = [key for key in PROTOCOL["lincls"] if len({metrics.get(key) for _, metrics in used}) > 1]
    if differing:
        notes.append(f"the probes differ in {', '.join(differing)}: their accuracies are not strictly comparable")
    return [float(found[one][1]["acc1"]) if one in found else None for one in hashes], notes


def table_accuracies(path: str, names: Sequence[tuple[str, ...]]) -> Accuracies:
    """For each item, its accuracy in the .csv file ``path`` with the columns ``run`` and ``accuracy``.

    Args:
        path: the table.
        names: for each item the names that its row may have, its path as given first. The path of one item is never
            read as a shorter name of another.

    Raises:
        SSLToolError: if the file cannot be read, lacks a column, has a run twice or an accuracy that is not a finite
            number, uses a name that several items have, or matches no item.
    """
    table = _read_table(path)
    names = [tuple(map(csv_cell, own)) for own in names]  # as rank --out writes them
    accuracies, used, paths = [], set(), {own[0] for own in names}
    for own in names:
        shorter = [name for name in dict.fromkeys(own[1:]) if name not in paths]
        matches = [name for name in (own[0], *shorter) if name in table]
        for name in matches:
            if name in shorter and sum(name in other for other in names) > 1:
                raise SSLToolError(f"{path}: several of the ITEMs are called {name}; write their paths as given")
        used.update(matches)
        accuracies.append(table[matches[0]] if matches else None)
    if not used:
        raise SSLToolError(f"{path} has none of these runs; in its column run, write {names[0][0]} or {names[0][-1]}")
    unmatched = len(table) - len(used)
    return accuracies, [f"{unmatched} of {len(table)} runs in {path} are not among the ITEMs"] if unmatched else []


def _read_table(path: str) -> dict[str, float | None]:
    """The accuracy of each run, None where the cell is empty."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise SSLToolError(
            f"cannot read {path} as a .csv table ({first_line(error)}); save it with the columns run and accuracy"
        ) from error
    missing = [column for column in ("run", "accuracy") if column not in table.columns]
    if missing:
        raise SSLToolError(f"{path} has no column {' and '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    known: dict[str, float | None] = {}
    for run, text in zip(table["run"].str.strip(), table["accuracy"].str.strip(), strict=True):
        run = csv_cell(str(Path(run)))  # without a trailing slash
        if run in known:
            raise SSLToolError(f"{path} has {run} twice; leave one of them out")
        value = pd.to_numeric(text, errors="coerce") if text else None
        if value is not None and not abs(value) < float("inf"):
            raise SSLToolError(
                f"{path}: the accuracy of {run} is '{text}', not a finite number; write one, or leave it empty"
            )
        known[run] = None if value is None else float(value)
    return known
