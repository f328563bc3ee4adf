"""Differences of runs with equal seeds, in families: the contrasts of docs/study-plan.md and their table.

A comparison whose runs are not complete stays in the table, without a value, so that the families are those of the
plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from estimates import holm, paired, pooled, verdict
from results import FEWEST, OUTCOMES

Row = dict[str, object]
Signs = Mapping[str, int]

MORE_IMAGES: Signs = {"log2_rank": -1, "val_auc": 1}
"""The sign of the paper's effect of more images in a small network, which collapses."""

SINGLE_PASS: Signs = {"log2_rank": 1, "val_auc": -1}
"""That of a single pass at a point that collapses."""

HYBRID: Signs = {"probe_points": 1}
"""That of a hybrid at such a point."""


class Comparison(NamedTuple):
    """The differences of pairs of runs in one outcome.

    Attributes:
        family: the name of the comparisons that are corrected together.
        what: what is compared, as columns of a table.
        outcome: a key of ``OUTCOMES``.
        pairs: (n,) the differences.
        paper: the sign of the paper's effect; None if the paper claims nothing about it.
    """

    family: str
    what: Row
    outcome: str
    pairs: np.ndarray
    paper: int | None


def contrasts(runs: pd.DataFrame, by: Sequence[str], family: str, paper: Signs | None = None) -> list[Comparison]:
    """All images minus 500, in each group of runs that has both, of runs with equal seeds."""
    found = []
    for names, group in runs.groupby(list(by)):
        ends = group[group["whole"] | (group["images"] == FEWEST)]
        if ends["whole"].nunique() == 2:
            what = dict(zip(by, names, strict=True)) | {"images": f"all - {FEWEST}"}
            found += comparison(family, what, ends, "whole", True, False, paper)
    return found


def differences(runs: pd.DataFrame, by: str, base: str, family: str, paper: Mapping[str, Signs]) -> list[Comparison]:
    """Each value of ``by`` minus ``base``, at each width and number of images. ``paper`` has the signs of the paper's
    effects by the values of ``by``."""
    found = []
    for (width, images), here in runs.groupby(["width", "images"]):
        for other in (name for name in here[by].unique() if name != base):
            what: Row = {"at": f"width {width:.0f}, {images:,.0f} images", by: other, "minus": base}
            found += comparison(family, what, here, by, other, base, paper.get(other))
    return found


def comparison(
    family: str, what: Row, runs: pd.DataFrame, by: str, one: object, other: object, paper: Signs | None = None
) -> list[Comparison]:
    """The runs whose ``by`` is ``one`` minus those of the same seed whose ``by`` is ``other``, in each outcome."""
    pairs = {outcome: paired(runs, outcome, by, one, other, ["seed"]) for outcome in OUTCOMES}
    return [Comparison(family, what, outcome, values, (paper or {}).get(outcome)) for outcome, values in pairs.items()]


def compared(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """A row for each comparison of a question. Those of an outcome share a standard deviation, and those of a family
    and an outcome Holm's correction.

    ``would show`` is the size of a true effect that excludes 0 in four of five such comparisons, uncorrected.
    """
    tables = []
    for outcome, (counts, name) in OUTCOMES.items():
        of_outcome = [one for one in comparisons if one.outcome == outcome]
        effects, p, shows = pooled([one.pairs for one in of_outcome])
        adjusted = pd.Series(p).groupby([one.family for one in of_outcome]).transform(lambda of: holm(of.to_numpy()))
        for one, effect, single, many, show in zip(of_outcome, effects, p, adjusted, shows, strict=True):
            row: Row = {"family": one.family, "outcome": name, **one.what, "pairs": len(one.pairs)}
            row |= {"sd": one.pairs.std(ddof=1) if len(one.pairs) > 1 else np.nan, "difference": effect}
            row |= {"p": single, "p (Holm)": many, "would show": show}
            word = verdict(effect, counts, one.paper, many) if len(one.pairs) else "not run"
            tables.append(row | {"verdict": word})
    return pd.DataFrame(tables)


def families(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The table of each family of ``compared``, without columns that it does not use."""
    last = ["pairs", "sd", "difference", "p", "p (Holm)", "would show", "verdict"]
    found = {}
    for name, part in table.groupby("family", sort=False):
        used = part.dropna(axis=1, how="all").drop(columns="family")
        found[str(name)] = used[[*used.columns.drop(last, errors="ignore"), *(one for one in last if one in used)]]
    return found
