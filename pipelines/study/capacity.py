"""Question 1 of docs/study-plan.md: capacity against data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from comparisons import MORE_IMAGES, Comparison, Row, compared, comparison, contrasts, families
from estimates import Estimate, Slope, bootstrap, holm, page, paired, pooled, slope, slope_in_blocks, verdict
from results import ALL, FEWEST, OUTCOMES, last, means, planned, points, simsiam_iid

SPAN = float(np.log2(ALL / FEWEST))
"""From 500 to 60,000 images, in powers of two."""

SECONDARY = (
    "val_rankme",
    "rankme",
    "alpha",
    "val_feature_std",
    "val_dead_directions",
    "participation_ratio",
    "stable_rank",
    "twonn",
    "lidar",
    "alignment",
    "projector_auc",
    "projector_effective_rank",
    "projector_rankme",
    "knn_points",
    "m_loss",
)
"""Measures whose effects are reported without a verdict."""


def question(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Cells, trends over the images in each width, the other networks, and the line at constant images per
    parameter."""
    runs, plane = planned(rows), simsiam_iid(last(rows))
    yield "Means of the seeds", cells(rows)
    if plane["images"].nunique() > 1:
        yield "From 500 to 60,000 images, by the slope in each width", trends(simsiam_iid(runs))
        yield "The slope of the narrowest width minus that of the widest", slopes(simsiam_iid(runs))
        yield "log2 (rank / untrained) on log2 images and parameters", line(plane)
        seeds = plane.groupby(["width", "images"])[list(OUTCOMES)].var(ddof=1).mean() ** 0.5
        yield "Standard deviation between seeds", seeds.to_frame("sigma").round(4).reset_index()
    yield from families(compared([*other_networks(runs), *supervised(runs)])).items()
    yield "60,000 images minus 500, by the number of steps", growth(rows)
    yield "60,000 images minus 500, secondary measures", secondary(plane)
    ratios = points(rows)
    if ratios is not None:
        yield "Rank relative to that with 500 images", ratios.rename_axis(["width", "images"]).reset_index(name="ratio")


def cells(rows: pd.DataFrame) -> pd.DataFrame:
    """Means of the seeds, their number, and the standard deviations of the rank relative to the untrained network."""
    runs = last(rows)
    runs = runs[runs["part"].isin(("1a", "1b", "1c", "1d", "1e"))]
    cell = ["part", "data", "method", "arch", "images"]
    table = means(runs, cell)
    spread = runs.groupby(cell, dropna=False)["log2_relative"].std().round(3)
    table.insert(table.columns.get_loc("log2_relative") + 1, "its sd", spread.to_numpy())
    return table


def trends(plane: pd.DataFrame) -> pd.DataFrame:
    """The slope of each outcome in each width, times the range of log2 images: by a t interval, and by a bootstrap.
    The slopes of the ratio to the untrained network are those of the rank, since it is the same for all numbers of
    images. The paper makes claims about small networks, so only the narrowest one is compared with it."""
    found: list[Row] = []
    for outcome, (_, name) in OUTCOMES.items():
        for width, every in plane.groupby("width"):
            runs, row = every.dropna(subset=[outcome]), {"outcome": name, "width": width}
            if runs["images"].nunique() < 2:
                found.append(row | {"runs": len(runs), "effect": Estimate(np.nan), "p": np.nan})
                continue
            fitted = slope_in_blocks(runs, outcome, "log2_images")
            drawn = bootstrap(runs, lambda r, y=outcome: SPAN * slope(r, y, "log2_images"), ["images"])
            p = page(every.pivot(index="seed", columns="images", values=outcome))
            row |= {"runs": len(runs), "effect": fitted.interval(SPAN), "bootstrap": drawn, "p": p}
            found.append(row | {"would show": fitted.detectable(SPAN)})
    table = pd.DataFrame(found)
    table["p (Holm)"] = table.groupby("outcome")["p"].transform(lambda p: holm(p.to_numpy()))
    narrowest = plane["width"].min()
    signs = {name: (counts, MORE_IMAGES.get(outcome)) for outcome, (counts, name) in OUTCOMES.items()}
    words = []
    for _, row in table.iterrows():
        counts, sign = signs[row["outcome"]]
        word = verdict(row["effect"], counts, sign if row["width"] == narrowest else None, row["p (Holm)"])
        words.append("not run" if np.isnan(row["effect"].value) else word)
    return table.assign(verdict=words)


