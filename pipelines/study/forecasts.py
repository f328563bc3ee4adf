"""Question 4 of docs/study-plan.md: forecasts of the probe, and the choice among the checkpoints of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from estimates import bootstrap, forecast
from results import BY_CLASS, last

COMPETITORS = ("untrained_probe", "m_knn")
OF_VAL = ("val_auc", "log2_rank", "log2_relative")
OF_SPECTRUM = (
    "auc",
    "effective_rank",
    "rankme",
    "alpha",
    "participation_ratio",
    "stable_rank",
    "entropy_rank",
    "renyi_rank_half",
    "numerical_rank",
    "pseudo_condition_number",
    "total_variance",
    "dead_directions",
    "coding_rate",
)
OF_ROWS = ("feature_std", "mean_cosine", "mean_norm", "self_cluster", "w2_uniformity")
OF_BACKBONE = ("twonn", "lidar", "alignment")
MEASURES = (
    *OF_VAL,
    *(name for name in (*OF_SPECTRUM, *OF_ROWS) if name not in ("auc", "effective_rank")),
    *OF_BACKBONE,
    *(f"projector_{name}" for name in (*OF_SPECTRUM, *OF_ROWS)),
)
"""The measures of the plan: AUC and effective rank of the val images, and the others of the train images."""

CHOICES = {
    "the last": ("epoch", 1),
    "lowest loss": ("m_loss", -1),
    "highest kNN of the monitor": ("m_knn", 1),
    "lowest AUC": ("auc", -1),
    **{f"highest {name}": (name, 1) for name in ("effective_rank", "rankme", "feature_std", "lidar")},
}
"""Ways to choose a checkpoint of a run: the column, and whether its largest or smallest value is taken."""


def question(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Forecasts of the probe, and of its gain over the untrained network, by left-out groups."""
    runs = simsiam(last(rows))
    names = [name for name in MEASURES if name in runs]
    sets = [*((name,) for name in (*COMPETITORS, "m_loss", *names)), *((name, "m_loss") for name in names)]
    for target in ("probe", "gain"):
        for groups in ("network", "images"):
            yield f"{target}, {groups} left out", scores(runs, sets, target, groups)
    title = "probe, network left out, on Fashion-MNIST alone"
    yield title, scores(fashion(rows), [*sets, ("m_auc",), ("m_auc", "m_loss")], "probe", "network")
    yield "The chosen checkpoint of a run, in points of the probe below its best", choices(rows)


def simsiam(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of SimSiam but the hybrids, with the ``network`` and the ``gain`` over the untrained one."""
    found = runs[(runs["method"] == "simsiam") & runs["parent"].isna()]
    return found.assign(network=found["data"] + " " + found["arch"], gain=found["probe"] - found["untrained_probe"])


def fashion(rows: pd.DataFrame) -> pd.DataFrame:
    """The last rows of the runs of ``simsiam`` on Fashion-MNIST. The accuracy on emoji is another one, the mean of the
    classes."""
    runs = simsiam(last(rows))
    return runs[runs["data"] == "fashion"]


def scores(runs: pd.DataFrame, sets: Sequence[tuple[str, ...]], target: str, groups: str) -> pd.DataFrame:
    """The score of each set of measures. A set is useful if the lower end of its R2 is above the R2 of every competitor
    on the same runs: some measures have no value in the narrowest or most collapsed networks."""
    known: dict[tuple[int, ...], float] = {}
    found = []
    for names in sets:
        rows = runs.dropna(subset=[*names, *COMPETITORS])
        key = tuple(rows.index)
        if key not in known:
            known[key] = max(forecast(rows, [name], target, groups).r2.value for name in COMPETITORS)
        one, rival = forecast(rows, names, target, groups), known[key]
        found.append({"from": " + ".join(names), **one._asdict(), "rival": rival, "useful": one.r2.low > rival})
    return pd.DataFrame(found).round(4)


def choices(rows: pd.DataFrame) -> pd.DataFrame:
    """What each way to choose a checkpoint costs: the mean over the complete runs of SimSiam that are no hybrids, with
    an interval by a bootstrap over them, their median, and how often it takes the best. The best checkpoint is that
    with the highest accuracy on one half of the val images; accuracies are those of the other half. Datasets whose
    accuracy is the mean of the classes have no such halves."""
    complete = set(simsiam(last(rows))["run"])
    runs = rows[rows["run"].isin(complete) & ~rows["data"].isin(BY_CLASS)]
    runs = runs[(runs["epoch"] > 0) & runs["probe_even"].notna()]
    chosen, found = runs.loc[runs.groupby("run")["probe_even"].idxmax()].set_index("run"), []
    best, epochs = 100 * chosen["probe_odd"], chosen["epoch"]
    for name, (column, sign) in CHOICES.items():
        known = runs[runs[column].notna()]
        taken = known.loc[(sign * known[column]).groupby(known["run"]).idxmax()].set_index("run")
        cost = (best - 100 * taken["probe_odd"]).dropna()
        mean_cost = bootstrap(cost.to_frame("cost"), lambda r: float(r["cost"].mean()))
        same = (taken["epoch"] == epochs.loc[taken.index]).mean()
        found.append(
            {"checkpoint": name, "runs": len(cost), "points": mean_cost, "median": float(cost.median()), "best": same}
        )
    return pd.DataFrame(found)
