"""Gathers the results of all runs into one table:  python pipelines/study/gather.py study.csv --runs study/runs

A row for each run and epoch. ``m_`` are the values of the run's own monitor, of 1,024 of its images, after every epoch;
the others are measured on the same images in all runs, after the epochs of ``run.MEASURED``. The settings of a run are
in runs.csv, and what does not change within a run is in its last row. Numbers have three digits, those that differ
little between runs four. Beside the table, study.npz has the singular values of each run, untrained and at its end. The
files are replaced as a whole; runs without results are named on stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
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
    records = ssltool.read_run(str(folder / "train"))
    records["epoch"] += 1  # after the epoch
    monitored = records.rename(columns=MONITORED).set_index("epoch")
    monitored = monitored[[name for name in ("step", *MONITORED.values()) if name in monitored]]
    table = measured.combine_first(monitored).sort_index()
    table = table.loc[(table.index > parent_epochs) | (table.index == 0) & (parent_epochs == 0)].reset_index()
    table["run"] = folder.name
    constant = [name for name in OF_THE_RUN if name in table]
    last = table[constant].ffill().iloc[-1]
    table[constant] = None
    table.loc[table.index[-1], constant] = last
    ended = times(folder) | {"diverged": (folder / "diverged.txt").exists() or None}
    for name, value in ended.items():
        table[name] = None
        table.loc[table.index[-1], name] = value
    return table


def times(folder: Path) -> dict[str, float]:
    """The seconds of the training: the sum of all its starts that ended by themselves."""
    file = folder / "times.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {name: sum(line[name] for line in lines) for name in ("training_seconds", "training_cpu_seconds")}


def gather(folder: Path) -> pd.DataFrame:
    """The rows of all runs with results, in the order of runs.csv."""
    runs = pd.read_csv(RUNS).set_index("run")
    found = [name for name in runs.index if (folder / name / "train" / "metrics.jsonl").exists()]
    if not found:
        sys.exit(f"error: {folder} has no results; run pipelines/study/study.sh first")
    missing = [name for name in runs.index if name not in found]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        print(f"{len(missing)} of {len(runs)} runs have no results: {', '.join(missing[:5])}{more}", file=sys.stderr)
    parents = runs["parent_epochs"].fillna(0).astype(int)
    table = pd.concat([results(folder / name, parents[name]) for name in found], ignore_index=True)
    first = ["run", "epoch", "step", "knn", "probe", "probe_class", *MONITORED.values()]
    return table[[name for name in first if name in table] + [name for name in table if name not in first]]


def text_of(table: pd.DataFrame) -> str:
    """The table as CSV."""
    shown = table.copy()
    for name in shown.select_dtypes("number"):
        digits = 4 if any(part in name for part in PRECISE) else 3
        whole = (shown[name].dropna() % 1 == 0).all()
        shown[name] = shown[name].map(
            lambda x, d=digits, w=whole: f"{x:.0f}" if w else f"{x:.{d}g}", na_action="ignore"
        )
    return shown.to_csv(index=False)


def spectra(folder: Path) -> dict[str, np.ndarray]:
    """The singular values of the runs before training and at their ends, as float32, by run, epoch and layer."""
    found = {}
    for file in sorted(folder.glob("*/spectra.npz")):
        with np.load(file) as kept:
            last = max(int(name.split("_")[0].removeprefix("epoch")) for name in kept.files)
            for name in kept.files:
                if name.startswith((f"epoch{last}_", "epoch0_")):
                    found[f"{file.parent.name}/{name}"] = kept[name]
    return found


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="the file to write")
    parser.add_argument("--runs", type=Path, default=Path("study/runs"), help="folder of the runs")
    given = parser.parse_args()
    text = text_of(gather(given.runs))
    if len(text) > LARGEST:
        sys.exit(f"error: the table has {len(text):,} bytes, more than {LARGEST:,}; leave out columns in gather.py")
    given.table.parent.mkdir(parents=True, exist_ok=True)
    part = given.table.with_suffix(".part")
    part.write_text(text)
    os.replace(part, given.table)
    part = given.table.with_suffix(".part.npz")
    np.savez_compressed(part, **spectra(given.runs))
    os.replace(part, given.table.with_suffix(".npz"))


if __name__ == "__main__":
    main()
