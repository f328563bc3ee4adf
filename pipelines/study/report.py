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
from estimates import bootstrap, first_fall, forecast, holm, paired, pooled, slope, slope_interval, verdict
from results import OUTCOMES, last, read, simsiam_iid
from scipy.stats import page_trend_test

PAPER = {"log2_rank": -1, "val_auc": 1, "probe_points": -1}
"""The sign in the paper of the effect of more images in a small network, which collapses more."""

COMPETITORS = ("untrained_probe", "m_knn")
MEASURES = (
    "val_auc",
    "log2_rank",
    "log2_relative",
    "rankme",
    "alpha",
    "feature_std",
    "twonn",
    "lidar",
    "projector_effective_rank",
)
FALLS = {
    "effective rank": ("m_effective_rank", 0.1, True),
    "rankme": ("m_rankme", 0.1, True),
    "AUC": ("m_auc", 0.01, False),
    "projector's effective rank": ("m_projector_effective_rank", 0.1, True),
    "projector's AUC": ("m_projector_auc", 0.01, False),
}
"""Question 5: the monitored value, the size of a fall, and whether it is a ratio; an AUC falls by rising."""

MONITORED_IMAGES = 4000
"""Question 5 takes runs with at least so many images: the monitor of others has too few for its accuracy."""

CHOICES = {
    "the last": ("epoch", 1),
    "lowest loss": ("m_loss", -1),
    "highest kNN of the monitor": ("m_knn", 1),
    "lowest AUC": ("auc", -1),
    **{f"highest {name}": (name, 1) for name in ("effective_rank", "rankme", "feature_std", "lidar")},
}
"""Question 4: ways to choose a checkpoint of a run: the column, and whether its largest or smallest value is taken."""

Row = dict[str, object]
Comparison = tuple[Row, str, np.ndarray, int]
"""What is compared, the outcome, the differences of pairs of runs, and the sign of the paper's effect."""


def small(rows: pd.DataFrame) -> pd.DataFrame:
    """Width 4: all images against 500, the corner of question 1 that ``make study-small`` runs."""
    runs = simsiam_iid(last(rows))
    return compared(contrasts(runs[runs["width"] == 4], ["width"]))


def contrasts(runs: pd.DataFrame, by: list[str]) -> list[Comparison]:
    """The most images minus 500, in each group of runs, of runs with equal seeds."""
    found: list[Comparison] = []
    for names, group in runs.groupby(by):
        many = group["images"].max()
        if group["images"].min() == 500 < many:
            what: Row = dict(zip(by, names, strict=True)) | {"images": f"{many:,.0f} - 500"}
            pairs = {y: paired(group, y, "images", many, 500, ["seed"]) for y in OUTCOMES}
            found += [(what, y, values, PAPER[y]) for y, values in pairs.items()]
    return found


def compared(comparisons: list[Comparison]) -> pd.DataFrame:
    """A row for each comparison. Those of an outcome are one family: they share a standard deviation and Holm's
    correction."""
    found = []
    for outcome, (counts, name) in OUTCOMES.items():
        family = [one for one in comparisons if one[1] == outcome]
        if not family:
            continue
        effects, p = pooled([pairs for _, _, pairs, _ in family])
        adjusted = holm(p)
        for (what, _, pairs, sign), effect, one, many in zip(family, effects, p, adjusted, strict=True):
            row: Row = {
                "outcome": name,
                **what,
                "pairs": len(pairs),
                "sd": pairs.std(ddof=1),
                "difference": effect,
                "p": one,
                "p (Holm)": many,
            }
            found.append(row | {"paper": verdict(effect, counts, sign, many)})
    return pd.DataFrame(found)


