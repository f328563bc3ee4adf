"""How many queries are classified rightly: of all, of each class, and how sure that is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def wilson(correct: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, ``correct`` of ``count`` > 0 (Wilson 1927).

    Within [0, 1], and accurate also for proportions near 0 or 1 and for small counts.
    """
    from scipy import stats  # slow to import

    interval = stats.binomtest(correct, count).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def share(correct: int, count: int) -> dict[str, Any]:
    """A share and its interval."""
    return {"accuracy": correct / count, "interval": list(wilson(correct, count))}


def of_classes(predicted: Tensor, truth: Tensor, bank: Tensor) -> list[dict[str, Any]]:
    """For each class among the queries' labels ``truth`` (N,), the smallest first: ``class``, ``accuracy`` and
    ``interval``, ``queries`` and ``bank``, how many rows it has in both."""
    found = []
    for label in truth.unique().tolist():
        mine = truth == label
        count = int(mine.sum())
        right = int((predicted[mine] == label).sum())
        found.append({"class": label} | share(right, count) | {"queries": count, "bank": int((bank == label).sum())})
    return found


def confusion(predicted: Tensor, truth: Tensor) -> dict[str, Any]:
    """``labels``, all that occur, the smallest first, and ``counts``: a row for each true label, a column for each
    predicted one."""
    labels, places = torch.cat([truth, predicted]).unique(return_inverse=True)
    true, guess = places.view(2, -1)
    counts = torch.bincount(true * len(labels) + guess, minlength=len(labels) ** 2).view(len(labels), -1)
    return {"labels": labels.tolist(), "counts": counts.tolist()}
