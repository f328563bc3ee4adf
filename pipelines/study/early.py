"""Question 5 of docs/study-plan.md: how many steps before the accuracy each measure of the monitor falls."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from comparisons import Row
from estimates import bootstrap, first_fall

ACCURACY = 0.03
"""A fall of the monitor's kNN accuracy."""

FALLS = {
    "effective rank": ("m_effective_rank", 0.1, True),
    "rankme": ("m_rankme", 0.1, True),
    "AUC": ("m_auc", 0.01, False),
    "projector's effective rank": ("m_projector_effective_rank", 0.1, True),
    "projector's AUC": ("m_projector_auc", 0.01, False),
}
"""The monitored value, the size of a fall, and whether it is a ratio; an AUC falls by rising."""

THRESHOLDS: dict[str, tuple[Callable[[pd.DataFrame], pd.Series], tuple[float, ...]]] = {
    "feature_std": (lambda run: run["m_feature_std"], (0.1, 0.2, 0.3)),
    "effective rank / d": (lambda run: run["m_effective_rank"] / run["d"], (0.05, 0.1, 0.2)),
    "directions that are not dead": (lambda run: 1 - run["m_dead_directions"], (0.95, 0.85, 0.7)),
}
"""What the verdict on the backbone reads, and values below which it could call a network collapsed; the second of each
is that of ``ssltool``."""

MONITORED_IMAGES = 4000
"""Question 5 takes runs with at least so many images: the monitor of others has too few for its accuracy."""

ENOUGH = 10
"""Falls of the accuracy from which the question counts as answered."""


def question(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Falls of the measures, and thresholds, against falls of the accuracy, in runs of SimSiam that are complete or
    diverged and start from the beginning."""
    ended = rows.groupby("run")["epoch"].transform("max") == rows["epochs"]
    if "diverged" in rows:
        ended |= rows.groupby("run")["diverged"].transform("count") > 0
    whole = ended & rows["parent"].isna() & (rows["method"] == "simsiam") & (rows["images"] >= MONITORED_IMAGES)
    runs = [run for _, run in rows[whole & (rows["epoch"] > 0)].groupby("run")]
    if not runs:
        return
    steps = int(rows["steps_per_epoch"].iloc[0])
    accuracy = [first_fall(run["m_knn"].dropna(), ACCURACY) for run in runs]
    fell = sum(one is not None for one in accuracy)
    answered = {"runs": len(runs), "falls of the accuracy": fell, "needed": ENOUGH, "answered": fell >= ENOUGH}
    yield "Whether it can be answered", pd.DataFrame([answered])
    table = [{"measure": name, **lead([fall(run, name) for run in runs], accuracy, steps)} for name in FALLS]
    table.append({"measure": "the verdict on the layers", **lead([verdict(run) for run in runs], accuracy, steps)})
    yield "Falls, and by how many steps they precede that of the accuracy", pd.DataFrame(table)
    yield "The step of each fall, in runs that have one", steps_of_falls(runs, accuracy, steps)
    found: list[Row] = []
    for name, (value, limits) in THRESHOLDS.items():
        for limit in limits:
            below = [onset(values < limit) if (values := known(run, value)) is not None else -1 for run in runs]
            found.append({"measure": name, "below": limit, **lead(below, accuracy, steps)})
    yield "Thresholds", pd.DataFrame(found)


def steps_of_falls(runs: list[pd.DataFrame], accuracy: list[int | None], steps: int) -> pd.DataFrame:
    """The number of steps after which the accuracy, each measure and the verdict fell, a row for each run in which one
    of them did."""
    table = []
    for run, fell in zip(runs, accuracy, strict=True):
        falls = {"accuracy": fell, **{name: fall(run, name) for name in FALLS}, "verdict": verdict(run)}
        epochs = {name: None if epoch in (None, -1) else (epoch + 1) * steps for name, epoch in falls.items()}
        table.append({"run": run["run"].iloc[0], **epochs})
    found = pd.DataFrame(table).astype({name: "Int64" for name in table[0] if name != "run"})
    return found.dropna(how="all", subset=[name for name in found if name != "run"])


def lead(signs: list[int | None], accuracy: list[int | None], steps: int) -> Row:
    """How often the epochs of ``signs`` precede those of the accuracy's falls, and by how many steps. None is no fall,
    -1 a run whose monitor lacks the measure."""
    pairs = [(sign, fall) for sign, fall in zip(signs, accuracy, strict=True) if sign != -1]
    before = [(fall - sign) * steps for sign, fall in pairs if sign is not None and fall is not None and sign < fall]
    row: Row = {"runs": len(pairs), "falls": sum(sign is not None for sign, _ in pairs)}
    row |= {"accuracy falls": sum(fall is not None for _, fall in pairs), "before it": len(before)}
    row["alone"] = sum(sign is not None and fall is None for sign, fall in pairs)
    if before:
        row["lead in steps"] = bootstrap(pd.DataFrame({"lead": before}), lambda r: float(r["lead"].median()))
    return row


def fall(run: pd.DataFrame, name: str) -> int | None:
    """The epoch, from 0, at which a measure of ``FALLS`` falls; -1 if the monitor lacks it."""
    column, size, is_ratio = FALLS[name]
    if column not in run or run[column].isna().any():
        return -1
    values = np.log(run[column].clip(lower=1e-12)) if is_ratio else -run[column]
    return first_fall(values, -np.log(1 - size) if is_ratio else size)


def verdict(run: pd.DataFrame) -> int | None:
    """The epoch from which the verdict is not healthy; -1 if the monitor lacks it. That of outputs that are not finite
    is none, and is not healthy."""
    if "m_verdict" not in run or run["m_verdict"].isna().all():
        return -1
    return onset(run["m_verdict"] != "healthy")


def known(run: pd.DataFrame, value: Callable[[pd.DataFrame], pd.Series]) -> pd.Series | None:
    """A value of all epochs of a run; None if its monitor lacks it."""
    filled = run.assign(d=run["d"].bfill().ffill()) if "d" in run else run
    try:
        values = value(filled)
    except KeyError:
        return None
    return None if values.isna().any() else values


def onset(signs: pd.Series) -> int | None:
    """The first place from which all signs are true; None if there is none."""
    return first_fall(1.0 - signs.to_numpy(dtype=float), 0.5) if not signs.all() else 0
