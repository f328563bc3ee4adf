"""Prints the tables of docs/study.md as Markdown:  python pipelines/study/report.py study.csv [small|1|2|3|4|5|6 ...]

The statistics are those of docs/study-plan.md. Without a number it prints all questions that have results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from estimates import bootstrap, first_fall, forecast, holm, mean, paired, slope, verdict
from results import OUTCOMES, last, read, simsiam_iid
from scipy.stats import page_trend_test, ttest_1samp

PAPER = {"log2_rank": -1, "auc": 1, "probe_points": -1}
"""The sign in the paper of the effect of more images in a small network."""

MEASURES = ("auc", "effective_rank", "rankme", "alpha", "feature_std", "twonn", "lidar", "projector_effective_rank")
FALLS = {
    "effective rank": ("m_effective_rank", 0.1, True),
    "rankme": ("m_rankme", 0.1, True),
    "AUC": ("m_auc", 0.01, False),
    "projector's effective rank": ("m_projector_effective_rank", 0.1, True),
    "projector's AUC": ("m_projector_auc", 0.01, False),
}
"""Question 5: the monitored value, the size of a fall, and whether it is a ratio; an AUC falls by rising."""

CHOICES = {
    "the last": ("epoch", 1),
    "lowest loss": ("m_loss", -1),
    "highest kNN of the monitor": ("m_knn", 1),
    "lowest AUC": ("auc", -1),
    **{f"highest {name}": (name, 1) for name in ("effective_rank", "rankme", "feature_std", "lidar")},
}
"""Question 4: ways to choose a checkpoint of a run: the column, and whether its largest or smallest value is taken."""

Row = dict[str, object]


def small(rows: pd.DataFrame) -> pd.DataFrame:
    """Width 4: all images against 500, the corner of question 1 that ``make study-small`` runs."""
    runs = simsiam_iid(last(rows))
    return pd.DataFrame([contrast(runs[runs["width"] == 4], outcome, 500, 60_000) for outcome in OUTCOMES])


def contrast(runs: pd.DataFrame, outcome: str, few: int, many: int) -> Row:
    """``many`` images minus ``few``, of the runs of each seed."""
    found = mean(paired(runs, outcome, "images", many, few, ["seed"]))
    counts, name = OUTCOMES[outcome]
    return {"outcome": name, f"{many:,} - {few:,} images": found, "paper": verdict(found, counts, PAPER[outcome])}


def question_1(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Cells, trends over the images in each width, and the line at constant images per parameter."""
    runs = last(rows)
    first = runs[runs["part"].isin(("1a", "1b", "1c", "1d", "1e"))]
    cell = ["part", "data", "method", "arch", "images"]
    names = ["effective_rank", "log2_relative", "auc", "projector_effective_rank", "knn_points", "probe_points"]
    yield "Means of three seeds", first.groupby(cell, dropna=False)[names].mean().round(3).reset_index()
    plane = simsiam_iid(runs)
    yield "From 500 to 60,000 images, by the slope in each width", trends(plane)
    yield "log2 (rank / untrained) on log2 images and parameters", pd.DataFrame([line(plane)])
    seeds = plane.groupby(["width", "images"])[list(OUTCOMES)].var(ddof=1).mean() ** 0.5
    yield "Standard deviation between seeds", seeds.to_frame("sigma").round(4).reset_index()


def trends(plane: pd.DataFrame) -> pd.DataFrame:
    """The slope of each outcome in each width, times the range of log2 images."""
    found = []
    for outcome, (counts, name) in OUTCOMES.items():
        for width, runs in plane.groupby("width"):
            span = float(np.ptp(runs["log2_images"]))
            effect = bootstrap(runs, lambda r, y=outcome, s=span: s * slope(r, y, "log2_images"), ["images"])
            table = runs.pivot(index="seed", columns="images", values=outcome).to_numpy()
            p = min(1.0, 2 * min(page_trend_test(one).pvalue for one in (table, table[:, ::-1])))
            word = verdict(effect, counts, PAPER[outcome])
            found.append({"outcome": name, "width": width, "effect": effect, "p": p, "paper": word})
    return with_holm(pd.DataFrame(found))


