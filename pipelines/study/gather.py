"""Gathers the results of all runs into one table:  python pipelines/study/gather.py study.csv --runs study/runs

A row for each run and epoch. ``m_`` are the values of the run's own monitor, of 1,024 of its images, after every epoch;
the others are measured on the same images in all runs, after the epochs of ``run.MEASURED``. The settings of a run are
in runs.csv, and what does not change within a run is in its last row. Numbers have three digits, those that differ
little between runs four. Beside the table, study.npz has the singular values of each run, untrained and at its end. The
files are replaced as a whole; runs without results are named on stderr.

With ``--add``, results of runs of other machines are kept: of a run that is both in the table and in the folder, those
with more measured epochs. With ``--complete`` it prints the runs whose results in the table are complete instead.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

import ssltool

RUNS = Path(__file__).with_name("runs.csv")
MONITORED = {
    "loss": "m_loss",
    "backbone_auc": "m_auc",
    "backbone_effective_rank": "m_effective_rank",
    "backbone_rankme": "m_rankme",
    "backbone_knn": "m_knn",
    "backbone_feature_std": "m_feature_std",
    "backbone_dead_directions": "m_dead_directions",
    "verdict": "m_verdict",
    "projector_auc": "m_projector_auc",
    "projector_effective_rank": "m_projector_effective_rank",
    "seconds": "seconds",
}
"""Columns of the run's records, and their names in the table."""

OF_THE_RUN = ("d", "projector_d", "parameters", "train_images", "machine", "cpu", "ssltool", "commit", "torch")
PRECISE = ("loss", "auc", "rank", "knn", "probe", "feature_std", "log2")
"""Columns whose names contain one of these have four digits."""

LARGEST = 1_000_000
"""Bytes that the table may have."""


def results(folder: Path, parent_epochs: int) -> pd.DataFrame:
    """The rows of a run, by epoch from 0, or of a hybrid from its own first epoch: its records begin with its
    parent's."""
    rows = folder / "rows.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []
    measured = pd.DataFrame(lines, columns=None if lines else ["epoch"]).set_index("epoch")
    table = measured.combine_first(monitored(folder / "train")).sort_index()
    table = table.loc[(table.index > parent_epochs) | (table.index == 0) & (parent_epochs == 0)].reset_index()
    diverged = (folder / "diverged.txt").exists() or None
    if diverged and table.empty:  # in its first epoch
        return pd.DataFrame({"run": [folder.name], "epoch": [parent_epochs], "diverged": [True]})
    table["run"] = folder.name
    if table.empty:
        return table
    constant = [name for name in OF_THE_RUN if name in table]
    last = table[constant].ffill().iloc[-1]
    table[constant] = None
    table.loc[table.index[-1], constant] = last
    ended = times(folder) | {"diverged": diverged}
    for name, value in ended.items():
        table[name] = None
        table.loc[table.index[-1], name] = value
    return table


def monitored(folder: Path) -> pd.DataFrame:
    """What the monitor of a run recorded, by epoch from 1; nothing if no epoch has ended."""
    log = folder / "metrics.jsonl"
    if not log.exists() or not log.stat().st_size:
        return pd.DataFrame(columns=["epoch"]).set_index("epoch")
    records = ssltool.read_run(str(folder))
    records["epoch"] += 1  # after the epoch
    table = records.rename(columns=MONITORED).set_index("epoch")
    return table[[name for name in ("step", *MONITORED.values()) if name in table]]


def times(folder: Path) -> dict[str, float]:
    """The seconds of the training: the sum of all its starts that ended by themselves."""
    file = folder / "times.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {name: sum(line[name] for line in lines) for name in ("training_seconds", "training_cpu_seconds")}


