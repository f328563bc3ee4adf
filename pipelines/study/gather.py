"""Gathers the results of all runs into one table:  python pipelines/study/gather.py --out study/runs > study.csv

A row for each run and epoch. ``m_`` are the values of the run's own monitor, of 1,024 of its images, after every epoch;
the others are measured on the same images in all runs, after the epochs of ``run.MEASURED``. The settings of a run are
in runs.csv, and what does not change within a run is in its last row. Numbers have three digits.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import pandas as pd

import ssltool

RUNS = Path(__file__).with_name("runs.csv")
MONITORED = {
    "loss": "m_loss",
    "backbone_auc": "m_auc",
    "backbone_effective_rank": "m_effective_rank",
    "backbone_rankme": "m_rankme",
    "backbone_knn": "m_knn",
    "projector_auc": "m_projector_auc",
    "projector_effective_rank": "m_projector_effective_rank",
    "seconds": "seconds",
}
"""Columns of the run's records, and their names in the table."""

OF_THE_RUN = ("d", "projector_d", "parameters", "machine", "cpu", "ssltool")
LARGEST = 1_000_000
"""Bytes that the table may have."""


def results(folder: Path) -> pd.DataFrame:
    """The rows of a run, by epoch from 0."""
    lines = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    measured = pd.DataFrame(lines).set_index("epoch")
    records = ssltool.read_run(str(folder / "train"))
    records["epoch"] += 1  # after the epoch
    monitored = records.rename(columns=MONITORED).set_index("epoch")
    monitored = monitored[[name for name in ("step", *MONITORED.values()) if name in monitored]]
    rows = measured.combine_first(monitored).sort_index()
    rows = rows.loc[rows.index >= measured.index.min()].reset_index()  # a hybrid's records begin with its parent's
    rows["run"] = folder.name
    constant = [name for name in OF_THE_RUN if name in rows]
    last = rows[constant].ffill().iloc[-1]
    rows[constant] = None
    rows.loc[rows.index[-1], constant] = last
    return rows


def gather(folder: Path) -> pd.DataFrame:
    """The rows of all runs with results, in the order of runs.csv."""
    names = [name for name in pd.read_csv(RUNS)["run"] if (folder / name / "rows.jsonl").exists()]
    if not names:
        sys.exit(f"error: {folder} has no results; run pipelines/study/study.sh first")
    table = pd.concat([results(folder / name) for name in names], ignore_index=True)
    first = ["run", "epoch", "step", "knn", "probe", "probe_class", *MONITORED.values()]
    return table[[name for name in first if name in table] + [name for name in table if name not in first]]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("study/runs"), help="folder of the runs")
    text = gather(parser.parse_args().out).to_csv(index=False, float_format="%.3g")
    if len(text) > LARGEST:
        sys.exit(f"error: the table has {len(text):,} bytes, more than {LARGEST:,}; leave out columns in gather.py")
    sys.stdout.write(text)
