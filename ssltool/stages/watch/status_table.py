"""The runs as rows of a table for the terminal."""

from __future__ import annotations

import time
from typing import Any

from ssltool.errors import duration
from ssltool.settings import Record
from ssltool.viz.page import SIGNS

HEADER = ("run", "state", "at", "loss", "lr", "images/s", "left", "auc", "rank", "dead", "knn", "verdict")


def rows_of(contents: Record, now: float | None = None) -> list[list[Any]]:
    """A row for each run, with the columns of ``HEADER``; ``contents`` are those of a ``RunIndex``."""
    now = time.time() if now is None else now
    return [_row(run, now) for run in contents["runs"]]


def _row(run: Record, now: float) -> list[Any]:
    values, layer = run["values"], run["layer"]
    within = run.get("within", 0.0)
    at = "-" if run["at"] is None else f"{run['at'] + within:.2f}" if within else f"{run['at']:.0f}"
    loss = "not finite" if run["diverged"] else values.get("loss")
    rate = values.get("images_per_second")
    verdict = run["verdict"]
    return [
        run["name"],
        run["state"],
        f"{at}/{run['of']:.0f}" if run["of"] is not None else at,
        loss,
        values.get("lr"),
        None if rate is None else round(rate),
        None if run["ends"] is None else duration(max(0.0, run["ends"] - now)),
        *(values.get(f"{layer}_{name}") for name in ("auc", "effective_rank", "dead_directions", "knn")),
        None if verdict is None else f"{SIGNS[verdict]} {verdict}" + (f" ({run['kinds']})" if run["kinds"] else ""),
    ]