def slopes(plane: pd.DataFrame) -> pd.DataFrame:
    """The difference of the slopes of the narrowest and the widest network, for each outcome. The paper: the narrow
    network collapses more with more images."""
    narrow, wide = plane["width"].min(), plane["width"].max()
    both, found = plane[plane["width"].isin((narrow, wide))].dropna(subset=[*OUTCOMES]), []
    ends = both[both["images"].isin((FEWEST, ALL))]

    def difference(runs: pd.DataFrame, y: str) -> float:
        of = [slope(runs[runs["width"] == width], y, "log2_images") for width in (narrow, wide)]
        return SPAN * (of[0] - of[1])

    for outcome, (counts, name) in OUTCOMES.items():
        row: Row = {"outcome": name, "widths": f"{narrow} - {wide}"}
        if ends.groupby(["width", "images"]).ngroups < 4:
            found.append(row | {"difference": Estimate(np.nan), "verdict": "not run"})
            continue
        effect = bootstrap(both, lambda r, y=outcome: difference(r, y), ["width", "images"])
        found.append(row | {"difference": effect, "verdict": verdict(effect, counts, MORE_IMAGES.get(outcome))})
    return pd.DataFrame(found)


def line(plane: pd.DataFrame) -> pd.DataFrame:
    """The coefficients of images and parameters, and their sum, which is 0 if images per parameter decide.

    The coefficient of the images is that within the runs of one width and seed, which share the untrained network; that
    of the parameters is between the means of these blocks.
    """
    of_images = slope_in_blocks(plane, "log2_relative", "log2_images", ["width", "seed"])
    rest = plane.assign(rest=plane["log2_relative"] - of_images.value * plane["log2_images"])
    means = rest.groupby(["width", "seed"])[["rest", "log2_parameters"]].mean().reset_index().assign(all=0)
    of_parameters = slope_in_blocks(means, "rest", "log2_parameters", ["all"])
    both = of_images + of_parameters
    names = ("images", "parameters", "sum")
    row: Row = {name: of.interval() for name, of in zip(names, (of_images, of_parameters, both), strict=True)}
    return pd.DataFrame([row | {"line": is_line(of_images, both)}])


def is_line(of_images: Slope, both: Slope) -> bool:
    """Whether the images matter, and the sum of the coefficients is within half of theirs."""
    images, total = of_images.interval(), both.interval()
    half = abs(images.value) / 2
    return bool((images.low > 0 or images.high < 0) and -half < total.low and total.high < half)


def other_networks(runs: pd.DataFrame) -> list[Comparison]:
    """All images minus 500 in parts 1b to 1e."""
    beside = runs[runs["part"].isin(("1b", "1c", "1d", "1e"))]
    return contrasts(beside, ["part", "method", "data", "arch"], "All images against 500, in the other parts")


def supervised(runs: pd.DataFrame) -> list[Comparison]:
    """SimSiam minus the supervised network, in each width with all images of Fashion-MNIST."""
    both = runs[runs["part"].isin(("1a", "1b", "1e")) & (runs["data"] == "fashion") & runs["whole"]]
    found: list[Comparison] = []
    for width, here in both.groupby("width"):
        what: Row = {"width": width, "images": ALL}
        found += comparison("SimSiam minus supervised", what, here, "method", "simsiam", "supervised")
    return found


def growth(rows: pd.DataFrame) -> pd.DataFrame:
    """The effect of the images on the effective rank (log2) after each measured number of steps, by width."""
    measured = simsiam_iid(rows).dropna(subset=["probe"])
    return pd.DataFrame([{"step": step} | by_width(runs, "log2_rank") for step, runs in measured.groupby("step")])


def secondary(plane: pd.DataFrame) -> pd.DataFrame:
    """The effect of the images on the secondary measures, by width, each with a t interval."""
    return pd.DataFrame([{"measure": name} | by_width(plane, name) for name in SECONDARY if name in plane])


def by_width(plane: pd.DataFrame, measure: str) -> Row:
    """60,000 images minus 500, for each width; the intervals share one standard deviation."""
    widths = {width: paired(runs, measure, "images", ALL, FEWEST, ["seed"]) for width, runs in plane.groupby("width")}
    effects = pooled(list(widths.values())).effects
    return {f"width {width}": effect for width, effect in zip(widths, effects, strict=True)}