def line(plane: pd.DataFrame) -> Row:
    """The coefficients of images and parameters, and their sum; it is 0 if images per parameter decide."""

    def coefficients(runs: pd.DataFrame) -> np.ndarray:
        design = np.column_stack([np.ones(len(runs)), runs["log2_images"], runs["log2_parameters"]])
        return np.linalg.lstsq(design, runs["log2_relative"], rcond=None)[0]

    cells = ["width", "images"]
    one, two = (bootstrap(plane, lambda r, i=i: float(coefficients(r)[i]), cells) for i in (1, 2))
    return {
        "images": one,
        "parameters": two,
        "sum": bootstrap(plane, lambda r: float(coefficients(r)[1:].sum()), cells),
    }


def question_2(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each order minus iid, over both points and at each."""
    yield "Orders minus iid", beside_1a(rows, "2", "order", "iid")


def question_3(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each setting minus the centre."""
    yield "Settings minus those of the centre", beside_1a(rows, "3", "setting", "centre")


def beside_1a(rows: pd.DataFrame, part: str, by: str, base: str) -> pd.DataFrame:
    """The runs of a part, named after what they change, minus those of 1a at the same points: the ``base``."""
    runs, points = last(rows), ["width", "images"]
    runs[by] = runs["run"].str.extract(rf"^{part}-(.+)-w\d+-")[0].fillna(base)
    places = runs[runs["part"] == part][points].drop_duplicates()
    near = runs[runs["part"].isin(("1a", part))].merge(places, on=points)
    return differences(near, by, base, points)


def differences(runs: pd.DataFrame, by: str, base: str, points: list[str]) -> pd.DataFrame:
    """Each value of ``by`` minus ``base``, at each of the points and, if there are several, over all."""
    found = []
    places = [("all", runs)] if len(runs[points].drop_duplicates()) > 1 else []
    places += [(" ".join(f"{n}={v:.0f}" for n, v in zip(points, at, strict=True)), r) for at, r in runs.groupby(points)]
    for (place, here), outcome in ((p, o) for p in places for o in OUTCOMES):
        for other in sorted(set(here[by]) - {base}):
            pairs = paired(here, outcome, by, other, base, [*points, "seed"])
            effect = {"difference": mean(pairs), "p": ttest_1samp(pairs, 0).pvalue}
            found.append({"outcome": OUTCOMES[outcome][1], "at": place, by: other} | effect)
    return with_holm(pd.DataFrame(found))


def with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """Adds ``p (Holm)``, adjusted within each outcome."""
    return table.assign(**{"p (Holm)": table.groupby("outcome")["p"].transform(lambda p: holm(p.to_numpy()))})


def question_4(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Forecasts of the probe, and of its gain over the untrained network, by left-out groups."""
    runs = last(rows)
    runs["network"], runs["gain"] = runs["data"] + " " + runs["arch"], runs["probe"] - runs["untrained_probe"]
    runs = runs[(runs["method"] == "simsiam") & runs["gain"].notna()]
    runs["size"] = runs["images"].fillna(0)
    sets = [("untrained_probe",), ("m_knn",), *((m,) for m in MEASURES), ("m_loss",)]
    sets += [("auc", "m_loss"), *((m, "m_loss") for m in MEASURES if m != "auc"), *combinations(MEASURES[:4], 2)]
    for target in ("probe", "gain"):
        for groups in ("network", "size"):
            found = []
            for names in sets:
                scores = forecast(runs, names, target, groups)
                found.append({"from": " + ".join(names), "R2": scores.r2, "rank": scores.rank, "error": scores.error})
            yield f"{target}, {groups} left out, {len(runs)} runs of SimSiam", pd.DataFrame(found).round(4)
    yield "The chosen checkpoint of a run, in points of the probe below its best", choices(rows)


def choices(rows: pd.DataFrame) -> pd.DataFrame:
    """What each way to choose a checkpoint costs: the mean over the runs of SimSiam that were measured more than once,
    with an interval by a bootstrap over them, and how often it takes the best."""
    runs = rows[(rows["method"] == "simsiam") & (rows["epoch"] > 0) & rows["probe"].notna()]
    runs = runs[runs.groupby("run")["probe"].transform("size") > 1]
    best, found = runs.groupby("run")["probe_points"].max(), []
    for name, (column, sign) in CHOICES.items():
        known = runs[runs[column].notna()]
        taken = known.loc[(sign * known[column]).groupby(known["run"]).idxmax()].set_index("run")["probe_points"]
        cost = (best - taken).dropna()
        mean_cost = bootstrap(cost.to_frame("cost"), lambda r: float(r["cost"].mean()))
        found.append({"checkpoint": name, "runs": len(cost), "points": mean_cost, "best": (cost == 0).mean()})
    return pd.DataFrame(found)


def question_5(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """How many steps before the accuracy each measure falls."""
    starts = pd.DataFrame({run: falls(table) for run, table in rows[rows["epoch"] > 0].groupby("run")}).T.astype(float)
    fell = starts["accuracy"].notna()
    steps, found = int(rows["steps_per_epoch"].iloc[0]), []
    for name in starts.columns.drop("accuracy"):
        lead = ((starts["accuracy"] - starts[name])[fell]).dropna() * steps
        row: Row = {"measure": name, "falls": starts[name].notna().sum(), "alone": (starts[name].notna() & ~fell).sum()}
        row |= {"accuracy falls": fell.sum(), "before it": (lead > 0).sum()}
        if len(lead) > 1:
            row["lead in steps"] = bootstrap(lead.to_frame("lead"), lambda r: float(r["lead"].median()))
        found.append(row)
    yield "Falls, and by how many steps they precede that of the accuracy", pd.DataFrame(found)


def falls(run: pd.DataFrame) -> dict[str, int | None]:
    """The epoch, from 0, at which each monitored value falls."""
    found = {"accuracy": first_fall(run["m_knn"], 0.03)}
    for name, (column, size, ratio) in FALLS.items():
        if column in run and run[column].notna().all():
            values = np.log(run[column]) if ratio else -run[column]
            found[name] = first_fall(values, -np.log(1 - size) if ratio else size)
    return found


def question_6(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """All images against 500, in each method."""
    runs = last(rows)
    runs = runs[(runs["part"] == "6") | ((runs["part"] == "1a") & (runs["width"] == 4))]
    found = [
        {"method": method} | contrast(group, outcome, 500, 60_000)
        for method, group in runs.groupby("method")
        for outcome in OUTCOMES
    ]
    yield "Width 4: 60,000 images against 500", pd.DataFrame(found)


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table."""
    text = table.map(lambda value: f"{value:.4g}" if isinstance(value, float) else str(value))
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *text.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


QUESTIONS: dict[str, Callable[[pd.DataFrame], Iterator[tuple[str, pd.DataFrame]]]] = {
    "1": question_1,
    "2": question_2,
    "3": question_3,
    "4": question_4,
    "5": question_5,
    "6": question_6,
}


def main() -> None:
    """Prints what the command line asks for."""
    if len(sys.argv) < 2:
        sys.exit("error: name the table of results, as in report.py study.csv 1")
    rows = read(Path(sys.argv[1]))
    if sys.argv[2:] == ["small"]:
        print(markdown(small(rows)))
        return
    parts = set(rows["part"].astype(str).str[0]) | {"4", "5"}
    for name in sys.argv[2:] or sorted(parts):
        for title, table in QUESTIONS[name](rows):
            print(f"\n## {name}: {title}\n\n{markdown(table)}")


if __name__ == "__main__":
    main()
