"""How many queries are classified rightly: of all, of each class, and how sure that is."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

Z = 1.959963984540054
"""The normal distribution's 97.5 % point."""


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of which ``right`` of ``count`` > 0 have been seen (Wilson 1927). It stays within
    0 and 1, and holds its level where the share is near one of them, or the count is small."""
    share, z = right / count, Z**2 / count
    middle = (share + z / 2) / (1 + z)
    reach = math.sqrt(share * (1 - share) * z + z * z / 4) / (1 + z)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def share(right: int, count: int) -> dict[str, Any]:
    """A share and its interval."""
    return {"accuracy": right / count, "interval": list(wilson(right, count))}


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
