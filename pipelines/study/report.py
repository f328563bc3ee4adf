"""Prints the tables of docs/study.md as Markdown:  python pipelines/study/report.py study.csv [small|1|2|3|4|5|6 ...]

The statistics are those of docs/study-plan.md. Without a number it prints all questions that have results, as the page
docs/study-tables.md. Runs of the plan that are not complete are comparisons without a value.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import capacity
import early
import forecasts
import numpy as np
import pandas as pd
import results
from comparisons import HYBRID, MORE_IMAGES, SINGLE_PASS, Comparison, compared, contrasts, differences, families
from estimates import Estimate
from results import last, means, order_of, planned, points, read, simsiam_iid

HEAD = """# Tables of the study

These are all tables of [the study](study.md), of {runs} of the {planned} runs of [its plan](study-plan.md), which
explains the statistics. Values in brackets are 95 % intervals, a cell without a value is empty. The results are those
of [`study.csv`](_static/study.csv) with the SHA-256

    {sha256}

The page is the output of

```bash
python pipelines/study/report.py docs/_static/study.csv > docs/study-tables.md
```"""
"""The beginning of docs/study-tables.md."""

HYBRIDS = ("hybrid4", "hybrid8", "hybrid12")

Tables = Iterator[tuple[str, pd.DataFrame]]


def small(rows: pd.DataFrame) -> pd.DataFrame:
    """Width 4: all images against 500, the corner of question 1 that ``make study-small`` runs."""
    runs = simsiam_iid(planned(rows))
    return compared(contrasts(runs[runs["width"] == 4], ["width"], "small", MORE_IMAGES)).drop(columns="family")


def orders(rows: pd.DataFrame) -> Tables:
    """Question 2: each order minus iid at each point, and the switching points of the hybrids against each other. The
    paper makes claims about the point that collapses, the other one is a control."""
    runs = planned(rows)
    runs = runs[runs["part"] == "2"].assign(order=order_of)
    yield "Means of the seeds", means(runs, ["width", "images", "order"])
    ratios, found = points(rows), []
    claims = {"current": SINGLE_PASS, **dict.fromkeys(HYBRIDS, HYBRID)}
    for point, here in runs.groupby(["width", "images"]):
        collapses = ratios is not None and point == ratios.idxmin()
        found += differences(here, "order", "iid", "Orders minus iid", claims if collapses else {})
    hybrids = runs[runs["order"].isin(HYBRIDS)]
    later = differences(hybrids, "order", "hybrid4", "Switching points", {})
    last = [one for one in differences(hybrids, "order", "hybrid8", "Switching points", {}) if is_later(one)]
    yield from families(compared([*found, *later, *last])).items()


def is_later(one: Comparison) -> bool:
    """Whether it is of the latest switching point, so that each pair of them is compared once."""
    return one.what["order"] == HYBRIDS[-1]


def of_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """Question 3: each setting minus the centre, and beside it the effect of the images at its width, which is not of
    the family."""
    near = near_the_centre(rows)
    found = differences(near, "setting", "centre", "Settings minus those of the centre", {})
    plane = simsiam_iid(planned(rows))
    beside = contrasts(plane[plane["width"].isin(near["width"])], ["width"], "The images at the same width")
    return compared([*found, *beside])


def near_the_centre(rows: pd.DataFrame) -> pd.DataFrame:
    """The runs of question 3, and those of question 1 with its width and images, with their ``setting``."""
    runs = planned(rows)
    runs["setting"] = runs["run"].str.extract(r"^3-(.+)-w\d+-")[0].fillna("centre")
    places = runs.loc[runs["part"] == "3", ["width", "images"]].drop_duplicates()
    return runs[runs["part"].isin(("1a", "3"))].merge(places, on=["width", "images"])


def of_methods(rows: pd.DataFrame) -> pd.DataFrame:
    """Question 6: all images against 500 in each method, and beside them SimSiam, which is not of the family."""
    runs = planned(rows)
    others = contrasts(runs[runs["part"] == "6"], ["method"], "Width 4: all images against 500")
    plane = simsiam_iid(runs)
    return compared([*others, *contrasts(plane[plane["width"] == 4], ["method"], "SimSiam")])


def settings(rows: pd.DataFrame) -> Tables:
    """The tables of question 3."""
    yield "Means of the seeds", means(near_the_centre(rows), ["width", "images", "setting"])
    yield from families(of_settings(rows)).items()


def methods(rows: pd.DataFrame) -> Tables:
    """The tables of question 6."""
    runs = planned(rows)
    yield "Means of the seeds", means(runs[runs["part"] == "6"], ["method", "images"])
    yield from families(of_methods(rows)).items()


def head(rows: pd.DataFrame, table: str) -> str:
    """The beginning of the page."""
    return HEAD.format(runs=len(last(rows)), planned=len(results.settings()), sha256=checksum(table))


def checksum(table: str) -> str:
    """The SHA-256 of the file of results, by which a page of tables is known to be of it."""
    return hashlib.sha256(Path(table).read_bytes()).hexdigest()


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table. NaN and None are empty cells."""
    text = table.map(shown)
    lines = [list(map(str, table.columns)), ["---"] * table.shape[1], *text.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(value: object) -> str:
    """A cell."""
    if isinstance(value, Estimate):
        return "" if np.isnan(value.value) else str(value)
    return "" if pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else str(value)


QUESTIONS: dict[str, Callable[[pd.DataFrame], Tables]] = {
    "1": capacity.question,
    "2": orders,
    "3": settings,
    "4": forecasts.question,
    "5": early.question,
    "6": methods,
}


def main() -> None:
    """Prints what the command line asks for."""
    if len(sys.argv) < 2 or not Path(sys.argv[1]).is_file() or not {*sys.argv[2:]} <= {"small", *QUESTIONS}:
        sys.exit(
            "error: name the table of results, and what to print of it: report.py study.csv [small|1|2|3|4|5|6 ...]"
        )
    rows = read(Path(sys.argv[1]))
    if sys.argv[2:] == ["small"]:
        print(markdown(small(rows)))
        return
    if not sys.argv[2:]:
        print(head(rows, sys.argv[1]))
    parts = set(rows["part"].astype(str).str[0]) | {"4", "5"}
    for name in sys.argv[2:] or sorted(parts):
        print(f"\n## Question {name}")
        for title, table in QUESTIONS[name](rows):
            print(f"\n### {title}\n\n{markdown(table)}")


if __name__ == "__main__":
    main()