def question_1(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Cells, trends over the images in each width, and the line at constant images per parameter."""
    runs = last(rows)
    first = runs[runs["part"].isin(("1a", "1b", "1c", "1d", "1e"))]
    cell = ["part", "data", "method", "arch", "images"]
    names = ["val_effective_rank", "log2_relative", "val_auc", "projector_effective_rank", "knn_points", "probe_points"]
    yield "Means of three seeds", first.groupby(cell, dropna=False)[names].mean().round(3).reset_index()
    plane = simsiam_iid(runs)
    yield "From 500 to 60,000 images, by the slope in each width", trends(plane)
    yield "The slope of the narrowest width minus that of the widest", pd.DataFrame([slopes(plane)])
    beside = first[first["part"] != "1a"]
    yield "All images against 500, in the other parts", compared(contrasts(beside, ["part", "arch"]))
    yield "log2 (rank / untrained) on log2 images and parameters", pd.DataFrame([line(plane)])
    seeds = plane.groupby(["width", "images"])[list(OUTCOMES)].var(ddof=1).mean() ** 0.5
    yield "Standard deviation between seeds", seeds.to_frame("sigma").round(4).reset_index()


def trends(plane: pd.DataFrame) -> pd.DataFrame:
    """The slope of each outcome in each width, times the range of log2 images: by a t interval, and by a bootstrap."""
    found = []
    for outcome, (_, name) in OUTCOMES.items():
        for width, runs in plane.groupby("width"):
            span = float(np.ptp(runs["log2_images"]))
            effect = slope_interval(runs, outcome, "log2_images", span)
            drawn = bootstrap(runs, lambda r, y=outcome, s=span: s * slope(r, y, "log2_images"), ["images"])
            table = runs.pivot(index="seed", columns="images", values=outcome).to_numpy()
            p = min(1.0, 2 * min(page_trend_test(one).pvalue for one in (table, table[:, ::-1])))
            found.append({"outcome": name, "width": width, "effect": effect, "bootstrap": drawn, "p": p})
    table = pd.DataFrame(found)
    table["p (Holm)"] = table.groupby("outcome")["p"].transform(lambda p: holm(p.to_numpy()))
    signs = {name: (counts, PAPER[outcome]) for outcome, (counts, name) in OUTCOMES.items()}
    words = [verdict(row["effect"], *signs[row["outcome"]], row["p (Holm)"]) for _, row in table.iterrows()]
    return table.assign(paper=words)


def slopes(plane: pd.DataFrame) -> Row:
    """The difference of the slopes of the narrowest and the widest network, for each outcome."""
    narrow, wide = plane["width"].min(), plane["width"].max()
    span = float(np.ptp(plane["log2_images"]))

    def difference(runs: pd.DataFrame, y: str) -> float:
        of = [slope(runs[runs["width"] == width], y, "log2_images") for width in (narrow, wide)]
        return span * (of[0] - of[1])

    both = plane[plane["width"].isin((narrow, wide))]
    cells = ["width", "images"]
    return {name: bootstrap(both, lambda r, y=y: difference(r, y), cells) for y, (_, name) in OUTCOMES.items()}


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
    """Each order minus iid at each point, and the switching points of the hybrids against each other."""
    runs = last(rows)
    runs = runs[runs["part"] == "2"].assign(order=lambda r: r["run"].str.extract(r"^2-(\w+)-w")[0])
    yield "Orders minus iid", compared(differences(runs, "order", "iid"))
    hybrids = runs[runs["order"].str.startswith("hybrid")]
    later = [one for one in differences(hybrids, "order", "hybrid8") if one[0]["order"] == "hybrid12"]
    yield "Switching points", compared([*differences(hybrids, "order", "hybrid4"), *later])


def question_3(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each setting minus the centre, and beside it the effect of the images at its width."""
    settings, images = of_settings(rows)
    yield "Settings minus those of the centre", compared(settings)
    yield "The images at the same width", compared(images)


def of_settings(rows: pd.DataFrame) -> tuple[list[Comparison], list[Comparison]]:
    """The comparisons of question 3: of settings, and of images."""
    runs = last(rows)
    runs["setting"] = runs["run"].str.extract(r"^3-(.+)-w\d+-")[0].fillna("centre")
    places = runs.loc[runs["part"] == "3", ["width", "images"]].drop_duplicates()
    near = runs[runs["part"].isin(("1a", "3"))].merge(places, on=["width", "images"])
    plane = simsiam_iid(runs)
    images = contrasts(plane[plane["width"].isin(places["width"])], ["width"])
    return differences(near, "setting", "centre"), images


def differences(runs: pd.DataFrame, by: str, base: str) -> list[Comparison]:
    """Each value of ``by`` minus ``base``, at each width and number of images. The sign of the paper's effect is that
    of less collapse."""
    found: list[Comparison] = []
    for (width, images), here in runs.groupby(["width", "images"]):
        for other in sorted(set(here[by]) - {base}):
            what: Row = {"at": f"width {width:.0f}, {images:,.0f} images", by: other, "minus": base}
            for outcome in OUTCOMES:
                found.append((what, outcome, paired(here, outcome, by, other, base, ["seed"]), -PAPER[outcome]))
    return found


def question_4(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Forecasts of the probe, and of its gain over the untrained network, by left-out groups."""
    runs = last(rows)
    runs["network"], runs["gain"] = runs["data"] + " " + runs["arch"], runs["probe"] - runs["untrained_probe"]
    runs = runs[(runs["method"] == "simsiam") & runs["gain"].notna()]
    runs["size"] = runs["images"].fillna(0)
    sets = [*((m,) for m in (*COMPETITORS, *MEASURES)), ("m_loss",)]
    sets += [*((m, "m_loss") for m in MEASURES), *combinations(MEASURES[:4], 2)]
    sets += [("m_auc",), ("m_auc", "m_loss")]  # of the own monitor, as in the forecast that fit_forecast.py writes
    for target in ("probe", "gain"):
        for groups in ("network", "size"):
            scores = {names: forecast(runs, names, target, groups) for names in sets}
            rival = max(scores[(name,)].r2.value for name in COMPETITORS)
            found = [
                {"from": " + ".join(names), **one._asdict(), "useful": one.r2.low > rival}
                for names, one in scores.items()
            ]
            yield f"{target}, {groups} left out, {len(runs)} runs of SimSiam", pd.DataFrame(found).round(4)
    yield "The chosen checkpoint of a run, in points of the probe below its best", choices(rows)


def choices(rows: pd.DataFrame) -> pd.DataFrame:
    """What each way to choose a checkpoint costs: the mean over the runs of SimSiam that were measured more than once,
    with an interval by a bootstrap over them, and how often it takes the best. The best checkpoint is that with the
    highest accuracy on one half of the val images; accuracies are those of the other half."""
    runs = rows[(rows["method"] == "simsiam") & (rows["epoch"] > 0) & rows["probe_even"].notna()]
    runs = runs[runs.groupby("run")["probe_even"].transform("size") > 1]
    chosen, found = runs.loc[runs.groupby("run")["probe_even"].idxmax()].set_index("run"), []
    best, epochs = 100 * chosen["probe_odd"], chosen["epoch"]
    for name, (column, sign) in CHOICES.items():
        known = runs[runs[column].notna()]
        taken = known.loc[(sign * known[column]).groupby(known["run"]).idxmax()].set_index("run")
        cost = (best - 100 * taken["probe_odd"]).dropna()
        mean_cost = bootstrap(cost.to_frame("cost"), lambda r: float(r["cost"].mean()))
        same = (taken["epoch"] == epochs.loc[taken.index]).mean()
        found.append({"checkpoint": name, "runs": len(cost), "points": mean_cost, "best": same})
    return pd.DataFrame(found)


def question_5(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """How many steps before the accuracy each measure falls, in runs of SimSiam that start from the beginning."""
    whole = rows["parent"].isna() & (rows["method"] == "simsiam") & (rows["images"] >= MONITORED_IMAGES)
    tables = rows[whole & (rows["epoch"] > 0)].groupby("run")
    starts = pd.DataFrame({run: falls(table) for run, table in tables}).T.astype(float)
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
    yield "Width 4: 60,000 images against 500", compared(of_methods(rows))


def of_methods(rows: pd.DataFrame) -> list[Comparison]:
    """The comparisons of question 6."""
    runs = last(rows)
    return contrasts(runs[(runs["part"] == "6") | ((runs["part"] == "1a") & (runs["width"] == 4))], ["method"])


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
