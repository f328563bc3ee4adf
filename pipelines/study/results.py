"""Reads the table of results of the study together with the settings of its runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

RUNS = Path(__file__).with_name("runs.csv")
ALL = {"fashion": 60_000, "emoji": 6_050}
"""All train images of a dataset."""

OUTCOMES = {"log2_rank": (0.15, "effective rank (log2)"), "auc": (0.01, "AUC"), "probe_points": (1.0, "probe (points)")}
"""Primary outcomes: the smallest effect that counts, and the name."""


def read(path: Path) -> pd.DataFrame:
    """The rows of ``gather.py`` with the columns of runs.csv, and derived ones.

    ``log2_rank`` and ``log2_relative`` are of the effective rank, and of its ratio to the untrained network;
    ``log2_images`` and ``log2_parameters`` are of the run; accuracies in percent are ``probe_points``, ``knn_points``.
    """
    runs = pd.read_csv(RUNS)
    rows = pd.read_csv(path).merge(runs, on="run", validate="many_to_one")
    rows["images"] = rows["images"].fillna(rows["data"].map(ALL))
    rows["width"] = rows["arch"].str.extract(r"_w(\d+)$")[0].astype(int)
    rows["parameters"] = rows.groupby("run")["parameters"].transform("last")
    untrained = rows[rows["epoch"] == 0].set_index("run")
    rows["log2_rank"] = np.log2(rows["effective_rank"])
    rows["log2_relative"] = rows["log2_rank"] - rows["run"].map(np.log2(untrained["effective_rank"]))
    rows["untrained_probe"] = rows["run"].map(untrained["probe"])
    rows["log2_images"], rows["log2_parameters"] = np.log2(rows["images"]), np.log2(rows["parameters"])
    return rows.assign(probe_points=100 * rows["probe"], knn_points=100 * rows["knn"])


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of each run after its last epoch."""
    return rows[rows["epoch"] == rows["epochs"]].reset_index(drop=True)


def simsiam_iid(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of part 1a."""
    return rows[rows["part"] == "1a"]
