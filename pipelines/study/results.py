"""Reads the table of results of the study together with the settings of its runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

RUNS = Path(__file__).with_name("runs.csv")
OUTCOMES = {
    "log2_rank": (0.15, "effective rank (log2)"),
    "val_auc": (0.01, "AUC"),
    "probe_points": (1.0, "probe (points)"),
}
"""Primary outcomes: the smallest effect that counts, and the name. All are of val images, which no run trained on."""

BY_CLASS = ("emoji",)
"""Datasets in which one class has more than half of the images: their accuracy is the mean of the classes."""


def read(path: Path) -> pd.DataFrame:
    """The rows of ``gather.py`` with the columns of runs.csv, and derived ones.

    ``log2_rank`` and ``log2_relative`` are of the effective rank of the val images, and of its ratio to the untrained
    network; ``log2_images`` and ``log2_parameters`` are of the run; accuracies in percent are ``probe_points``,
    ``knn_points``.
    """
    runs = pd.read_csv(RUNS)
    rows = pd.read_csv(path).merge(runs, on="run", validate="many_to_one").copy()  # in one block
    for name in ("parameters", "train_images"):
        rows[name] = rows.groupby("run")[name].transform("last")
    rows["images"] = rows["images"].fillna(rows["train_images"])
    rows["width"] = rows["arch"].str.extract(r"_w(\d+)$")[0].astype(int)
    rows["probe"] = rows["probe"].mask(rows["data"].isin(BY_CLASS), rows["probe_class"])
    untrained = rows[rows["epoch"] == 0].set_index("run")
    rows["log2_rank"] = np.log2(rows["val_effective_rank"])
    rows["log2_relative"] = rows["log2_rank"] - rows["run"].map(np.log2(untrained["val_effective_rank"]))
    rows["untrained_probe"] = rows["run"].map(untrained["probe"])
    rows["log2_images"], rows["log2_parameters"] = np.log2(rows["images"]), np.log2(rows["parameters"])
    return rows.assign(probe_points=100 * rows["probe"], knn_points=100 * rows["knn"])


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of each run after its last epoch."""
    return rows[rows["epoch"] == rows["epochs"]].reset_index(drop=True)


def simsiam_iid(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of part 1a."""
    return rows[rows["part"] == "1a"]
