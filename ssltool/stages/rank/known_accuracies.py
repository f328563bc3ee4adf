"""Where the accuracy of a run is known from, other than its own records: linear probes, or a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ssltool.checkpoints.probe import Probe
from ssltool.errors import SSLToolError, first_line

Known = tuple[list[float | None], list[str]]
"""The accuracy of each row, or None, and notes on what was left out."""

PROTOCOL = ("features", "optimizer", "epochs", "batch_size", "labels_fraction", "val_size", "image_size")
"""What probes must share for their accuracies to be compared."""


def of_probes(folders: Sequence[str], hashes: Sequence[str | None]) -> Known:
    """The ``acc1`` of the probe in ``folders``, run folders of lincls, that was trained on the checkpoint with each of
    ``hashes``.

    Raises:
        SSLToolError: for a folder without a finished probe, two probes of one checkpoint, or none that belongs to any
            row.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    notes = []
    for folder in folders:
        metrics = Probe.load(Path(folder) / "probe.pt").metrics
        if "checkpoint_hash" not in metrics:
            raise SSLToolError(f"{folder}: its probe is not trained to the end; run ssltool lincls again")
        if metrics["random"] or metrics["checkpoint_hash"] is None:
            what = "an untrained network" if metrics["random"] else "representations of no known checkpoint"
            notes.append(f"{folder} is a probe of {what} and is left out")
            continue
        name, _ = found.setdefault(metrics["checkpoint_hash"], (folder, metrics))
        if name != folder:
            raise SSLToolError(f"{name} and {folder} are probes of one checkpoint; leave one of them out")
    used = [found[one] for one in hashes if one in found]
    if not used:
        raise SSLToolError(
            f"none of {len(folders)} probe(s) was trained on a checkpoint of these rows; a probe belongs to the very "
            "file that lincls was given: probe the checkpoint of the epoch that is ranked"
        )
    if len(used) < len(found):
        notes.append(f"{len(found) - len(used)} of {len(found)} probes belong to none of the rows")
    differing = [key for key in PROTOCOL if len({metrics.get(key) for _, metrics in used}) > 1]
    if differing:
        notes.append(f"the probes differ in {', '.join(differing)}: their accuracies are not strictly comparable")
    return [float(found[one][1]["acc1"]) if one in found else None for one in hashes], notes


def of_table(path: str, names: Sequence[tuple[str, ...]]) -> Known:
    """The accuracies in a .csv file with the columns ``run`` and ``accuracy``, of rows that go by any of ``names``:
    the path as given, then shorter ones. A name that is the path of one row is of no other.

    Raises:
        SSLToolError: if it cannot be read, lacks a column, has a run twice or an accuracy that is no number, has a name
            that several rows go by, or knows none of the rows.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise SSLToolError(f"cannot read {path} as a .csv table: {first_line(error)}") from error
    missing = [column for column in ("run", "accuracy") if column not in table.columns]
    if missing:
        raise SSLToolError(f"{path} has no column {' and '.join(missing)}; it has {', '.join(map(str, table.columns))}")
    known: dict[str, float | None] = {}
    for run, text in zip(table["run"].str.strip(), table["accuracy"].str.strip(), strict=True):
        run = str(Path(run))  # without a slash at its end
        if run in known:
            raise SSLToolError(f"{path} has {run} twice; leave one of them out")
        value = pd.to_numeric(text, errors="coerce") if text else None
        if value is not None and not abs(value) < float("inf"):
            raise SSLToolError(f"{path}: the accuracy of {run} is '{text}', which is no number")
        known[run] = None if value is None else float(value)
    accuracies, used, paths = [], set(), {mine[0] for mine in names}
    for mine in names:
        short = [name for name in dict.fromkeys(mine[1:]) if name not in paths]
        hits = [name for name in (mine[0], *short) if name in known]
        for name in hits:
            if name in short and sum(name in other for other in names) > 1:
                raise SSLToolError(f"{path}: several of the ITEMs are called {name}; write their paths as given")
        used.update(hits)
        accuracies.append(known[hits[0]] if hits else None)
    if not used:
        raise SSLToolError(f"{path} has none of these runs; in its column run, write {names[0][0]} or {names[0][-1]}")
    unmatched = len(known) - len(used)
    return accuracies, [f"{unmatched} of {len(known)} runs in {path} are none of the ITEMs"] if unmatched else []