def gather(folder: Path, earlier: pd.DataFrame | None = None) -> pd.DataFrame:
    """The rows of all runs with results in the folder or in an ``earlier`` table, in the order of runs.csv."""
    runs = pd.read_csv(RUNS).set_index("run")
    parents = runs["parent_epochs"].fillna(0).astype(int)
    found = {name: results(folder / name, parents[name]) for name in runs.index if (folder / name).exists()}
    rows = {name: table for name, table in found.items() if not table.empty}
    for name, known in () if earlier is None else earlier.groupby("run"):
        if name in runs.index and progress(known) >= progress(rows.get(name)):
            rows[name] = known
    if not rows:
        sys.exit(f"error: {folder} has no results; run pipelines/study/study.sh first")
    missing = [name for name in runs.index if name not in rows]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        print(f"{len(missing)} of {len(runs)} runs have no results: {', '.join(missing[:5])}{more}", file=sys.stderr)
    table = pd.concat([rows[name] for name in runs.index if name in rows], ignore_index=True)
    first = ["run", "epoch", "step", "knn", "probe", "probe_class", *MONITORED.values()]
    return table[[name for name in first if name in table] + sorted(set(table) - set(first))].infer_objects()


def progress(rows: pd.DataFrame | None) -> tuple[int, bool, int]:
    """The number of measured epochs, whether the run diverged, and the number of epochs."""
    if rows is None:
        return 0, False, 0
    measured, diverged = (int(rows[name].notna().sum()) if name in rows else 0 for name in ("probe", "diverged"))
    return measured, bool(diverged), len(rows)


def complete(table: pd.DataFrame) -> list[str]:
    """The runs that were measured after their last epoch, or diverged."""
    last = table["run"].map(pd.read_csv(RUNS).set_index("run")["epochs"])
    ended = (table["epoch"] == last) & table["probe"].notna()
    if "diverged" in table:
        ended |= table["diverged"].notna()
    return list(table.loc[ended, "run"].unique())


def text_of(table: pd.DataFrame) -> str:
    """The table as CSV."""
    shown = table.copy()
    for name in shown.select_dtypes("number"):
        digits = 4 if any(part in name for part in PRECISE) else 3
        whole = (shown[name].dropna() % 1 == 0).all()
        shown[name] = shown[name].map(
            lambda x, d=digits, w=whole: f"{x:.0f}" if w else f"{float(f'{x:.{d}g}'):.15g}", na_action="ignore"
        )
    return shown.to_csv(index=False)


def spectra(folder: Path, earlier: Path | None = None) -> dict[str, np.ndarray]:
    """The singular values of the runs before training and at their ends, as float32, by run, epoch and layer. Of a run
    that is in the folder and in an ``earlier`` file, those of the later end."""
    found: dict[str, dict[str, np.ndarray]] = {}
    if earlier is not None and earlier.exists():
        with np.load(earlier) as kept:
            for name in kept.files:
                run, values = name.split("/")
                found.setdefault(run, {})[values] = kept[name]
    for file in sorted(folder.glob("*/spectra.npz")):
        run = file.parent.name
        with np.load(file) as kept:
            last = last_epoch(kept.files)
            if last >= last_epoch(found.get(run, ())):
                ends = (f"epoch{last}_", "epoch0_")
                found[run] = {name: kept[name] for name in kept.files if name.startswith(ends)}
    return {f"{run}/{name}": found[run][name] for run in sorted(found) for name in found[run]}


def last_epoch(names: Iterable[str]) -> int:
    """The largest epoch of names such as ``epoch16_values``, or -1."""
    return max((int(name.split("_")[0].removeprefix("epoch")) for name in names), default=-1)


def write(path: Path, runs: Path, *, add: bool) -> None:
    """Writes the table and the singular values."""
    values = path.with_suffix(".npz")
    text = text_of(gather(runs, pd.read_csv(path) if add and path.exists() else None))
    if len(text) > LARGEST:
        sys.exit(f"error: the table has {len(text):,} bytes, more than {LARGEST:,}; leave out columns in gather.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **spectra(runs, values if add else None))
    os.replace(part, values)
    part = path.with_suffix(".part")
    part.write_text(text)
    os.replace(part, path)


def main() -> None:
    """Writes the files, or prints the complete runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="the file to write")
    parser.add_argument("--runs", type=Path, default=Path("study/runs"), help="folder of the runs")
    parser.add_argument("--add", action="store_true", help="keep results of runs of other machines")
    parser.add_argument("--complete", action="store_true", help="print the complete runs of the table, write nothing")
    given = parser.parse_args()
    if given.complete:
        print(*complete(pd.read_csv(given.table)), sep="\n")
    else:
        write(given.table, given.runs, add=given.add)


if __name__ == "__main__":
    main()
