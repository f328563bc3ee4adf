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

SHOWN = (
    *("val_effective_rank", "log2_relative", "val_auc", "projector_effective_rank", "projector_dead_directions"),
    *("m_loss", "knn_points", "probe_points"),
)
"""The columns of tables of means."""

BY_CLASS = ("emoji",)
"""Datasets in which one class has more than half of the images: their accuracy is the mean of the classes."""

FEWEST, ALL = 500, 60_000
"""Images of the smallest subset, and of Fashion-MNIST."""

CANDIDATES = [(width, images) for width in (4, 8) for images in (16_000, ALL)]
"""The widths and images of question 1 from which the points of question 2 are chosen."""


def settings() -> pd.DataFrame:
    """The runs of runs.csv with their ``width``, whether they have the ``whole`` dataset, and the number of
    ``images``, which is NaN for a whole dataset that is not Fashion-MNIST."""
    runs = pd.read_csv(RUNS)
    runs["width"], runs["whole"] = runs["arch"].str.extract(r"_w(\d+)$")[0].astype(int), runs["images"].isna()
    runs["images"] = runs["images"].fillna(runs["data"].map({"fashion": ALL}))
    return runs


def read(path: Path) -> pd.DataFrame:
    """The rows of ``gather.py`` with ``settings``, and derived columns.

    ``log2_rank`` and ``log2_relative`` are of the effective rank of the val images, and of its ratio to the untrained
    network; ``log2_images`` and ``log2_parameters`` are of the run; accuracies in percent are ``probe_points``,
    ``knn_points``, which have no value for datasets whose accuracy is the mean of the classes. The rank of equal
    outputs is 1.
    """
    rows = pd.read_csv(path).merge(settings(), on="run", validate="many_to_one").copy()  # in one block
    for name in ("parameters", "train_images"):
        rows[name] = rows.groupby("run")[name].transform("last")
    rows["images"] = rows["images"].fillna(rows["train_images"])
    by_class = rows["data"].isin(BY_CLASS)
    rows["probe"], rows["knn"] = rows["probe"].mask(by_class, rows["probe_class"]), rows["knn"].mask(by_class)
    rows["log2_rank"] = np.log2(rows["val_effective_rank"].clip(lower=1.0))
    untrained = rows[rows["epoch"] == 0].set_index("run")
    rows["log2_relative"] = rows["log2_rank"] - rows["run"].map(untrained["log2_rank"])
    rows["untrained_probe"] = rows["run"].map(untrained["probe"])
    rows["log2_images"], rows["log2_parameters"] = np.log2(rows["images"]), np.log2(rows["parameters"])
    return rows.assign(probe_points=100 * rows["probe"], knn_points=100 * rows["knn"])


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of each complete run after its last epoch."""
    return rows[(rows["epoch"] == rows["epochs"]) & rows["probe"].notna()].reset_index(drop=True)


def planned(rows: pd.DataFrame) -> pd.DataFrame:
    """A row for each run of the plan: that of ``last``, or the settings alone of a run that is not complete."""
    known = settings()
    measured = last(rows).drop(columns=known.columns.drop("run"), errors="ignore")
    return known.merge(measured, on="run", how="left")


def means(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The means of ``SHOWN`` over the complete runs of each group, and the number of these."""
    groups = runs.dropna(subset=["val_effective_rank"]).groupby(by, dropna=False)
    table = groups[[*SHOWN]].mean().round(3)
    table.insert(0, "runs", groups.size())
    return table.reset_index().astype({"images": int})


def simsiam_iid(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of part 1a."""
    return rows[rows["part"] == "1a"]


def order_of(runs: pd.DataFrame) -> pd.Series:
    """The order of the data of runs of part 2, from their names."""
    return runs["run"].str.extract(r"^2-(\w+)-w")[0]


def points(rows: pd.DataFrame) -> pd.Series | None:
    """The ratio of the mean effective rank to that with 500 images, for each of ``CANDIDATES``: the plan takes the
    cells with the smallest and the largest one. None if a run of part 1a has neither ended nor diverged."""
    ended = set(last(rows)["run"])
    if "diverged" in rows:
        ended |= set(rows.loc[rows["diverged"].notna(), "run"])
    if not set(simsiam_iid(settings())["run"]) <= ended:
        return None
    means = simsiam_iid(last(rows)).groupby(["width", "images"])["val_effective_rank"].mean()
    return pd.Series({(width, images): means[width, images] / means[width, FEWEST] for width, images in CANDIDATES})
