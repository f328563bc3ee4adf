"""Accuracies with confidence intervals, per class, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssltool.settings import Record


def wilson(correct: int, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, ``correct`` of ``count`` > 0 (Wilson 1927).

    Within [0, 1], and accurate also for proportions near 0 or 1 and for small counts.
    """
    from scipy import stats  # slow to import

    interval = stats.binomtest(correct, count).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def accuracy_with_interval(correct: int, count: int) -> Record:
    """The accuracy and its 95 % confidence interval."""
    return {"accuracy": correct / count, "interval": list(wilson(correct, count))}


def per_class_accuracy(
    predicted: Tensor, truth: Tensor, bank: Tensor, name: Callable[[int], str] = str
) -> list[Record]:
    """For each class among the true labels ``truth`` (N,) of the queries, in ascending order: its name ``class``, its
    number ``label``, ``accuracy``, ``interval``, and the numbers of its rows among the ``queries`` and in the
    ``bank``. ``name`` gives the name of a number."""
    found = []
    for label in truth.unique().tolist():
        of_class = truth == label
        count, correct = int(of_class.sum()), int((predicted[of_class] == label).sum())
        rows = {"queries": count, "bank": int((bank == label).sum())}
        found.append({"class": name(label), "label": label} | accuracy_with_interval(correct, count) | rows)
    return found


def confusion_matrix(predicted: Tensor, truth: Tensor, name: Callable[[int], str] = str) -> Record:
    """``labels``, all that occur, in ascending order, their names ``classes``, and ``counts``, a row for each true
    label and a column for each predicted one. ``name`` gives the name of a number."""
    labels, classes = torch.cat([truth, predicted]).unique(return_inverse=True)
    true, guessed = classes.view(2, -1)
    counts = torch.bincount(true * len(labels) + guessed, minlength=len(labels) ** 2).view(len(labels), -1)
    return {"labels": labels.tolist(), "classes": list(map(name, labels.tolist())), "counts": counts.tolist()}
